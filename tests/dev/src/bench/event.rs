//! The event that is measured: a nurse accepts an order, and its patient is told.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use harness::workspace_root;

const FILE: &str = "functions/push/testdata/maxwell_update.json";
/// The order that it is of in the file.
const ORDER_ID: u64 = 98_001;

/// What the patient is told.
pub(crate) const MESSAGE_TEXT: &str = "您的订单已接单，点击查看订单详情。";

/// One line of JSON, as Maxwell writes it.
pub(crate) struct Event(String);

impl Event {
    pub(crate) fn read() -> Result<Self> {
        let file = workspace_root().join(FILE);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(text.trim()).with_context(|| format!("cannot use {}", file.display()))
    }

    fn parse(line: &str) -> Result<Self> {
        ensure!(line.lines().count() == 1 && line.contains(&id(ORDER_ID)), "it is not one line of order {ORDER_ID}");
        Ok(Self(line.to_owned()))
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The same of other orders, numbered from 0, each of which sends a message of its own.
    pub(crate) fn of_orders(&self, orders: Range<u64>) -> impl Iterator<Item = String> {
        orders.map(|order| self.0.replace(&id(ORDER_ID), &id(ORDER_ID + order)))
    }
}

fn id(order_id: u64) -> String {
    format!("\"id\":{order_id},")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_for_as_many_orders_as_are_asked_for() {
        let event = Event::parse(r#"{"data":{"id":98001,"status":"待服务"}}"#).unwrap();
        let orders: Vec<_> = event.of_orders(0..1_000).collect();
        assert_eq!((orders.len(), orders[0].as_str()), (1_000, event.text()));
        assert_eq!(orders[999], r#"{"data":{"id":99000,"status":"待服务"}}"#);
        assert!(Event::parse(r#"{"data":{"id":7,"status":"待服务"}}"#).is_err());
    }
}
