//! What `push` costs: reading an event and writing its message, alone and by the thousand.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Case, Request};
use crate::bench::event::{Event, MESSAGE_TEXT};

const BATCH_EVENTS: u64 = 1_000;
const BATCH_CLIENTS: u32 = 8;

/// One event at a time by `clients` and by a single client, and bodies of 1,000 lines.
pub(crate) fn cases(clients: u32) -> Result<Vec<Case>> {
    let event = Event::read()?;
    let one = |clients| Case {
        name: "push/format, one event",
        request: Request::post("/push/format", "application/json", event.text().to_owned()),
        clients,
        unit: "events",
        units_per_request: 1,
        check: check_one,
    };
    let lines = event.of_orders(0..BATCH_EVENTS).map(|line| line + "\n").collect();
    let batch = Case {
        name: "push/format, 1,000 lines",
        request: Request::post("/push/format", "application/x-ndjson", lines),
        clients: BATCH_CLIENTS,
        unit: "events",
        units_per_request: BATCH_EVENTS,
        check: check_batch,
    };
    Ok(vec![one(clients), one(1), batch])
}

fn check_one(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)?;
    let results = answer["results"].as_array().context("it has no results")?;
    ensure!(results.len() == 1, "it has {} results", results.len());
    results.iter().try_for_each(check_result)
}

fn check_batch(answer: &str) -> Result<()> {
    let results = answer.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    ensure!(results.len() as u64 == BATCH_EVENTS, "it has {} lines", results.len());
    results.iter().try_for_each(check_result)
}

fn check_result(result: &Value) -> Result<()> {
    let is_expected = result["outcome"] == "formatted" && result.to_string().contains(MESSAGE_TEXT);
    ensure!(is_expected, "the message is not {MESSAGE_TEXT}: {result}");
    Ok(())
}
