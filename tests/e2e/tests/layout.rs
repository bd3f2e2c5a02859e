//! The dependency rule: `lib.rs → routes → domain`, `routes → store`. A domain module knows neither the SDK nor HTTP nor
//! the store, and no function knows another.

use std::{fs, path::Path};

use anyhow::Result;
use harness::workspace_root;

const FUNCTIONS: [&str; 4] = ["push", "pharmacy", "images", "rewards"];

/// What may touch the runtime: triggers, HTTP, configuration, delivery and SQL, and the test of all that. All others
/// are domain modules. A folder stands for all that is in it.
const EDGE: [&str; 13] = [
    "lib.rs",
    "routes",
    "routes.rs",
    "redis.rs",
    "config.rs",
    "intake.rs",
    "rewards.rs",
    "audit.rs",
    "submission.rs",
    "drain.rs",
    "store",
    "store.rs",
    "simulation.rs",
];

/// The files in a function's `src`, each by its path there, with its text.
fn sources(src: &Path) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push((path.strip_prefix(src)?.display().to_string(), fs::read_to_string(&path)?));
            }
        }
    }
    Ok(files)
}

/// What stands before the file's own tests, which may use what the module may not.
fn without_tests(text: &str) -> &str {
    let starts = ["mod tests {", "pub(crate) mod tests {"].map(|tests| text.find(&format!("#[cfg(test)]\n{tests}")));
    &text[..starts.into_iter().flatten().min().unwrap_or(text.len())]
}

/// All paths that a text imports, whole: `use shared::{db::{Db, Row}, id};` has `shared::db::Db`, `shared::db::Row` and
/// `shared::id`.
fn imports(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let code = lines.collect::<Vec<_>>().join(" ");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        // A word of its own, and not the end of `because`.
        let stands_alone =
            code[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        if let (true, Some((tree, _))) = (stands_alone, code[at + "use ".len()..].split_once(';')) {
            flatten("", tree, &mut paths);
        }
    }
    paths
}

/// Adds the paths of one tree of a `use`, each after what leads to it.
fn flatten(leading: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, group)) = tree.split_once('{') else {
        if !tree.is_empty() {
            paths.push(format!("{leading}{tree}"));
        }
        return;
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let (mut depth, mut from) = (0, 0);
    for (at, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&format!("{leading}{}", head.trim()), &group[from..at], paths);
                from = at + 1;
            }
            _ => {}
        }
    }
}

/// Whether a text names what lies at the edge: written out, or in an import.
fn names(text: &str, edge: &str) -> bool {
    text.contains(edge) || imports(text).iter().any(|path| path.starts_with(edge))
}

#[test]
fn what_is_imported_in_a_group_is_seen() {
    let text = "use a::{\n    b::{c, d as e},\n    // why\n    f::{self},\n};\n/// They use no; g::{h}.\npub(crate) use super::i;\n";
    assert_eq!(imports(text), ["a::b::c", "a::b::d as e", "a::f::self", "super::i"]);
    assert!(names("use shared::{\n    clock,\n    db::{Db, DbError},\n};", "shared::db"));
    assert!(names("let rows = shared::db::Row::default();", "shared::db"));
    assert!(!names("use shared::{clock, id::Id};", "shared::db"));
    let intake = workspace_root().join("functions/push/src/intake.rs");
    assert!(names(&fs::read_to_string(intake).unwrap(), "shared::db"));
}

#[test]
fn domain_modules_know_neither_the_runtime_nor_the_store() -> Result<()> {
    let mut seen = 0;
    for function in FUNCTIONS {
        for (file, text) in sources(&workspace_root().join("functions").join(function).join("src"))? {
            if EDGE.contains(&file.split('/').next().unwrap()) {
                continue;
            }
            seen += 1;
            for edge in
                ["spin_sdk", "axum", "shared::db", "shared::gateway", "crate::store", "crate::routes", "crate::config"]
            {
                assert!(!names(without_tests(&text), edge), "{function}/{file} names {edge}");
            }
        }
    }
    assert!(seen >= 8, "{seen}");
    Ok(())
}

#[test]
fn no_function_knows_another_and_shared_knows_none() -> Result<()> {
    let members = FUNCTIONS.map(|function| format!("functions/{function}"));
    for member in members.iter().map(String::as_str).chain(["shared"]) {
        let manifest = fs::read_to_string(workspace_root().join(member).join("Cargo.toml"))?;
        let dependencies = manifest.split_once("[dependencies]").unwrap().1;
        for function in FUNCTIONS {
            assert!(!dependencies.lines().any(|line| line.starts_with(function)), "{member} depends on {function}");
        }
    }
    Ok(())
}
