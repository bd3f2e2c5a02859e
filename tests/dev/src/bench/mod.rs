//! `dev bench`: what the functions cost beside a hello-world component in the same process. Machines are shared and
//! noisy, so that only ratios count, of rounds that take turns: never a figure of one run beside that of another.
//!
//! - [`push`]: and so on, what is measured: one file each, with its cases
//! - [`application`]: what runs
//! - [`wrk`]: what loads it
//! - [`report`]: what is told

mod application;
mod push;
mod report;
mod wrk;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use harness::runtime::Kind;
use harness::{Runtime, http_client, workspace_root};
use reqwest::StatusCode;

use crate::manifest::Manifest;
use crate::setup;
use crate::supervise::Interrupt;
use report::Report;
use wrk::{Sample, Wrk};

const PROBE: &str = "tests/probe/spin.toml";
/// What answers HTTP in the benchmark.
const COMPONENTS: [&str; 2] = ["push", "probe"];
/// Of a runtime that nobody but us can reach, for as long as it is measured.
const TOKEN: &str = "a-benchmark";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long is measured, and how.
#[derive(Args)]
pub(crate) struct Settings {
    /// auto (Spin where it is on the PATH), spin or host
    #[arg(long, env, default_value = "auto")]
    runtime: String,
    /// How many seconds a round takes
    #[arg(long, env = "BENCH_SECONDS", default_value_t = 3, value_parser = at_least_one())]
    seconds: u32,
    /// How many rounds each case and its baseline take, in turns
    #[arg(long, env = "BENCH_ROUNDS", default_value_t = 5, value_parser = at_least_one())]
    rounds: u32,
    /// How many clients send single requests at the same time
    #[arg(long, env = "BENCH_CLIENTS", default_value_t = 32, value_parser = at_least_one())]
    clients: u32,
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..)
}

/// A request that is sent again and again; with a body it is a `POST`.
pub(crate) struct Request {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
}

impl Request {
    fn get(path: &'static str) -> Self {
        Self { path, headers: Vec::new(), body: None }
    }

    /// By a service.
    fn post(path: &'static str, content_type: &str, body: String) -> Self {
        let headers = vec![("authorization", format!("Bearer {TOKEN}")), ("content-type", content_type.to_owned())];
        Self { path, headers, body: Some(body) }
    }
}

/// What is measured, against the baseline with as many clients.
pub(crate) struct Case {
    name: &'static str,
    request: Request,
    clients: u32,
    /// What is counted: requests, or something that a request has many of.
    unit: &'static str,
    units_per_request: u64,
    /// Whether an answer is right: what fails fast is not fast.
    check: fn(&str) -> Result<()>,
}

/// A round of the baseline and a round of the case, one right after the other.
#[derive(Clone, Copy)]
pub(crate) struct Round {
    baseline: Sample,
    case: Sample,
}

/// The least that a component can do.
fn baseline() -> Request {
    Request::get("/probe/hello")
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
    let cases = push::cases(settings.clients)?;
    set_up(kind).await?;

    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("spin.toml");
    std::fs::write(&manifest, application::manifest()?)?;
    let runtime = COMPONENTS
        .into_iter()
        .fold(Runtime::builder(manifest).kind(kind), |builder, component| builder.component(component))
        .variables([("api_token", TOKEN), ("admin_token", TOKEN), ("token", TOKEN)])
        .start()
        .await?;

    let wrk = Wrk::new()?;
    let mut report = Report::new(kind, settings);
    report.print_head();
    for case in &cases {
        let rounds = measure(case, settings, &runtime, &wrk).await.with_context(|| case.name)?;
        report.add(case, &rounds);
    }
    report.print_figures()
}

async fn set_up(kind: Kind) -> Result<()> {
    setup::wrk().await?;
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

async fn measure(case: &Case, settings: &Settings, runtime: &Runtime, wrk: &Wrk) -> Result<Vec<Round>> {
    let baseline = baseline();
    let hello = answer(runtime, &baseline).await?;
    ensure!(hello == "Hello, world!", "the baseline answered {hello:?}");
    (case.check)(&answer(runtime, &case.request).await?).context("the answer is not right")?;

    let sample = async |request: &Request| {
        let url = runtime.url(request.path);
        wrk.run(&url, request, case.clients, settings.seconds).await
    };
    // To warm up.
    sample(&baseline).await?;
    sample(&case.request).await?;
    let mut rounds = Vec::new();
    for number in 0..settings.rounds {
        // Who goes first changes, so that a machine that slows down or speeds up favours neither.
        let round = if number % 2 == 0 {
            let baseline = sample(&baseline).await?;
            Round { baseline, case: sample(&case.request).await? }
        } else {
            let case = sample(&case.request).await?;
            Round { case, baseline: sample(&baseline).await? }
        };
        rounds.push(round);
    }
    Ok(rounds)
}

/// The text that a request is answered with 200.
async fn answer(runtime: &Runtime, request: &Request) -> Result<String> {
    let client = http_client(ANSWER_TIMEOUT);
    let url = runtime.url(request.path);
    let mut sending = match &request.body {
        None => client.get(&url),
        Some(body) => client.post(&url).body(body.clone()),
    };
    for (name, value) in &request.headers {
        sending = sending.header(*name, value);
    }
    let answer = sending.send().await.with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status == StatusCode::OK, "{url} answered {status}: {text}");
    Ok(text)
}
