//! What the Redis trigger hears: events on a channel, and the doorbell of the stream.
//!
//! A handler gets the payload alone, never the channel's name. Handlers are called one at a time for all functions,
//! so that each spends at most [`SPEND`] on draining and as much on delivering.

use std::time::{Duration, Instant};

use shared::{
    clock,
    gateway::Deliveries,
    http::JSON_LIMIT,
    log::EntryPath,
    ndjson::Splitter,
    problem::{Fault, Problem},
    stream::{Drained, RedisStream, rung},
};

use crate::{
    config::{Config, config, db},
    drain::drain,
    input::{self, EVENTS_MAX, Input},
    intake::{Batch, Batches, FUNCTION, Intake, VERSION, log, written},
};

/// What a handler may spend on each of the two.
const SPEND: Duration = Duration::from_secs(1);

/// Takes one payload.
///
/// # Errors
/// If the configuration has faults, or the database or Redis is not there: an event on the channel is lost then, and
/// the log says so; an entry of the stream stays in it.
pub(crate) async fn heard(payload: &[u8]) -> Result<(), Problem> {
    match rung(payload) {
        Some(true) => from_stream().await.inspect_err(|problem| lost(problem, EntryPath::Stream)),
        Some(false) => Ok(()),
        None => from_channel(payload).await.inspect_err(|problem| lost(problem, EntryPath::Redis)),
    }
}

fn lost(problem: &Problem, path: EntryPath) {
    log("-", "failed", Some(&problem.sentence()), Duration::ZERO, path);
}

async fn from_stream() -> Result<(), Problem> {
    let config = config().await?;
    let courier = Deliveries { gateways: &config.gateways, path: EntryPath::Stream, version: VERSION };
    let intake = Intake { formatter: &config.formatter, db: db().await?, courier: &courier, path: EntryPath::Stream };
    let started = Instant::now();
    let source = RedisStream::outbound(&config.stream.url, &config.stream.name, FUNCTION);
    let drained = drain(&intake, &source, &config.stream.field, || started.elapsed() < SPEND).await;
    let delivered = intake.outbox().deliver_rung(Drained::brought(&drained), clock::after_ms(SPEND)).await;
    drained?;
    delivered?;
    Ok(())
}

async fn from_channel(payload: &[u8]) -> Result<(), Problem> {
    let config = config().await?;
    let courier = Deliveries { gateways: &config.gateways, path: EntryPath::Redis, version: VERSION };
    let intake = Intake { formatter: &config.formatter, db: db().await?, courier: &courier, path: EntryPath::Redis };
    let mut ids = Vec::new();
    for batch in batches(config, payload) {
        intake.commit(&batch).await?;
        ids.extend(batch.ids());
    }
    intake.deliver(&ids, clock::after_ms(SPEND)).await?;
    Ok(())
}

/// A payload's events: one, an array, or lines.
fn batches(config: &Config, payload: &[u8]) -> Vec<Batch> {
    let formatter = &config.formatter;
    let mut batches = Batches::default();
    if payload.len() > JSON_LIMIT {
        let fault = Fault::at("", format!("the payload may have {JSON_LIMIT} bytes"));
        batches.next().add_unreadable(fault, payload);
        return batches.all();
    }
    match input::salvage(payload) {
        Ok(Input::One(event)) => batches.next().add(formatter.format(&event), || written(&event)),
        Ok(Input::Many(events)) => {
            for event in &events {
                batches.next().add(formatter.format(event), || written(event));
            }
        }
        Ok(Input::Lines) => {
            let mut splitter = Splitter::default();
            let mut lines = splitter.push(payload);
            lines.extend(splitter.finish());
            // Of lines and of the events in them: a line may hold an array.
            let mut left = EVENTS_MAX;
            for line in lines {
                let text = line.bytes.as_deref().unwrap_or_default();
                let read = input::read_line(&line);
                let events = read.as_ref().map_or(1, |events| events.len().max(1));
                let Some(rest) = left.checked_sub(events) else {
                    let fault = Fault::at("", format!("a payload may have {EVENTS_MAX} events; the rest is not read"));
                    batches.next().add_unreadable(fault, text);
                    break;
                };
                left = rest;
                match read {
                    Ok(events) => {
                        for event in &events {
                            batches.next().add(formatter.format(event), || written(event));
                        }
                    }
                    Err(fault) => batches.next().add_unreadable(fault, text),
                }
            }
        }
        Err(fault) => batches.next().add_unreadable(fault, payload),
    }
    batches.all()
}
