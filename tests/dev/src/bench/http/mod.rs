//! What a request costs, beside a hello world in the same process.
//!
//! - [`push`], [`images`], [`pharmacy`]: what is measured, one file each, with its cases
//! - [`wrk`]: what loads it

pub(crate) mod images;
mod pharmacy;
mod push;
pub(crate) mod wrk;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use harness::runtime::Kind;
use harness::{Runtime, http_client};
use serde_json::{Value, json};

use super::report::{Report, Spread, rounded, thousands};
use super::{ANSWER_TIMEOUT, Settings, TOKEN, application};
use wrk::{Sample, Wrk};

/// What runs: no Redis triggers, and so no Redis.
const COMPONENTS: [&str; 4] = ["push", "pharmacy", "images", "probe"];

/// A request that is sent again and again; with a body it is a `POST`.
#[derive(Clone)]
pub(crate) struct Request {
    path: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Option<String>,
    /// Where it says `{n}`, each request has a number of its own, past this one.
    numbered_from: Option<u64>,
}

impl Request {
    fn get(path: &'static str) -> Self {
        Self { path, headers: Vec::new(), body: None, numbered_from: None }
    }

    /// By a service.
    pub(crate) fn post(path: &'static str, content_type: &str, body: String) -> Self {
        let headers = vec![("authorization", format!("Bearer {TOKEN}")), ("content-type", content_type.to_owned())];
        Self { path, headers, body: Some(body), numbered_from: None }
    }

    /// Where it is sent.
    pub(crate) const fn path(&self) -> &'static str {
        self.path
    }

    /// The same; where it is numbered, past all numbers of earlier runs, which begin a millisecond apart at least.
    pub(crate) fn renumbered(&self) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let number = u64::try_from(since.as_millis()).unwrap_or_default() * 1_000;
        Self { numbered_from: self.numbered_from.map(|_| number), ..self.clone() }
    }

    /// Numbered past `number`.
    pub(crate) fn numbered_from(self, number: u64) -> Self {
        Self { numbered_from: Some(number), ..self }
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
struct Round {
    baseline: Sample,
    case: Sample,
}

/// The least that a component can do.
pub(crate) fn baseline() -> Request {
    Request::get("/probe/hello")
}

/// Measures every case, and tells the figures.
pub(crate) async fn bench(kind: Kind, settings: &Settings) -> Result<()> {
    let mut cases = push::cases(settings.clients)?;
    cases.extend(images::cases(settings.clients));
    let folder = tempfile::tempdir()?;
    let runtime = application::builder(folder.path(), kind, &COMPONENTS)?.start().await?;
    let wrk = Wrk::new()?;
    let mut report = Report::new("http", kind, settings);
    println!(
        "\n{}, which wrk shares (wrk CPU: of one core).\n\
         Medians of {} rounds of {} s, in turns with /probe/hello. Ratios are round by round: median (min..max);\n\
         per second more is better, of p50 and p99 less.",
        report.machine(),
        settings.rounds,
        settings.seconds,
    );
    for case in &cases {
        let rounds = measure(case, settings, &runtime, &wrk).await.with_context(|| case.name)?;
        report.add(tell(case, &rounds));
    }
    let mut of_pharmacy = Vec::new();
    for group in pharmacy::groups(settings.clients) {
        group.prepare(&runtime).await?;
        for case in &group.cases {
            let rounds = measure(case, settings, &runtime, &wrk).await.with_context(|| case.name)?;
            report.add(tell(case, &rounds));
            of_pharmacy.push((case.name, rounds));
        }
    }
    let mut parameters = vec![("seconds_per_round", settings.seconds.into())];
    if let Some(shares) = pharmacy::Shares::of(&of_pharmacy) {
        shares.tell();
        parameters.push(("pharmacy_order", shares.json()));
    }
    report.print_figures(&parameters)
}

async fn measure(case: &Case, settings: &Settings, runtime: &Runtime, wrk: &Wrk) -> Result<Vec<Round>> {
    let baseline = baseline();
    let hello = answer(runtime, &baseline).await?;
    ensure!(hello == "Hello, world!", "the baseline answered {hello:?}");
    (case.check)(&answer(runtime, &case.request).await?).context("the answer is not right")?;

    let sample = async |request: &Request| {
        let url = runtime.url(request.path);
        wrk.run(&url, &request.renumbered(), case.clients, settings.seconds).await
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

/// The text that a request is answered with 2xx.
pub(crate) async fn answer(runtime: &Runtime, request: &Request) -> Result<String> {
    let client = http_client(ANSWER_TIMEOUT);
    let url = runtime.url(request.path);
    let mut sending = match &request.body {
        None => client.get(&url),
        Some(body) => client.post(&url).body(body.replace("{n}", "0")),
    };
    for (name, value) in &request.headers {
        sending = sending.header(*name, value);
    }
    let answer = sending.send().await.with_context(|| format!("{url} does not answer"))?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status.is_success(), "{url} answered {status}: {text}");
    Ok(text)
}

/// Prints a case's part of the table, and returns its figures.
fn tell(case: &Case, rounds: &[Round]) -> Value {
    let units = case.units_per_request as f64;
    let units_per_s = |sample: &Sample| sample.requests_per_s * units;
    let ratio = |of: fn(&Sample) -> f64| Spread::of(rounds.iter().map(|round| of(&round.case) / of(&round.baseline)));
    let rate = Spread::of(rounds.iter().map(|round| units_per_s(&round.case) / round.baseline.requests_per_s));
    let (p50, p99) = (ratio(|sample| sample.p50_ms), ratio(|sample| sample.p99_ms));

    let baselines = || rounds.iter().map(|round| &round.baseline);
    let cases = || rounds.iter().map(|round| &round.case);
    let clients = match case.clients {
        1 => "1 client".to_owned(),
        clients => format!("{clients} clients"),
    };
    println!("\n{clients:<26} {:>19} {:>19} {:>19} {:>9}", "per second", "p50 ms", "p99 ms", "wrk CPU");
    print_row("hello", "requests", &Spread::of(baselines().map(|sample| sample.requests_per_s)), baselines());
    print_row(case.name, case.unit, &Spread::of(cases().map(units_per_s)), cases());
    println!("{:<26} {:>19} {:>19} {:>19}", "ratio", rate.to_string(), p50.to_string(), p99.to_string());

    json!({
        "name": case.name,
        "clients": case.clients,
        "unit": case.unit,
        "units_per_request": case.units_per_request,
        "ratio": {"per_s": rate.json(), "p50": p50.json(), "p99": p99.json()},
        "hello": baselines().map(sample_json).collect::<Vec<_>>(),
        "case": cases().map(sample_json).collect::<Vec<_>>(),
    })
}

fn print_row<'a>(name: &str, unit: &str, per_s: &Spread, samples: impl Iterator<Item = &'a Sample> + Clone) {
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.clone().map(of)).median;
    println!(
        "{name:<26} {:>19} {:>19.2} {:>19.2} {:>8.0}%",
        format!("{} {unit}", thousands(per_s.median)),
        median(|sample| sample.p50_ms),
        median(|sample| sample.p99_ms),
        median(|sample| sample.wrk_cores) * 100.0,
    );
}

fn sample_json(sample: &Sample) -> Value {
    json!({
        "requests_per_s": rounded(sample.requests_per_s),
        "p50_ms": sample.p50_ms,
        "p99_ms": sample.p99_ms,
        "wrk_cores": rounded(sample.wrk_cores),
    })
}
