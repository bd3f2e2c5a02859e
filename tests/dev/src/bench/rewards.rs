//! What giving a card costs, with all that belongs to it (registration recorded, points, claim, card, message), beside
//! one bare statement that gives a card away; and how fast a large campaign is audited, in how much memory.
//!
//! What both stand on is written to the database's file before, by SQL: only what is measured goes through a component.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::runtime::Kind;
use harness::{Runtime, http_client};
use rusqlite::Connection;
use serde_json::{Value, json};

use super::http::Request;
use super::http::wrk::{Sample, Wrk};
use super::report::{Report, Spread, rounded, thousands};
use super::{Settings, TOKEN, application};

const COMPONENTS: [&str; 2] = ["rewards", "probe"];
/// More than are given in a round.
const CARDS_PER_ROUND: u64 = 30_000;
/// A card's key, of a runtime that nobody but us can reach.
const CARD_KEY: &str = "bench:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// What an audit of any length may add to the runtime's memory.
const AUDIT_MEMORY_MIB: u64 = 16;
/// Longer than an audit takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures both, and tells the figures.
pub(crate) async fn bench(kind: Kind, settings: &Settings) -> Result<()> {
    let mut report = Report::new("rewards", kind, settings);
    println!(
        "\n{}, which wrk shares.\n\
         Medians of {} rounds of {} s by {} clients. Ratios are to the bare statement, round by round: median\n\
         (min..max); more is better.",
        report.machine(),
        settings.rounds,
        settings.seconds,
        settings.clients,
    );
    let rounds = grants(kind, settings).await.context("grants")?;
    report.add(tell(&rounds));
    report.add(audit(kind, settings.registrations.into()).await.context("audit")?);
    report.print_figures(&[("seconds_per_round", settings.seconds.into()), ("clients", settings.clients.into())])
}

/// The bare statement and the grant, one right after the other.
struct Round {
    bare: Sample,
    grant: Sample,
}

async fn grants(kind: Kind, settings: &Settings) -> Result<Vec<Round>> {
    let folder = tempfile::tempdir()?;
    let builder = application::builder(folder.path(), kind, &COMPONENTS)?.variable("card_key", CARD_KEY);
    let runtime = builder.start().await?;
    create(&runtime).await?;
    let rounds: u64 = settings.rounds.into();
    let count = (rounds + 1) * CARDS_PER_ROUND;
    let database = database(&runtime)?;
    // The probe makes its table on first use.
    post(&runtime, "/probe/claims").await?;
    database.execute_batch(&format!(
        "{NUMBERS} INSERT INTO probe_cards (id) SELECT n + 1 FROM numbers WHERE n < {count};
        {NUMBERS} INSERT INTO rewards_invitations (activity_id, invitee, inviter, invited_at_ms, recorded_at_ms)
            SELECT 'bench', 'friend-' || n, 'u' || (n % 1000), 0, 0 FROM numbers WHERE n < {count};
        {NUMBERS} INSERT INTO rewards_cards (card_no, activity_id, fen, secret, import_id, imported_at_ms)
            SELECT 'card-' || n, 'bench', 2000, 'sealed', 'bench', 0 FROM numbers WHERE n < {count};",
        NUMBERS = numbers(count),
    ))?;
    drop(database);
    let wrk = Wrk::new()?;
    let bare = Request::post("/probe/claims", "application/json", "{}".to_owned());
    let grant = |round: u64| {
        let body = json!({"event_id": "open-{n}", "invitee": "friend-{n}", "opened_at": "2020-09-23T10:00:00+08:00",
            "new_customer": true});
        let path = "/rewards/activities/bench/registrations";
        Request::post(path, "application/json", body.to_string()).numbered_from(round * CARDS_PER_ROUND)
    };
    let sample = async |request: &Request, seconds| {
        let url = runtime.url(request.path());
        wrk.run(&url, request, settings.clients, seconds).await
    };
    // To warm up.
    sample(&bare, 1).await?;
    sample(&grant(0), 1).await?;
    let mut all = Vec::new();
    for number in 1..=rounds {
        let round = if number % 2 == 0 {
            let bare = sample(&bare, settings.seconds).await?;
            Round { bare, grant: sample(&grant(number), settings.seconds).await? }
        } else {
            let grant = sample(&grant(number), settings.seconds).await?;
            Round { grant, bare: sample(&bare, settings.seconds).await? }
        };
        all.push(round);
    }
    // What was counted is what is in the books, once the last calls, which wrk left, have ended.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (lines, totals) = audited(&runtime).await?;
    ensure!(lines == 1 && totals["clean"] == true, "the audit has {lines} lines: {totals}");
    let issued = totals["totals"]["issued"]["cards"].as_u64().unwrap_or_default();
    let answered: f64 =
        all.iter().map(|round| round.grant.requests_per_s * f64::from(settings.seconds)).sum::<f64>() * 0.95;
    ensure!(issued as f64 >= answered, "{issued} cards are issued, and about {answered:.0} were answered");
    Ok(all)
}

fn tell(rounds: &[Round]) -> Value {
    let bare = Spread::of(rounds.iter().map(|round| round.bare.requests_per_s));
    let grant = Spread::of(rounds.iter().map(|round| round.grant.requests_per_s));
    let ratio = Spread::of(rounds.iter().map(|round| round.grant.requests_per_s / round.bare.requests_per_s));
    let p99 = |of: fn(&Round) -> &Sample| Spread::of(rounds.iter().map(|round| of(round).p99_ms)).median;
    println!("\n{:<26} {:>19} {:>19} {:>19}", "", "per second", "p99 ms", "ratio");
    let row = |name, per_s: Spread, p99, ratio: String| {
        println!("{name:<26} {:>19} {p99:>19.2} {ratio:>19}", thousands(per_s.median));
    };
    row("bare UPDATE … RETURNING", bare, p99(|round| &round.bare), String::new());
    row("registration → card", grant, p99(|round| &round.grant), ratio.to_string());
    json!({
        "name": "registration → card",
        "ratio": {"per_s": ratio.json()},
        "bare": rounds.iter().map(|round| rounded(round.bare.requests_per_s)).collect::<Vec<_>>(),
        "samples": rounds.iter().map(|round| rounded(round.grant.requests_per_s)).collect::<Vec<_>>(),
    })
}

/// A campaign of `count` registrations, all paid, audited twice: the memory after the second audit shows whether it
/// grows.
async fn audit(kind: Kind, count: u64) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let builder = application::builder(folder.path(), kind, &COMPONENTS)?.variable("card_key", CARD_KEY);
    let runtime = builder.start().await?;
    create(&runtime).await?;
    // 2020-09-23T10:00:00+08:00.
    const AT_MS: i64 = 1_600_826_400_000;
    let numbers = numbers(count);
    // The registrations' own statement gives what is due for them: points, a claim and a card each. It is 2020 for the
    // cards, too.
    database(&runtime)?.execute_batch(&format!(
        "{numbers} INSERT INTO rewards_cards (card_no, activity_id, fen, secret, import_id, imported_at_ms)
            SELECT printf('card-%010d', n), 'bench', 2000, 'sealed', 'bench', 0 FROM numbers WHERE n < {count};
        {numbers} INSERT INTO rewards_invitations (activity_id, invitee, inviter, invited_at_ms, recorded_at_ms)
            SELECT 'bench', printf('friend-%010d', n), 'u' || (n % 100000), 0, 0 FROM numbers WHERE n < {count};
        {numbers} INSERT INTO rewards_registrations (activity_id, invitee, event_id, opened_at_ms, new_customer, held,
                path, recorded_at_ms)
            SELECT 'bench', printf('friend-%010d', n), printf('open-%010d', n), {AT_MS}, 1, 0, 'http', {AT_MS}
            FROM numbers WHERE n < {count};
        UPDATE rewards_claims SET told = 1;"
    ))?;
    let before = runtime.peak_memory_bytes();
    let mut times = Vec::new();
    let mut peaks = Vec::new();
    for _ in 0..2 {
        let started = Instant::now();
        let (lines, totals) = audited(&runtime).await?;
        times.push(started.elapsed().as_secs_f64());
        peaks.push(runtime.peak_memory_bytes());
        ensure!(lines == 1 && totals["clean"] == true, "the audit has {lines} lines: {totals}");
        ensure!(totals["totals"]["registrations"] == count, "{totals}");
    }
    if let (Some(before), Some(Some(after))) = (before, peaks.last().copied()) {
        let grown = after.saturating_sub(before) >> 20;
        ensure!(grown < AUDIT_MEMORY_MIB, "the audit took {grown} MiB");
    }
    let per_s = Spread::of(times.iter().map(|time| count as f64 / time));
    let mebibytes = |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
    println!(
        "{:<26} {:>19} {:>39}",
        format!("audit of {}", thousands(count as f64)),
        format!("{} rows", thousands(per_s.median)),
        format!(
            "peak memory {} → {} → {}",
            mebibytes(before),
            mebibytes(peaks.first().copied().flatten()),
            mebibytes(peaks.last().copied().flatten())
        ),
    );
    Ok(json!({"name": "audit", "registrations": count, "rows_per_s": per_s.json(), "peak_memory_bytes": {
        "before": before, "audits": peaks}}))
}

/// `numbers`, from 0 up to `count`.
fn numbers(count: u64) -> String {
    format!("WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})")
}

fn database(runtime: &Runtime) -> Result<Connection> {
    let file = runtime.state_dir().join("sqlite_db.db");
    Connection::open(&file).with_context(|| format!("cannot open {}", file.display()))
}

async fn create(runtime: &Runtime) -> Result<()> {
    let url = runtime.url("/rewards/activities");
    let activity = json!({
        "id": "bench", "name": "bench", "starts_at": "2020-09-15T00:00:00+08:00", "ends_at": "2099-01-01T00:00:00+08:00",
        "invite": {"card_fen": 2000, "points": 20}, "settlement": {"points": 1_000_000, "cards": 5, "card_fen": 2000},
        "period": {"weekday_start": "tuesday"},
    });
    let answer = http_client(PATIENCE).post(&url).bearer_auth(TOKEN).json(&activity).send().await?;
    let status = answer.status();
    ensure!(status.is_success(), "{url} answered {status}: {}", answer.text().await?);
    Ok(())
}

async fn post(runtime: &Runtime, path: &str) -> Result<()> {
    http_client(PATIENCE).post(runtime.url(path)).send().await?.error_for_status()?;
    Ok(())
}

/// How many lines an audit has, and the last of them.
async fn audited(runtime: &Runtime) -> Result<(usize, Value)> {
    let url = runtime.url("/rewards/activities/bench/audit");
    let answer = http_client(PATIENCE).get(url).bearer_auth(TOKEN).send().await?.error_for_status()?;
    let text = answer.text().await?;
    let last = text.lines().last().context("an audit has lines")?;
    Ok((text.lines().count(), serde_json::from_str(last)?))
}
