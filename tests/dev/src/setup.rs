//! What must be installed and built before the application can run, on a machine that has little more than Rust.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context, Result, bail};
use harness::process::{Group, on_path};
use harness::workspace_root;
use tokio::process::Command;

const TARGET: &str = "wasm32-wasip2";

/// Adds the compiler's target for components, if it is missing.
pub(crate) async fn target() -> Result<()> {
    if has_target().await? {
        return Ok(());
    }
    if on_path("rustup").is_none() {
        bail!("the Rust target {TARGET} is missing, and there is no rustup to add it: install it as your Rust came");
    }
    run(Command::new("rustup").args(["target", "add", TARGET])).await
}

/// Asks the compiler, and not rustup: Rust may have come another way, and an answer needs no network.
async fn has_target() -> Result<bool> {
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        // The workspace may choose a toolchain.
        .current_dir(workspace_root())
        .output()
        .await
        .context("cannot run rustc")?;
    let folder = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    Ok(asked.status.success() && folder.is_dir())
}

/// Installs redis-server, if it is missing.
pub(crate) async fn redis_server() -> Result<()> {
    program("redis-server", "redis").await
}

/// Installs wrk, which loads the benchmark, if it is missing.
pub(crate) async fn wrk() -> Result<()> {
    program("wrk", "wrk").await
}

/// Installs nginx, which the benchmark of `images` compares with, if it is missing.
pub(crate) async fn nginx() -> Result<()> {
    program("nginx", "nginx").await
}

/// Installs a program from the Debian package of the same name, if it is missing; `formula` is its name in Homebrew.
async fn program(name: &str, formula: &str) -> Result<()> {
    if on_path(name).is_some() {
        return Ok(());
    }
    let by_hand = format!("install it by hand (macOS: `brew install {formula}`), and run this again");
    if on_path("apt-get").is_none() {
        bail!("{name} is not on the PATH, and there is no apt-get to install it: {by_hand}");
    }
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root && on_path("sudo").is_none() {
        bail!("{name} is not on the PATH, and to install it one must be root or have sudo: {by_hand}");
    }
    let apt_get = |arguments: &[&str]| {
        // `env` on the far side of sudo, which drops what it is given.
        let mut words = vec!["sudo", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
        words.extend(arguments);
        let words = &words[usize::from(is_root)..];
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    };
    // A list may be out of date in part and yet do: the installation decides.
    let updated = run(&mut apt_get(&["update", "-q"])).await;
    let install = ["install", "-q", "-y", "--no-install-recommends", name];
    let installed = run(&mut apt_get(&install)).await.and(updated);
    if on_path(name).is_none() {
        installed.with_context(|| format!("{name} could not be installed: {by_hand}"))?;
        bail!("{name} was installed, but is not on the PATH");
    }
    Ok(())
}

/// Builds the components, as they ship.
pub(crate) async fn build_components(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["build", "--release", "--target", TARGET];
    for package in packages {
        arguments.extend(["-p", package]);
    }
    cargo(&arguments).await
}

/// Builds the stand-in host.
pub(crate) async fn build_host() -> Result<()> {
    // A host that is named is there already.
    if std::env::var_os("CLINIC_HOST").is_some() {
        return Ok(());
    }
    cargo(&["build", "-p", "clinic-host"]).await
}

/// Runs cargo in a process group of its own, so that an interrupt ends its compilers too.
async fn cargo(arguments: &[&str]) -> Result<()> {
    let mut command = std::process::Command::new("cargo");
    command.args(arguments).current_dir(workspace_root());
    // `cargo run` tells us about our own package; a build script that looks at these would run anew.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&*name);
        }
    }
    let line = announce(&command);
    let status = Group::spawn(&mut command)?.wait().await;
    check(&line, status)
}

/// Runs a command to its end, in our process group: it may ask for a password.
async fn run(command: &mut Command) -> Result<()> {
    let line = announce(command.as_std());
    let status = command.kill_on_drop(true).status().await.with_context(|| format!("cannot run `{line}`"))?;
    check(&line, status)
}

fn announce(command: &std::process::Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    let line = words.join(" ");
    println!("$ {line}");
    line
}

fn check(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}
