//! What happened to an order, step by step, and how it is told.

use serde::{Deserialize, Serialize};
use shared::clock;

use crate::status::{Event, Status};

/// What [`Step::cancel_refused`] is called.
pub(crate) const CANCEL_REFUSED: &str = "cancel_refused";

/// One step. An order's steps are the lines of one column, each added by the statement that changes the status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) at_ms: i64,
    pub(crate) event: String,
    pub(crate) status: String,
    /// Who: `pharmacist:7`, `pharmacy:yifeng`, `rules:3`, `payment:p-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

impl Step {
    /// A step that `event` makes.
    pub(crate) fn new(event: Event, at_ms: i64, by: Option<String>, detail: Option<String>) -> Self {
        let (event, status) = (event.as_str().to_owned(), event.row().to.as_str().to_owned());
        Self { at_ms, event, status, by, detail }
    }

    /// The first step of every order.
    pub(crate) fn received(at_ms: i64, by: String) -> Self {
        let status = Status::Received.as_str().to_owned();
        Self { at_ms, event: "placed".into(), status, by: Some(by), detail: None }
    }

    /// A cancelled order's partner keeps it. The order stays where it is, so that this is no event of the table.
    pub(crate) fn cancel_refused(at_ms: i64, by: String, reason: String) -> Self {
        let status = Status::Cancelled.as_str().to_owned();
        Self { at_ms, event: CANCEL_REFUSED.into(), status, by: Some(by), detail: Some(reason) }
    }

    /// The step as its line, with its end.
    pub(crate) fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }

    /// The steps of a column.
    pub(crate) fn lines(column: &str) -> Vec<Self> {
        column.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// A step as `GET /orders/{order_no}` tells it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Told {
    at: String,
    event: String,
    from: Option<String>,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// All of an order's steps, the first first.
pub(crate) fn told(steps: Vec<Step>) -> Vec<Told> {
    let mut from = None;
    let tell = |step: Step| Told {
        at: clock::rfc3339(step.at_ms),
        event: step.event,
        from: from.replace(step.status.clone()),
        to: step.status,
        by: step.by,
        detail: step.detail,
    };
    steps.into_iter().map(tell).collect()
}
