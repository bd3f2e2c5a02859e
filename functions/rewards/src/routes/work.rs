//! What a scheduler calls: drain the stream, give what waits.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, Request},
};
use shared::{
    auth::Role,
    problem::Problem,
    query::Query,
    stream::{Drained, RedisStream},
};

use super::{activity, allowed, deliver_soon, more_time, rewards};
use crate::{
    config::config,
    rewards::{FUNCTION, Fulfilled},
};

/// What a call may take if it does not say.
const SECONDS: u64 = 10;
/// The most that it may ask for: Fermyon Wasm Functions end a request after 30 s.
const SECONDS_MAX: u64 = 25;

/// The `seconds` that a call may take, its only parameter.
fn budget(request: &Request) -> Result<Duration, Problem> {
    let mut query = Query::of(request.uri());
    let parse = |text: &str| text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds));
    let seconds = query.parsed("seconds", &format!("must be a number from 1 to {SECONDS_MAX}"), parse);
    query.finish()?;
    Ok(Duration::from_secs(seconds.unwrap_or(SECONDS)))
}

pub(super) async fn fulfil(Path(id): Path<String>, request: Request) -> Result<Json<Fulfilled>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let budget = budget(&request)?;
    let rewards = rewards().await?;
    activity(rewards.db, &id).await?;
    let fulfilled = rewards.fulfil(&id, more_time(budget)).await?;
    deliver_soon();
    Ok(Json(fulfilled))
}

pub(super) async fn drain(request: Request) -> Result<Json<Drained>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let budget = budget(&request)?;
    let (config, rewards) = (config().await?, rewards().await?);
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let drained = crate::drain::drain(&rewards, &source, &config.stream.field, more_time(budget)).await?;
    deliver_soon();
    Ok(Json(drained))
}
