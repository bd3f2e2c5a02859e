//! What a scheduler calls: submit what is due, drain the stream. And how both are doing.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use axum::{Json, extract::Request};
use futures::future::join_all;
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    outbox::{
        Outbox, Tally, Whose,
        ledger::{self, Entry, State},
    },
    problem::Problem,
    query::{Page, Query},
    stream::{Drained, RedisStream},
};

use super::{HttpIntake, allowed, intake};
use crate::{
    config::{Config, db, pharmacies, rules},
    intake::{FUNCTION, until_ms},
    partner::{self, Partner},
    store,
    submission::{Outbound, Submissions, queue},
};

/// What a call may take if it does not say.
const SECONDS: u64 = 10;
/// The most that it may ask for: Fermyon Wasm Functions end a request after 30 s.
const SECONDS_MAX: u64 = 25;

/// What a delivery did, and what it left.
#[derive(Serialize)]
struct Done {
    #[serde(flatten)]
    tally: Tally,
    /// How many wait.
    pending: u64,
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
pub(super) async fn submit_these(
    intake: HttpIntake,
    partner: &dyn Partner,
    ids: &[String],
    until_ms: i64,
) -> Result<(), Problem> {
    let index = partner::ALL.iter().position(|known| known.name() == partner.name());
    let Some(account) = pharmacies().await?.get(index.unwrap_or(usize::MAX)) else { return Ok(()) };
    let queue = queue(partner);
    let courier = Submissions { partner, account, queue: &queue, peer: &Outbound, intake };
    let outbox = Outbox { db: intake.effects, courier: &courier, function: FUNCTION };
    outbox.deliver(Whose::These(ids), ids.len(), until_ms).await?;
    Ok(())
}

async fn submit_due(intake: HttpIntake, until_ms: i64) -> Result<BTreeMap<&'static str, Done>, Problem> {
    // Each in its own time: one that is slow takes none of another's.
    let each = partner::ALL.iter().zip(pharmacies().await?).map(async |(partner, account)| {
        let queue = queue(*partner);
        let courier = Submissions { partner: *partner, account, queue: &queue, peer: &Outbound, intake };
        let outbox = Outbox { db: intake.effects, courier: &courier, function: FUNCTION };
        let tally = outbox.deliver(Whose::Any, usize::MAX, until_ms).await?;
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
    let until_ms = until_ms(budget);
    let intake = intake(config).await?;
    let finished = intake.finish().await?;
    let pharmacies = submit_due(intake, until_ms).await?;
    let outbox = intake.outbox();
    let tally = outbox.deliver(Whose::Any, usize::MAX, until_ms).await?;
    outbox.forget_bodies().await?;
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
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let more_time = move || started.elapsed() < budget;
    let drained = crate::drain::drain(&intake, &rules, &source, &config.stream.field, more_time).await?;
    let submitted = match deliver {
        true => Some(done(config, budget.saturating_sub(started.elapsed())).await?),
        false => None,
    };
    Ok(Json(DrainedAll { drained, submitted }))
}

/// Submissions, the newest first.
pub(super) async fn submissions(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let names: Vec<_> = partner::ALL.iter().map(|partner| partner.name()).collect();
    let must = format!("must be one of {}", names.join(", "));
    let pharmacy = query.parsed("pharmacy", &must, |name| partner::named(partner::ALL, name).map(queue));
    let state = query.parsed("state", "must be pending, sending, sent or dead", State::parse);
    let order_id = query.text("order_no");
    let (cursor, limit) = query.page();
    query.finish()?;
    let db = db().await?;
    let queues = pharmacy.map_or_else(|| partner::ALL.iter().map(|partner| queue(*partner)).collect(), |one| vec![one]);
    let mut found = Vec::new();
    for queue in queues {
        let filter =
            ledger::Filter { queue: Some(queue), state, order_id: order_id.clone(), cursor, ..Default::default() };
        found.extend(ledger::list(db, &filter, limit + 1).await?);
    }
    found.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seq));
    Ok(Json(Page::of(found, limit, |entry| entry.seq)))
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
    let mut pending = BTreeMap::new();
    for (partner, account) in partner::ALL.iter().zip(pharmacies().await?) {
        let queue = queue(*partner);
        let courier = Submissions { partner: *partner, account, queue: &queue, peer: &Outbound, intake };
        let outbox = Outbox { db: intake.effects, courier: &courier, function: FUNCTION };
        pending.insert(partner.name(), outbox.pending().await?);
    }
    let orders = store::count(intake.db).await?.into_iter().collect();
    Ok(Json(Doing { orders, submissions_pending: pending, messages: ledger::stats(intake.db, clock::now_ms()).await? }))
}
