//! What the Redis trigger hears: orders on a channel, and the doorbell of the stream.
//!
//! A handler gets the payload alone, never the channel's name. Handlers are called one at a time for all functions,
//! so that each spends at most [`SPEND`] on draining and as much on delivering.

use std::time::{Duration, Instant};

use shared::{
    clock,
    gateway::Deliveries,
    http::JSON_LIMIT,
    log::EntryPath,
    problem::Problem,
    stream::{Drained, RedisStream, rung},
};

use crate::{
    config::{config, db, effects, rules},
    drain::{drain, read},
    intake::{FUNCTION, Intake, VERSION, log},
    partner,
};

/// What a handler may spend on each of the two.
const SPEND: Duration = Duration::from_secs(1);

/// Takes one payload.
///
/// # Errors
/// If the configuration has faults, or the database or Redis is not there: an order on the channel is lost then, and
/// the log says so; an entry of the stream stays in it.
pub(crate) async fn heard(payload: &[u8]) -> Result<(), Problem> {
    match rung(payload) {
        Some(true) => from_stream().await.inspect_err(|problem| lost(problem, EntryPath::Stream)),
        Some(false) => Ok(()),
        None => from_channel(payload).await.inspect_err(|problem| lost(problem, EntryPath::Redis)),
    }
}

fn lost(problem: &Problem, path: EntryPath) {
    log("order", "-", "failed", Some(&problem.sentence()), Duration::ZERO, path);
}

async fn from_stream() -> Result<(), Problem> {
    let config = config().await?;
    let courier = Deliveries { gateways: &config.gateways, path: EntryPath::Stream, version: VERSION };
    let db = db().await?;
    let intake = Intake {
        db,
        effects: effects().await?,
        partners: partner::ALL,
        accounts: &config.accounts,
        courier: &courier,
        path: EntryPath::Stream,
    };
    let rules = rules(db).await?;
    let started = Instant::now();
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let drained = drain(&intake, &rules, &source, &config.stream.field, || started.elapsed() < SPEND).await;
    let delivered = intake.outbox().deliver_rung(Drained::brought(&drained), clock::after_ms(SPEND)).await;
    drained?;
    delivered?;
    Ok(())
}

async fn from_channel(payload: &[u8]) -> Result<(), Problem> {
    let config = config().await?;
    let courier = Deliveries { gateways: &config.gateways, path: EntryPath::Redis, version: VERSION };
    let db = db().await?;
    let intake = Intake {
        db,
        effects: effects().await?,
        partners: partner::ALL,
        accounts: &config.accounts,
        courier: &courier,
        path: EntryPath::Redis,
    };
    let order = match payload.len() {
        ..=JSON_LIMIT => read(&intake, payload),
        _ => Err(format!("the payload may have {JSON_LIMIT} bytes")),
    };
    let order = match order {
        Ok(order) => order,
        Err(reason) => {
            log("order", "-", "rejected", Some(&reason), Duration::ZERO, EntryPath::Redis);
            return Ok(());
        }
    };
    let order_no = order.0.order_no.clone();
    intake.place(&[order], &*rules(db).await?).await?;
    intake.deliver(&[order_no.as_str()], clock::after_ms(SPEND)).await?;
    Ok(())
}
