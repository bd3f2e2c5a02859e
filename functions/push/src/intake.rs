//! Events in, messages delivered. Every entry path comes through here: the same checks, the same log line.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::{
    gateway::{Delivery, Gateway},
    http::JSON_LIMIT,
    id::Id,
    json::Value,
    log::{EntryPath, Line},
    message::{Channel, Message, Recipient},
    ndjson::Splitter,
    problem::{Fault, Problem},
};

use crate::{
    config::{self, Config},
    format::{Answer, Formatted, sentence},
    input::{self, EVENTS_MAX, Input},
};

/// The component's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A message as the answer of an intake shows it.
#[derive(Serialize)]
pub(crate) struct Delivered {
    id: String,
    recipient: Recipient,
    channel: Channel,
    /// `sent`, `logged` (there is no gateway) or `failed`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// What one call may spend on delivering.
pub(crate) struct Budget {
    /// No delivery begins after it.
    until: Option<Instant>,
    /// Deliveries that failed after a wait, one after the other.
    unanswered: u32,
    /// When the last of them did.
    unanswered_at: Option<Instant>,
}

/// After so many deliveries that failed after a wait, those that follow are not tried,
const UNANSWERED_MAX: u32 = 3;
/// until this time has passed: then one is tried again.
const PAUSE: Duration = Duration::from_secs(5);

impl Budget {
    /// As long as it takes, unless the gateway stops answering.
    pub(crate) const fn patient() -> Self {
        Self { until: None, unanswered: 0, unanswered_at: None }
    }

    /// `spend` in all: a Redis handler holds up every function's Redis events.
    pub(crate) fn of(spend: Duration) -> Self {
        Self { until: Instant::now().checked_add(spend), unanswered: 0, unanswered_at: None }
    }

    fn left(&self) -> Duration {
        if self.unanswered >= UNANSWERED_MAX && self.unanswered_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return Duration::ZERO;
        }
        let patience = Gateway::patience();
        self.until.map_or(patience, |until| until.saturating_duration_since(Instant::now()).min(patience))
    }
}

/// Delivers the messages of one event's results, and logs what became of each.
pub(crate) async fn take(
    config: &Config,
    results: Vec<Formatted>,
    path: EntryPath,
    budget: &mut Budget,
) -> Vec<Answer<Delivered>> {
    let started = Instant::now();
    let mut answers = Vec::with_capacity(results.len());
    for formatted in results {
        answers.push(match Answer::of(formatted) {
            Ok((event_id, message)) => deliver(config, event_id, &message, path, budget).await,
            Err(answer) => {
                let key = answer.event_id.as_ref().map_or("-", Id::as_str);
                log(key, answer.outcome, answer.detail.as_deref(), started, path);
                answer
            }
        });
    }
    answers
}

async fn deliver(
    config: &Config,
    event_id: Option<Id>,
    message: &Message,
    path: EntryPath,
    budget: &mut Budget,
) -> Answer<Delivered> {
    let within = budget.left();
    let started = Instant::now();
    let delivery = config.gateway.deliver(message, within, path, VERSION).await;
    match delivery {
        // Not tried.
        Delivery::Failed(_) if within.is_zero() => {}
        // What failed at once costs nobody's time.
        Delivery::Failed(_) if started.elapsed() >= Duration::from_millis(500) => {
            budget.unanswered += 1;
            budget.unanswered_at = Some(Instant::now());
        }
        _ => budget.unanswered = 0,
    }
    Answer {
        event_id,
        outcome: delivery.outcome(),
        scenario: Some(message.scenario),
        messages: vec![Delivered {
            id: message.id.clone(),
            recipient: message.recipient.clone(),
            channel: message.channel,
            state: delivery.outcome(),
            detail: delivery.detail().map(str::to_owned),
        }],
        detail: None,
    }
}

fn log(key: &str, outcome: &str, detail: Option<&str>, started: Instant, path: EntryPath) {
    Line { known_as: (), what: "event", key, outcome, detail, started, path, version: VERSION }.write();
}

/// Takes the payload of a Redis message: one event, an array, or lines.
///
/// # Errors
/// If the configuration has faults: the event is lost, and the log says so. What is wrong with the payload is logged.
pub(crate) async fn from_redis(payload: &[u8]) -> Result<(), Problem> {
    /// What a Redis handler may spend on delivering.
    const SPEND: Duration = Duration::from_secs(1);
    const PATH: EntryPath = EntryPath::Redis;

    let config = config::config().await.inspect_err(|problem| {
        log("-", "failed", Some(&sentence(problem.errors())), Instant::now(), PATH);
    })?;
    let mut budget = Budget::of(SPEND);
    let mut take = async |event: Result<&Value<'_>, Fault>| {
        take(config, config.formatter.results(event), PATH, &mut budget).await;
    };
    if payload.len() > JSON_LIMIT {
        take(Err(Fault::at("", format!("the payload may have {JSON_LIMIT} bytes")))).await;
        return Ok(());
    }
    match input::read(payload) {
        Ok(Input::One(event)) => take(Ok(&event)).await,
        Ok(Input::Many(events)) => {
            for event in &events {
                take(Ok(event)).await;
            }
        }
        Ok(Input::Lines) => {
            let mut splitter = Splitter::default();
            let mut lines = splitter.push(payload);
            lines.extend(splitter.finish());
            // Of lines and of the events in them: a line may hold an array.
            let mut left = EVENTS_MAX;
            for line in lines {
                let line = input::read_line(&line);
                let events = line.as_ref().map_or(1, |events| events.len().max(1));
                let Some(rest) = left.checked_sub(events) else {
                    take(Err(Fault::at("", format!("a payload may have {EVENTS_MAX} events; the rest is not read"))))
                        .await;
                    return Ok(());
                };
                left = rest;
                match line {
                    Ok(events) => {
                        for event in &events {
                            take(Ok(event)).await;
                        }
                    }
                    Err(fault) => take(Err(fault)).await,
                }
            }
        }
        Err(fault) => take(Err(fault)).await,
    }
    Ok(())
}
