//! The application and the probe as one application, so that both are measured in the same process.

use std::path::Path;

use anyhow::{Context, Result};
use harness::runtime::{Builder, Kind};
use harness::{Runtime, workspace_root};
use toml::{Table, Value};

use super::TOKEN;

/// How these of the components are started; `folder` is where the manifest is to lie.
pub(crate) fn builder(folder: &Path, kind: Kind, components: &[&str]) -> Result<Builder> {
    let file = folder.join("spin.toml");
    std::fs::write(&file, manifest()?)?;
    let builder = Runtime::builder(file).kind(kind);
    let builder = builder.variables([("api_token", TOKEN), ("admin_token", TOKEN), ("token", TOKEN)]);
    Ok(components.iter().fold(builder, |builder, component| builder.component(*component)))
}

/// `spin.toml` and the probe's beside each other, with absolute paths, as the text of a manifest that may lie anywhere.
fn manifest() -> Result<String> {
    let application = read(&workspace_root().join("spin.toml"))?;
    let probe = read(&workspace_root().join("tests/probe/spin.toml"))?;
    Ok(merge(application, probe).to_string())
}

fn read(file: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut manifest: Table = text.parse().with_context(|| format!("cannot read {}", file.display()))?;
    let folder = file.parent().context("a file lies in a folder")?;
    let components = manifest.get_mut("component").and_then(Value::as_table_mut);
    for (_, component) in components.into_iter().flatten() {
        if let Some(Value::String(source)) = component.get_mut("source") {
            *source = folder.join(&*source).display().to_string();
        }
    }
    Ok(manifest)
}

/// Tables are united and arrays joined; of other values the first manifest's stay.
fn merge(mut first: Table, second: Table) -> Table {
    for (name, theirs) in second {
        let merged = match (first.remove(&name), theirs) {
            (None, theirs) => theirs,
            (Some(Value::Table(ours)), Value::Table(theirs)) => Value::Table(merge(ours, theirs)),
            (Some(Value::Array(ours)), Value::Array(theirs)) => Value::Array([ours, theirs].concat()),
            (Some(ours), _) => ours,
        };
        first.insert(name, merged);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_stand_in_one_manifest_with_what_they_are_granted() {
        let manifest: Table = manifest().unwrap().parse().unwrap();
        assert_eq!(manifest["application"]["name"].as_str(), Some("clinic-functions"));
        let triggers = manifest["trigger"]["http"].as_array().unwrap();
        for (route, id) in [("/push/...", "push"), ("/probe/...", "probe")] {
            assert!(triggers.iter().any(|trigger| trigger["route"].as_str() == Some(route)));
            let source = manifest["component"][id]["source"].as_str().unwrap();
            assert!(Path::new(source).is_absolute() && source.ends_with(&format!("{id}.wasm")));
        }
        assert_eq!(manifest["component"]["probe"]["variables"]["greeting"].as_str(), Some("{{ greeting }}"));
        assert!(manifest["variables"]["greeting"].is_table());
        assert!(manifest["variables"]["api_token"].is_table());
    }
}
