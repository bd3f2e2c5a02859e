//! What `push` costs: reading an event and writing its message, alone and by the thousand.

use anyhow::{Context, Result, ensure};
use harness::workspace_root;
use serde_json::Value;

use super::{Case, Request};

const EVENT: &str = "functions/push/testdata/maxwell_update.json";
/// The order that the event is of.
const ORDER_ID: u64 = 98_001;
const BATCH_EVENTS: u64 = 1_000;
const BATCH_CLIENTS: u32 = 8;
/// What the patient is told.
const EXPECTED_TEXT: &str = "您的订单已接单，点击查看订单详情。";

/// One event at a time by `clients` and by a single client, and bodies of 1,000 lines.
pub(crate) fn cases(clients: u32) -> Result<Vec<Case>> {
    let file = workspace_root().join(EVENT);
    let event = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let one = |clients| Case {
        name: "push/format, one event",
        request: Request::post("/push/format", "application/json", event.clone()),
        clients,
        unit: "events",
        units_per_request: 1,
        check: check_one,
    };
    let batch = Case {
        name: "push/format, 1,000 lines",
        request: Request::post("/push/format", "application/x-ndjson", batch(event.trim())?),
        clients: BATCH_CLIENTS,
        unit: "events",
        units_per_request: BATCH_EVENTS,
        check: check_batch,
    };
    Ok(vec![one(clients), one(1), batch])
}

/// The event of as many orders, a line each.
fn batch(event: &str) -> Result<String> {
    let id = |order_id| format!("\"id\":{order_id},");
    ensure!(event.lines().count() == 1 && event.contains(&id(ORDER_ID)), "{EVENT} is not of order {ORDER_ID}");
    let line = |order_id| event.replace(&id(ORDER_ID), &id(order_id)) + "\n";
    Ok((ORDER_ID..ORDER_ID + BATCH_EVENTS).map(line).collect())
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
    let is_expected = result["outcome"] == "formatted" && result.to_string().contains(EXPECTED_TEXT);
    ensure!(is_expected, "the message is not {EXPECTED_TEXT}: {result}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_the_same_event_of_a_thousand_orders() {
        let batch = batch(r#"{"data":{"id":98001,"status":"待服务"}}"#).unwrap();
        assert_eq!(batch.lines().count(), 1_000);
        assert_eq!(batch.lines().last(), Some(r#"{"data":{"id":99000,"status":"待服务"}}"#));
        assert!(super::batch(r#"{"data":{"id":7}}"#).is_err());
    }
}
