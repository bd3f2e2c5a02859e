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
                assert!(!text.contains(edge), "{function}/{file} names {edge}");
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
