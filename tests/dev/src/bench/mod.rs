//! `dev bench`: what the functions cost beside the least that a component can do. Machines are shared and noisy, so
//! that only ratios count, of rounds that take turns: never a figure of one run beside that of another.
//!
//! - [`http`]: requests, beside a hello world
//! - [`images`]: bodies, beside an echo, nginx and sed
//! - [`stream`]: events of a stream, beside a plain handler of messages
//! - [`rewards`]: cards given for registrations, beside one bare statement, and the audit of many
//! - [`application`]: what runs
//! - [`event`]: what it is sent
//! - [`report`]: what is told

mod application;
mod event;
mod http;
mod images;
mod report;
mod rewards;
mod stream;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use harness::runtime::Kind;
use harness::workspace_root;

use crate::manifest::Manifest;
use crate::setup;
use crate::supervise::Interrupt;

const PROBE: &str = "tests/probe/spin.toml";
/// Of a runtime that nobody but us can reach, for as long as it is measured.
const TOKEN: &str = "a-benchmark";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long is measured, and how.
#[derive(Args)]
pub(crate) struct Settings {
    /// The only part to measure
    #[arg(env = "BENCH_ONLY")]
    only: Option<Part>,
    /// auto (Spin where it is on the PATH), spin or host
    #[arg(long, env, default_value = "auto")]
    runtime: String,
    /// HTTP: how many seconds a round takes
    #[arg(long, env = "BENCH_SECONDS", default_value_t = 3, value_parser = at_least_one())]
    seconds: u32,
    /// How many rounds each case and its baseline take, in turns
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 5, value_parser = at_least_one())]
    rounds: u32,
    /// HTTP: how many clients send single requests at the same time
    #[arg(long, env = "BENCH_CLIENTS", default_value_t = 32, value_parser = at_least_one())]
    clients: u32,
    /// Stream: how many messages the plain handler is sent
    #[arg(long, env = "BENCH_MESSAGES", default_value_t = 1_500, value_parser = at_least_one())]
    messages: u32,
    /// Stream: how many entries are drained to the outbox
    #[arg(long, env = "BENCH_DRAINED", default_value_t = 20_000, value_parser = at_least_one())]
    drained: u32,
    /// Stream: how many entries are delivered to the gateway
    #[arg(long, env = "BENCH_DELIVERED", default_value_t = 5_000, value_parser = at_least_one())]
    delivered: u32,
    /// Rewards: how many registrations are audited
    #[arg(long, env = "BENCH_REGISTRATIONS", default_value_t = 1_000_000, value_parser = at_least_one())]
    registrations: u32,
}

/// What can be measured by itself.
#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Requests, beside a hello world
    Http,
    /// Bodies that are rewritten, beside an echo
    Images,
    /// Events of a Redis stream, beside a plain handler of Redis messages
    Stream,
    /// Cards given for registrations, beside one bare statement, and the audit of many
    Rewards,
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..)
}

/// Builds what is measured, measures it, and tells the figures.
pub(crate) async fn run(settings: Settings) -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    tokio::select! {
        outcome = bench(&settings) => outcome,
        // What was started ends as it is dropped.
        () = interrupt.recv() => bail!("interrupted"),
    }
}

async fn bench(settings: &Settings) -> Result<()> {
    let kind = Kind::choose(&settings.runtime)?;
    let parts = settings.only.map_or_else(|| Part::value_variants().to_vec(), |part| vec![part]);
    set_up(kind, &parts).await?;
    for part in parts {
        match part {
            Part::Http => http::bench(kind, settings).await?,
            Part::Images => images::bench(kind, settings).await?,
            Part::Stream => stream::bench(kind, settings).await?,
            Part::Rewards => rewards::bench(kind, settings).await?,
        }
    }
    Ok(())
}

async fn set_up(kind: Kind, parts: &[Part]) -> Result<()> {
    for part in parts {
        match part {
            Part::Http | Part::Rewards => setup::wrk().await?,
            Part::Images => {
                setup::nginx().await?;
                setup::wrk().await?;
            }
            Part::Stream => setup::redis_server().await?,
        }
    }
    setup::target().await?;
    // One after the other: what ships is not to be built with features that only the probe asks for.
    for manifest in ["spin.toml", PROBE] {
        let manifest = Manifest::read(&workspace_root().join(manifest))?;
        setup::build_components(&manifest.packages()).await?;
    }
    if kind == Kind::Host {
        setup::build_host().await?;
    }
    Ok(())
}
