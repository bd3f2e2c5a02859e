//! What the Makefile runs: the whole application on this machine, an order's life as a demonstration, and the
//! benchmark. Parameters come from the environment; the Makefile has their defaults, except the benchmark's.

mod bench;
mod campaign;
mod demo;
mod doorbell;
mod manifest;
mod messages;
mod settings;
mod setup;
mod supervise;
mod up;
mod welcome;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs the functions on this machine. `make up` and `make demo` set the parameters.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs what is missing, builds, and runs the application until Ctrl-C
    Up(settings::Up),
    /// Plays an order's life through the running application and shows the messages that it sends
    Demo(settings::Demo),
    /// Measures what the functions cost beside the least that a component can do
    Bench(bench::Settings),
    /// Installs what is missing: the compiler's target and redis-server
    Setup,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // For a person at a terminal: what went wrong, without a backtrace.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(settings) => up::run(settings).await,
        Command::Demo(settings) => demo::run(settings).await,
        Command::Bench(settings) => bench::run(settings).await,
        Command::Setup => {
            setup::target().await?;
            setup::redis_server().await
        }
    }
}
