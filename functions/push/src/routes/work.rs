//! What a scheduler calls: deliver what is due, drain the stream.

use std::time::{Duration, Instant};

use axum::{Json, extract::Request};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    outbox::{Tally, Whose},
    problem::Problem,
    query::Query,
    stream::{Drained, RedisStream},
};

use super::{allowed, intake};
use crate::intake::FUNCTION;

/// What a call may take if it does not say.
const SECONDS: u64 = 10;
/// The most that it may ask for: Fermyon Wasm Functions end a request after 30 s.
const SECONDS_MAX: u64 = 25;

/// What a delivery did, and what it left.
#[derive(Serialize)]
pub(super) struct Delivered {
    #[serde(flatten)]
    tally: Tally,
    /// How many messages wait.
    pending: u64,
}

/// What a drain did.
#[derive(Serialize)]
pub(super) struct Done {
    #[serde(flatten)]
    drained: Drained,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered: Option<Delivered>,
}

/// The `seconds` that a call may take.
fn budget(query: &mut Query) -> Duration {
    let parse = |text: &str| text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    let seconds = query.parsed("seconds", &format!("must be a number from 1 to {SECONDS_MAX}"), parse);
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

pub(super) async fn deliver(request: Request) -> Result<Json<Delivered>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let budget = budget(&mut query);
    query.finish()?;
    let intake = intake(config).await?;
    delivered(&intake.outbox(), budget).await.map(Json)
}

pub(super) async fn drain(request: Request) -> Result<Json<Done>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let budget = budget(&mut query);
    let deliver = query.parsed("deliver", "must be true or false", |text| text.parse().ok()).unwrap_or(true);
    query.finish()?;
    let intake = intake(config).await?;
    let started = Instant::now();
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    // A third is for people, however long the stream is.
    let of_stream = if deliver { budget * 2 / 3 } else { budget };
    let more_time = move || started.elapsed() < of_stream;
    let drained = crate::drain::drain(&intake, &source, &config.stream.field, more_time).await;
    // What waits goes out also when the stream could not be read, and has its time also when that took long to say.
    let delivered = match deliver {
        true => {
            let left = budget.saturating_sub(started.elapsed()).max(budget - of_stream);
            Some(delivered(&intake.outbox(), left).await)
        }
        false => None,
    };
    Ok(Json(Done { drained: drained?, delivered: delivered.transpose()? }))
}

async fn delivered<C: shared::outbox::Courier>(
    outbox: &shared::outbox::Outbox<'_, C>,
    budget: Duration,
) -> Result<Delivered, Problem> {
    let until_ms = clock::after_ms(budget);
    let tally = outbox.deliver(Whose::Any, usize::MAX, until_ms).await?;
    // Bite by bite: others write in between.
    while outbox.forget_bodies().await? > 0 && clock::now_ms() < until_ms {}
    Ok(Delivered { tally, pending: outbox.pending().await? })
}
