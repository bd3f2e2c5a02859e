//! What the Redis trigger hears: events on a channel, and the doorbell of the stream.
//!
//! A handler gets the payload alone, never the channel's name. Handlers are called one at a time for all functions,
//! so that each spends at most [`SPEND`] on draining and as much on delivering.

use std::time::{Duration, Instant};

use shared::{
    clock,
    http::JSON_LIMIT,
    json,
    log::{EntryPath, Line},
    outbox::Whose,
    problem::{Fault, Problem},
    stream::{Drained, RedisStream, rung},
};

use crate::{
    config::{VERSION, config, courier, rewards},
    drain::{Batch, drain},
    rewards::FUNCTION,
};

/// What a handler may spend on each of the two.
const SPEND: Duration = Duration::from_secs(1);
/// Messages that a payload of the channel delivers: its own, mostly.
const DELIVERED: usize = 64;

/// Takes one payload.
///
/// # Errors
/// If the payload or the configuration has faults, or the database or Redis is not there: an event on the channel is
/// lost then, and the log says so; an entry of the stream stays in it.
pub(crate) async fn heard(payload: &[u8]) -> Result<(), Problem> {
    match rung(payload) {
        Some(true) => from_stream().await.inspect_err(|problem| lost(problem, EntryPath::Stream)),
        Some(false) => Ok(()),
        None => from_channel(payload).await.inspect_err(|problem| lost(problem, EntryPath::Redis)),
    }
}

fn lost(problem: &Problem, path: EntryPath) {
    let detail = problem.sentence();
    Line {
        known_as: (),
        what: "event",
        key: "-",
        outcome: "failed",
        detail: Some(&detail),
        took: Duration::ZERO,
        path,
        version: VERSION,
    }
    .write();
}

async fn from_stream() -> Result<(), Problem> {
    let (config, courier) = (config().await?, courier(EntryPath::Stream).await?);
    let rewards = rewards(&courier).await?;
    let started = Instant::now();
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let drained = drain(&rewards, &source, &config.stream.field, || started.elapsed() < SPEND).await;
    let told = rewards.tell(|| started.elapsed() < SPEND).await;
    let delivered = rewards.outbox().deliver_rung(Drained::brought(&drained), clock::after_ms(SPEND)).await;
    drained?;
    told?;
    delivered?;
    Ok(())
}

async fn from_channel(payload: &[u8]) -> Result<(), Problem> {
    if payload.len() > JSON_LIMIT {
        return Err(Problem::too_large(JSON_LIMIT));
    }
    let courier = courier(EntryPath::Redis).await?;
    let rewards = rewards(&courier).await?;
    let value = json::parse(payload)
        .map_err(|error| Problem::bad_input("the payload is not acceptable").with(Fault::at("", error.to_string())))?;
    let mut batch = Batch::default();
    // Of an array, what can be read is taken.
    let faults = batch.add(&value).err();
    batch.commit(&rewards).await?;
    rewards.tell(|| false).await?;
    rewards.outbox().deliver(Whose::Any, DELIVERED, clock::after_ms(SPEND)).await?;
    match faults {
        Some(faults) => Err(Problem::bad_input("the payload is not acceptable").with_all(faults)),
        None => Ok(()),
    }
}
