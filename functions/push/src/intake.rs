//! Events in, messages kept and delivered. Every entry path comes through here: the same checks, the same log line.
//!
//! A batch is committed by one statement each for what is kept for an operator and for the messages; only then does
//! anything go out. Repeating a batch, after whatever crash, changes nothing that was done.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;
use shared::{
    db::{Db, DbError},
    id::Id,
    json::Value,
    log::{EntryPath, Line},
    message::{Channel, Message, Recipient},
    outbox::{
        Courier, Outbox, Tally, Whose,
        ledger::{self, State},
    },
    problem::Fault,
};

use crate::{
    format::{Answer, Formatted, Formatter, Outcome},
    store::{self, Kept},
};

/// The component's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whose messages these are, in the shared outbox.
pub(crate) const FUNCTION: &str = "push";

/// Events that are committed together.
const BATCH_EVENTS: usize = 500;

/// Overdue messages of others that a call delivers beside its own, so that traffic alone heals.
const OVERDUE: usize = 8;

/// As many bytes are kept of what is no event.
const TEXT_KEPT: usize = 8 * 1024;

/// A message as the answer of an intake shows it.
#[derive(Serialize)]
pub(crate) struct Delivered {
    id: String,
    recipient: Recipient,
    channel: Channel,
    /// `sent`, `logged` (there is no gateway), `pending` (it is tried again) or `dead`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The states of messages by their ids, each with why its last attempt failed.
pub(crate) type States = HashMap<String, (State, Option<String>)>;

/// Events that are committed together.
#[derive(Default)]
pub(crate) struct Batch {
    results: Vec<Taken>,
    messages: Vec<Message>,
    kept: Vec<Kept>,
}

/// What became of one event.
enum Taken {
    /// It sends the message at this place of the batch.
    Message(Option<Id>, usize),
    /// It sends nothing.
    Nothing(Answer<Delivered>),
}

impl Batch {
    /// Adds what could not be read as an event, with as much of its text as is kept.
    pub(crate) fn add_unreadable(&mut self, fault: Fault, text: &[u8]) {
        let text = String::from_utf8_lossy(text.get(..TEXT_KEPT).unwrap_or(text)).into_owned();
        self.add(vec![Formatted::unreadable(vec![fault])], || text.clone());
    }

    /// Adds an event's results. `event` is what is kept of it where nobody could act on it.
    pub(crate) fn add(&mut self, results: Vec<Formatted>, event: impl Fn() -> String) {
        for formatted in results {
            let order_id = formatted.order_id.clone();
            let kept_as = match formatted.outcome {
                Outcome::Ambiguous(_) => Some("ambiguous"),
                Outcome::Rejected(_) | Outcome::Unreadable(_) => Some("rejected"),
                Outcome::Formatted(_) | Outcome::Ignored(_) => None,
            };
            self.results.push(match Answer::of(formatted) {
                Ok((event_id, message)) => {
                    self.messages.push(*message);
                    Taken::Message(event_id, self.messages.len() - 1)
                }
                Err(answer) => {
                    if let Some(outcome) = kept_as {
                        let detail = answer.detail.as_deref().unwrap_or_default();
                        self.kept.push(Kept::new(answer.event_id.as_ref(), outcome, order_id, detail, event()));
                    }
                    Taken::Nothing(answer)
                }
            });
        }
    }

    /// Its messages' ids.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.messages.iter().map(|message| message.id.clone()).collect()
    }

    /// What became of a committed batch, in the order of its events, by the states that its messages are in. One whose
    /// state is not known is in the outbox all the same.
    pub(crate) fn answers(self, states: &States) -> Vec<Answer<Delivered>> {
        let answer = |event_id, message: &Message| {
            // Somebody else may be posting it this very moment.
            let (state, detail) = match states.get(&message.id) {
                Some((State::Sending, _)) | None => (State::Pending, None),
                Some((State::Sent, _)) => (State::Sent, None),
                Some((state, detail)) => (*state, detail.clone()),
            };
            Answer {
                event_id,
                outcome: state.as_str(),
                scenario: Some(message.scenario),
                messages: vec![Delivered {
                    id: message.id.clone(),
                    recipient: message.recipient.clone(),
                    channel: message.channel,
                    state: state.as_str(),
                    detail,
                }],
                detail: None,
            }
        };
        let Self { results, messages, .. } = self;
        let answers = results.into_iter().filter_map(|taken| match taken {
            Taken::Message(event_id, place) => Some(answer(event_id, messages.get(place)?)),
            Taken::Nothing(answer) => Some(answer),
        });
        answers.collect()
    }

    /// The answers of a batch that could not be committed: everything of it is to be sent again.
    pub(crate) fn failed(self, detail: &str) -> Vec<Answer<Delivered>> {
        let answer = |taken| {
            let event_id = match taken {
                Taken::Message(event_id, _) => event_id,
                Taken::Nothing(answer) => answer.event_id,
            };
            Answer {
                event_id,
                outcome: "failed",
                scenario: None,
                messages: Vec::new(),
                detail: Some(detail.to_owned()),
            }
        };
        self.results.into_iter().map(answer).collect()
    }
}

/// Events of any number, cut into batches.
#[derive(Default)]
pub(crate) struct Batches {
    full: Vec<Batch>,
    open: Batch,
}

impl Batches {
    /// The batch that takes the next event.
    pub(crate) fn next(&mut self) -> &mut Batch {
        if self.open.results.len() >= BATCH_EVENTS {
            self.full.push(std::mem::take(&mut self.open));
        }
        &mut self.open
    }

    /// All of them.
    pub(crate) fn all(mut self) -> Vec<Batch> {
        self.full.push(self.open);
        self.full
    }
}

/// What an event's JSON is kept as.
pub(crate) fn written(event: &Value<'_>) -> String {
    serde_json::to_string(event).unwrap_or_default()
}

/// The way in, as one call uses it.
pub(crate) struct Intake<'a, C> {
    pub(crate) formatter: &'a Formatter,
    pub(crate) db: &'a Db,
    pub(crate) courier: &'a C,
    pub(crate) path: EntryPath,
}

impl<C: Courier> Intake<'_, C> {
    /// The outbox that it fills.
    pub(crate) fn outbox(&self) -> Outbox<'_, C> {
        Outbox { db: self.db, courier: self.courier, function: FUNCTION }
    }

    /// Commits a batch: after it, every message will go out, and every event that needs somebody can be found; one that
    /// needed somebody when it came before, and sends a message now, does not any more.
    pub(crate) async fn commit(&self, batch: &Batch) -> Result<(), DbError> {
        let started = Instant::now();
        store::keep(self.db, &batch.kept, path_name(self.path), self.courier.now_ms()).await?;
        self.outbox().enqueue(&batch.messages).await?;
        let became = batch.messages.iter().map(|message| (message.event_id.as_str(), message.scenario)).collect();
        store::close(self.db, &became, self.courier.now_ms()).await?;
        for taken in &batch.results {
            if let Taken::Nothing(answer) = taken {
                let key = answer.event_id.as_ref().map_or("-", Id::as_str);
                log(key, answer.outcome, answer.detail.as_deref(), started.elapsed(), self.path);
            }
        }
        Ok(())
    }

    /// Delivers a batch's own messages, and a few that are overdue.
    pub(crate) async fn deliver(&self, ids: &[String], until_ms: i64) -> Result<Tally, DbError> {
        let outbox = self.outbox();
        let mut tally = Tally::default();
        if !ids.is_empty() {
            tally += outbox.deliver(Whose::These(ids), ids.len(), until_ms).await?;
        }
        tally += outbox.deliver(Whose::Any, OVERDUE, until_ms).await?;
        Ok(tally)
    }

    /// The states of a committed batch's messages.
    pub(crate) async fn states(&self, batch: &Batch) -> Result<States, DbError> {
        Ok(ledger::states(self.db, &batch.ids()).await?.into_iter().collect())
    }

    /// What became of a committed batch, in the order of its events.
    pub(crate) async fn answers(&self, batch: Batch) -> Result<Vec<Answer<Delivered>>, DbError> {
        let states = self.states(&batch).await?;
        Ok(batch.answers(&states))
    }
}

/// As a table calls an entry path.
const fn path_name(path: EntryPath) -> &'static str {
    match path {
        EntryPath::Http => "http",
        EntryPath::Redis => "redis",
        EntryPath::Stream => "stream",
    }
}

/// Writes the line of an event that sent nothing.
pub(crate) fn log(key: &str, outcome: &str, detail: Option<&str>, took: Duration, path: EntryPath) {
    Line { known_as: (), what: "event", key, outcome, detail, took, path, version: VERSION }.write();
}

#[cfg(test)]
mod tests {
    use shared::json;

    use super::*;
    use crate::format::tests::formatter;

    #[test]
    fn a_committed_event_whose_state_cannot_be_read_is_pending() {
        let mut batch = Batch::default();
        for text in [include_str!("../testdata/maxwell_update.json"), "7"] {
            let event = json::parse(text.as_bytes()).unwrap();
            batch.add(formatter("").format(&event), || written(&event));
        }
        let ids = batch.ids();
        let answers = serde_json::to_value(batch.answers(&States::new())).unwrap();
        assert_eq!((&answers[0]["outcome"], &answers[1]["outcome"]), (&"pending".into(), &"rejected".into()));
        assert_eq!(
            (&answers[0]["messages"][0]["id"], &answers[0]["scenario"]),
            (&ids[0].as_str().into(), &"nurse_accepted".into())
        );
        assert!(answers[0]["event_id"].as_str().unwrap().starts_with("maxwell:"));
    }
}
