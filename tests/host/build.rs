//! Writes the bindings' source: `bindgen!` needs the paths of WIT files as literals, and the files are those
//! inside the `spin-sdk` crate that the components are built with, so that no copy of them can fall behind.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::MetadataCommand;

/// The interfaces that the host implements, by their folders in the SDK.
const INTERFACES: [&str; 3] = ["spin-sqlite@3.1.0", "spin-redis@3.0.0", "spin-variables@3.0.0"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");

    let wit = sdk_folder()?.join("wit/deps");
    let mut paths = Vec::new();
    for interface in INTERFACES {
        let path = wit.join(interface);
        if !path.is_dir() {
            return Err(format!("spin-sdk has no {}: the host and the SDK must move together", path.display()).into());
        }
        paths.push(path);
    }

    let out = PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs");
    fs::write(out, bindings(&paths))?;
    Ok(())
}

fn sdk_folder() -> Result<PathBuf, Box<dyn Error>> {
    // Offline first: a build must not need the network when the crate is there already.
    let offline = ["--offline", "--filter-platform", "wasm32-wasip2"];
    let metadata = MetadataCommand::new()
        .other_options(offline.map(String::from))
        .exec()
        .or_else(|_| MetadataCommand::new().exec())?;
    let sdk = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "spin-sdk")
        .ok_or("the workspace does not depend on spin-sdk")?;
    let folder = sdk.manifest_path.parent().ok_or("a manifest has a folder")?;
    Ok(folder.into())
}

fn bindings(paths: &[PathBuf]) -> String {
    let literal = |path: &PathBuf| format!("{:?}", Path::new(path).display().to_string());
    let paths = paths.iter().map(literal).collect::<Vec<_>>().join(", ");
    format!(
        r#"wasmtime::component::bindgen!({{
    path: [{paths}],
    inline: "
        package clinic:host;
        world subscriber {{
            import spin:sqlite/sqlite@3.1.0;
            import spin:redis/redis@3.0.0;
            import spin:variables/variables@3.0.0;
            export spin:redis/inbound-redis@3.0.0;
        }}
    ",
    world: "clinic:host/subscriber",
    imports: {{ default: async | trappable }},
    exports: {{ default: async }},
    with: {{
        "spin:sqlite/sqlite.connection": crate::sqlite::Connection,
        "spin:redis/redis.connection": crate::redis::Connection,
    }},
    trappable_error_type: {{
        "spin:sqlite/sqlite.error" => crate::sqlite::Failure,
        "spin:redis/redis.error" => crate::redis::Failure,
        "spin:variables/variables.error" => crate::variables::Failure,
    }},
}});
"#
    )
}
