//! What a stream gives, whose events are taken in batches, beside a plain handler of Redis messages, which is called
//! for each one, opens the database and writes a row. Redis has an append-only file, as in production.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::runtime::Kind;
use harness::{Gateway, Redis, Runtime, http_client};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use super::event::Event;
use super::report::{Report, Spread, rounded, thousands};
use super::{ANSWER_TIMEOUT, Settings, TOKEN, application};

/// All that is measured, and so also what hears Redis.
const HEARING: [&str; 4] = ["push", "push-events", "probe", "probe-events"];
/// Where nothing rings: what is added waits for a drain by HTTP.
const HTTP_ALONE: [&str; 1] = ["push"];

/// As in the manifests.
const CHANNEL: &str = "probe";
const STREAM: &str = "orders:stream";
const FIELD: &str = "message";

const SUBSCRIPTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Far longer than a case takes.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// So long a pause means that the handlers have left something behind.
const SILENCE: Duration = Duration::from_secs(1);
/// How many lines of the runtime's output an error shows.
const TAIL_LINES: usize = 10;

/// One case in one round.
#[derive(Clone, Copy)]
struct Sample {
    per_s: f64,
    /// Of the runtime since its start.
    peak_memory_bytes: Option<u64>,
}

/// Each case once, the baseline first.
struct Round {
    plain: Sample,
    to_outbox: Sample,
    to_gateway: Sample,
}

/// Measures every case, and tells the figures.
pub(crate) async fn bench(kind: Kind, settings: &Settings) -> Result<()> {
    let event = Event::read()?;
    let mut report = Report::new("stream", kind, settings);
    println!(
        "\n{}, which Redis and the gateway share.\n\
         Medians of {} rounds. Ratios are to the plain handler, round by round: median (min..max); more is better.",
        report.machine(),
        settings.rounds,
    );
    // To compile the components: that takes memory, and is done once.
    Running::start(kind, &HEARING).await?;
    let mut rounds = Vec::new();
    for number in 0..settings.rounds {
        // Who goes first changes, so that a machine that slows down or speeds up favours neither.
        let round = if number % 2 == 0 {
            let (plain, to_gateway) = hear(kind, settings, &event).await?;
            Round { plain, to_gateway, to_outbox: drain(kind, settings, &event).await? }
        } else {
            let to_outbox = drain(kind, settings, &event).await?;
            let (plain, to_gateway) = hear(kind, settings, &event).await?;
            Round { plain, to_gateway, to_outbox }
        };
        rounds.push(round);
    }
    println!("\n{:<26} {:>19} {:>19} {:>19}", "", "per second", "ratio", "peak memory");
    report.add(tell("plain handler", "messages", settings.messages, &rounds, |round| round.plain));
    report.add(tell("stream → outbox", "entries", settings.drained, &rounds, |round| round.to_outbox));
    report.add(tell("stream → gateway", "entries", settings.delivered, &rounds, |round| round.to_gateway));
    report.print_figures(&[])
}

/// The baseline, and then the whole way from the stream to the gateway, rung by each entry.
async fn hear(kind: Kind, settings: &Settings, event: &Event) -> Result<(Sample, Sample)> {
    let running = Running::start(kind, &HEARING).await?;
    for channel in [CHANNEL, &format!("__keyspace@0__:{STREAM}")] {
        running.redis.wait_for_subscriber(channel, SUBSCRIPTION_TIMEOUT).await?;
    }
    let (messages, delivered) = (settings.messages.into(), settings.delivered.into());
    let plain = async {
        // To warm up, here and below.
        running.sample(1, running.store_rows(1)).await?;
        running.sample(messages, running.store_rows(messages)).await
    };
    let plain = plain.await.context("plain handler")?;
    let to_gateway = async {
        running.sample(1, running.deliver(event, 0, 1)).await?;
        running.sample(delivered, running.deliver(event, 1, delivered)).await
    };
    Ok((plain, to_gateway.await.context("stream → gateway")?))
}

/// From the stream to the outbox, by HTTP alone.
async fn drain(kind: Kind, settings: &Settings, event: &Event) -> Result<Sample> {
    let running = Running::start(kind, &HTTP_ALONE).await?;
    let entries = settings.drained.into();
    let to_outbox = async {
        running.sample(1, running.drain(event, 0, 1)).await?;
        running.sample(entries, running.drain(event, 1, entries)).await
    };
    to_outbox.await.context("stream → outbox")
}

/// A runtime with an empty database, and what it stands on.
struct Running {
    runtime: Runtime,
    gateway: Gateway,
    redis: Redis,
    client: Client,
    _folder: TempDir,
}

impl Running {
    async fn start(kind: Kind, components: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::builder().append_only(true).start().await?;
        let gateway = Gateway::start()?;
        let runtime = application::builder(folder.path(), kind, components)?
            .variable("redis_url", redis.url())
            .variable("push_gateway", gateway.url())
            .variable("push_gateway_secret", gateway.secret())
            .start()
            .await?;
        Ok(Self { runtime, gateway, redis, client: http_client(ANSWER_TIMEOUT), _folder: folder })
    }

    /// How fast `count` of something were done in the time that `done` tells.
    async fn sample(&self, count: u64, done: impl Future<Output = Result<Duration>>) -> Result<Sample> {
        let took = match timeout(PATIENCE, done).await {
            Ok(took) => took?,
            Err(_) => bail!("not done within {PATIENCE:?}; the runtime's last lines:\n{}", self.tail()),
        };
        let peak_memory_bytes = self.runtime.peak_memory_bytes();
        Ok(Sample { per_s: count as f64 / took.as_secs_f64(), peak_memory_bytes })
    }

    /// From the first message published to the last row stored.
    async fn store_rows(&self, count: u64) -> Result<Duration> {
        let all = self.rows().await? + count;
        let started = Instant::now();
        self.redis.publish(CHANNEL, (0..count).map(|number| format!("row {number}"))).await?;
        while self.rows().await? < all {
            sleep(POLL_EVERY).await;
        }
        Ok(started.elapsed())
    }

    async fn rows(&self) -> Result<u64> {
        let answer = self.answer(Method::GET, "/probe/rows").await?;
        answer["rows"].as_u64().with_context(|| format!("no number of rows: {answer}"))
    }

    /// From a stream that holds the events of `count` orders, from `first` on, to an empty one.
    async fn drain(&self, event: &Event, first: u64, count: u64) -> Result<Duration> {
        self.add(event, first, count).await?;
        let started = Instant::now();
        let mut read = 0;
        loop {
            let answer = self.answer(Method::POST, "/push/drain?deliver=false").await?;
            ensure!(answer["busy"] == false && answer["dead"] == 0, "not all was read: {answer}");
            let read_now = answer["read"].as_u64().unwrap_or_default();
            read += read_now;
            if answer["left"] == 0 {
                break;
            }
            ensure!(read_now > 0, "nothing was read, and something is left: {answer}");
        }
        let took = started.elapsed();
        ensure!(read == count, "{read} of {count} entries were read");
        // Acknowledged is not enough: each has its message.
        let stats = self.answer(Method::GET, "/push/stats").await?;
        let pending = &stats["messages"]["by_state"]["pending"];
        ensure!(*pending == first + count, "{pending} of {} messages are in the outbox", first + count);
        Ok(took)
    }

    /// From the first event added, of `count` orders from `first` on, to the last message at the gateway.
    async fn deliver(&self, event: &Event, first: u64, count: u64) -> Result<Duration> {
        let mut seen = self.gateway.received().len();
        let mut ids = HashSet::new();
        let mut silences = 0;
        let started = Instant::now();
        self.add(event, first, count).await?;
        while (ids.len() as u64) < count {
            let Ok(arrived) = timeout(SILENCE, self.gateway.after(seen)).await else {
                // What a handler's time was too short for, once nothing rings any more, is a scheduler's.
                silences += 1;
                self.answer(Method::POST, "/push/deliver?seconds=1").await?;
                continue;
            };
            seen += arrived.len();
            ensure!(arrived.iter().all(|request| request.verified), "a message is signed wrongly");
            // Delivery is at least once: a message is known by its id.
            ids.extend(arrived.iter().map(|request| request.id().to_owned()));
        }
        let took = started.elapsed();
        if silences > 0 {
            println!("stream → gateway: silent for {SILENCE:?} {silences} times, each time POST /push/deliver");
        }
        Ok(took)
    }

    async fn add(&self, event: &Event, first: u64, count: u64) -> Result<()> {
        let entries = event.of_orders(first..first + count).map(|text| [(FIELD, text)]);
        self.redis.xadd(STREAM, entries).await?;
        Ok(())
    }

    /// What a service's request is answered with 200.
    async fn answer(&self, method: Method, path: &str) -> Result<Value> {
        let url = self.runtime.url(path);
        let request = self.client.request(method, &url).bearer_auth(TOKEN);
        let answer = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status == StatusCode::OK, "{url} answered {status}: {text}");
        serde_json::from_str(&text).with_context(|| format!("{url} answered no JSON: {text}"))
    }

    fn tail(&self) -> String {
        let output = self.runtime.stderr();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

/// Prints a case's row of the table, and returns its figures.
fn tell(name: &str, unit: &str, count: u32, rounds: &[Round], of: fn(&Round) -> Sample) -> Value {
    let samples = || rounds.iter().map(of);
    let per_s = Spread::of(samples().map(|sample| sample.per_s));
    let ratio = Spread::of(rounds.iter().map(|round| of(round).per_s / round.plain.per_s));
    let peaks: Option<Vec<f64>> = samples().map(|sample| sample.peak_memory_bytes.map(|bytes| bytes as f64)).collect();
    let peak = peaks.map(|peaks| Spread::of(peaks).median / f64::from(1 << 20));
    println!(
        "{:<26} {:>19} {:>19} {:>19}",
        format!("{name}, {}", thousands(count.into())),
        format!("{} {unit}", thousands(per_s.median)),
        ratio.to_string(),
        peak.map_or("unknown".to_owned(), |mebibytes| format!("{mebibytes:.0} MiB")),
    );
    let sample =
        |sample: Sample| json!({"per_s": rounded(sample.per_s), "peak_memory_bytes": sample.peak_memory_bytes});
    json!({
        "name": name,
        "unit": unit,
        "count": count,
        "ratio": {"per_s": ratio.json()},
        "samples": samples().map(sample).collect::<Vec<_>>(),
    })
}
