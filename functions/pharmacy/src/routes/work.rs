//! What a scheduler calls: submit what is due, drain the stream. And how both are doing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{Json, extract::Request, http::Uri};
use futures::future::join_all;
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    db::Db,
    outbox::{
        Courier, Outbox, Tally, Whose,
        ledger::{self, Entry, State},
    },
    problem::Problem,
    query::{Page, Query},
    stream::{Drained, RedisStream},
};

use super::{HttpIntake, allowed, intake, must_be_one_of};
use crate::{
    config::{Config, pharmacies, rules},
    intake::{FUNCTION, Intake},
    partner::{self, Partner},
    store,
    submission::{Account, Outbound, Peer, Pharmacies, Submissions, queue},
};

/// What a call may take if it does not say.
const SECONDS: u64 = 10;
/// The most that it may ask for: Fermyon Wasm Functions end a request after 30 s.
const SECONDS_MAX: u64 = 25;

/// A callback's id is known for a day: far longer than the 5 minutes that its signature holds.
const CALLBACKS_KEPT_MS: i64 = 24 * 3_600_000;
/// Callbacks that one call forgets: a small bite, as it holds the database's write lock.
const CALLBACKS_FORGOTTEN: i64 = 1_000;

/// What a delivery did, and what it left.
#[derive(Debug, Serialize)]
pub(super) struct Done {
    #[serde(flatten)]
    pub(super) tally: Tally,
    /// How many wait.
    pub(super) pending: u64,
}

/// What a call did.
#[derive(Serialize)]
pub(super) struct Submitted {
    /// Orders that an earlier call had left half done.
    finished: u64,
    /// All partners' together.
    #[serde(flatten)]
    total: Done,
    /// Orders to each partner.
    pharmacies: BTreeMap<&'static str, Done>,
    /// Messages to people.
    messages: Done,
}

/// The `seconds` that a call may take.
fn budget(query: &mut Query) -> Duration {
    let parse = |text: &str| text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    let seconds = query.parsed("seconds", &format!("must be a number from 1 to {SECONDS_MAX}"), parse);
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// Posts these submissions of a partner, if they are due.
pub(super) async fn submit_these<C: Courier, P: Peer>(
    intake: Intake<'_, C>,
    (pharmacies, peer): (&Pharmacies, &P),
    partner: &dyn Partner,
    ids: &[String],
    until_ms: i64,
) -> Result<(), Problem> {
    let (queue, account) = (queue(partner), pharmacies.account(partner)?);
    let courier = Submissions { partner, account, queue: &queue, peer, intake };
    let outbox = Outbox { db: intake.effects, courier: &courier, function: FUNCTION };
    outbox.deliver(Whose::These(ids), ids.len(), until_ms).await?;
    Ok(())
}

/// Posts at most `rows` of what is due to each partner, and says how much waits. One whose variables have faults is given
/// nothing.
pub(super) async fn submit_due<C: Courier, P: Peer>(
    intake: Intake<'_, C>,
    (pharmacies, peer): (&Pharmacies, &P),
    rows: usize,
    until_ms: i64,
) -> Result<BTreeMap<&'static str, Done>, Problem> {
    // Each in its own time: one that is slow takes none of another's.
    let each = intake.partners.iter().map(async |partner| {
        let (queue, shut) = (queue(*partner), Account::default());
        let account = pharmacies.account(*partner).ok();
        let courier = Submissions { partner: *partner, account: account.unwrap_or(&shut), queue: &queue, peer, intake };
        let outbox = Outbox { db: intake.effects, courier: &courier, function: FUNCTION };
        let tally = match account {
            Some(_) => outbox.deliver(Whose::Any, rows, until_ms).await?,
            None => Tally::default(),
        };
        Ok::<_, Problem>((partner.name(), Done { tally, pending: outbox.pending().await? }))
    });
    join_all(each).await.into_iter().collect()
}

pub(super) async fn submit(request: Request) -> Result<Json<Submitted>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let budget = budget(&mut query);
    query.finish()?;
    done(config, budget).await.map(Json)
}

async fn done(config: &'static Config, budget: Duration) -> Result<Submitted, Problem> {
    let until_ms = clock::after_ms(budget);
    let intake = intake(config).await?;
    let finished = intake.finish(until_ms).await?;
    let pharmacies = submit_due(intake, (pharmacies().await, &Outbound), usize::MAX, until_ms).await?;
    let outbox = intake.outbox();
    let tally = outbox.deliver(Whose::Any, usize::MAX, until_ms).await?;
    outbox.forget_bodies().await?;
    store::forget_callbacks(intake.effects, clock::now_ms() - CALLBACKS_KEPT_MS, CALLBACKS_FORGOTTEN).await?;
    let mut total = Done { tally: Tally::default(), pending: 0 };
    for one in pharmacies.values() {
        total.tally += one.tally;
        total.pending += one.pending;
    }
    Ok(Submitted { finished, total, pharmacies, messages: Done { tally, pending: outbox.pending().await? } })
}

/// What a drain did.
#[derive(Serialize)]
pub(super) struct DrainedAll {
    #[serde(flatten)]
    drained: Drained,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted: Option<Submitted>,
}

pub(super) async fn drain(request: Request) -> Result<Json<DrainedAll>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let budget = budget(&mut query);
    let deliver = query.parsed("deliver", "must be true or false", |text| text.parse().ok()).unwrap_or(true);
    query.finish()?;
    let intake = intake(config).await?;
    let rules = rules(intake.db).await?;
    let started = Instant::now();
    // A third is for partners and people, however long the stream is.
    let of_stream = if deliver { budget * 2 / 3 } else { budget };
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let more_time = move || started.elapsed() < of_stream;
    let drained = crate::drain::drain(&intake, &rules, &source, &config.stream.field, more_time).await;
    // What waits goes out also when the stream could not be read, and has its time also when that took long to say.
    let submitted = match deliver {
        true => Some(done(config, budget.saturating_sub(started.elapsed()).max(budget - of_stream)).await),
        false => None,
    };
    Ok(Json(DrainedAll { drained: drained?, submitted: submitted.transpose()? }))
}

/// Submissions, the newest first.
pub(super) async fn submissions(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let HttpIntake { db, partners, .. } = intake(config).await?;
    listed(db, partners, request.uri()).await.map(Json)
}

/// The submissions to `partners` that a list's query asks for.
pub(super) async fn listed(db: &Db, partners: &[&dyn Partner], uri: &Uri) -> Result<Page<Entry>, Problem> {
    let mut query = Query::of(uri);
    let pharmacy = query.parsed("pharmacy", &must_be_one_of(partners), |name| partner::named(partners, name));
    let state = query.parsed("state", "must be pending, sending, sent or dead", State::parse);
    let order_id = query.text("order_no");
    let (cursor, limit) = query.page();
    query.finish()?;
    let queues: Vec<_> = match pharmacy {
        Some(partner) => vec![queue(partner)],
        None => partners.iter().map(|partner| queue(*partner)).collect(),
    };
    let mut found = Vec::new();
    for queue in queues {
        let filter =
            ledger::Filter { queue: Some(queue), state, order_id: order_id.clone(), cursor, ..Default::default() };
        found.extend(ledger::list(db, &filter, limit + 1).await?);
    }
    found.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seq));
    Ok(Page::of(found, limit, |entry| entry.seq))
}

/// How pharmacy is doing.
#[derive(Serialize)]
pub(super) struct Doing {
    /// How many orders are in each status.
    orders: BTreeMap<String, i64>,
    /// How many submissions wait, by partner.
    submissions_pending: BTreeMap<&'static str, u64>,
    /// Messages of all functions.
    messages: ledger::Stats,
}

pub(super) async fn stats(request: Request) -> Result<Json<Doing>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let intake = intake(config).await?;
    // With no rows to post, it only counts.
    let counted = submit_due(intake, (pharmacies().await, &Outbound), 0, 0).await?;
    let submissions_pending = counted.into_iter().map(|(name, done)| (name, done.pending)).collect();
    let orders = store::count(intake.db).await?.into_iter().collect();
    Ok(Json(Doing { orders, submissions_pending, messages: ledger::stats(intake.db, clock::now_ms()).await? }))
}
