//! What people are told, kept until the gateway has it.
//!
//! A function [enqueues](Outbox::enqueue) its messages and [delivers](Outbox::deliver) at once; whatever fails is
//! delivered by a later call, of any function. A message goes out at least once, always under the same `webhook-id`,
//! and those of one order in the order of its changes: a later one waits until the earlier one is sent or dead.
//!
//! What a courier of another kind carries, such as an order to a partner, lies in a queue of its own, and is leased, tried
//! again and settled by the same code: [`Outbox::enqueue_rows`].
//!
//! [`delivery`] posts what is due, [`backoff`] judges the gateway's answers, [`store`] is the SQL of sending, [`ledger`]
//! what operators read and do.

pub mod backoff;
mod delivery;
pub mod ledger;
mod store;

use std::{future::Future, time::Duration};

use serde::Serialize;

use self::delivery::Delivery;
pub use self::store::{MESSAGES, MIGRATIONS, NewRow, Whose};
use crate::{
    db::{Db, DbError},
    message::Message,
};

/// Messages that are enqueued by one statement: SQLite takes 32,766 values.
const ENQUEUED_MAX: usize = 1_000;
/// A body is kept so long after its message was sent.
const BODY_KEPT_MS: i64 = 30 * 24 * 3_600_000;
/// So long after a delivery that achieved nothing, a ring that brought nothing does not begin another.
const STALLED_MS: i64 = 5_000;
/// Bodies that one delivery removes: a small bite, as it holds the database's write lock.
const BODIES_REMOVED: i64 = 200;

/// What the gateway did with a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has the message: 2xx.
    Accepted,
    /// None is configured.
    NoGateway,
    /// It answered something else.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What `Retry-After` asks for, from now.
        retry_after_ms: Option<i64>,
    },
    /// No answer, for this reason.
    Unreachable(String),
    /// No answer within less time than the gateway is due.
    CutShort,
}

/// What became of an attempt, for the log.
#[derive(Clone, Debug)]
pub struct Attempted<'a> {
    /// The message's id.
    pub id: &'a str,
    /// The scenario's Chinese name.
    pub label: &'a str,
    /// `patient:98`.
    pub recipient: &'a str,
    /// `98`; `None` for an audience.
    pub recipient_id: Option<&'a str>,
    /// `sent`, `logged`, `retrying` or `dead`.
    pub outcome: &'static str,
    /// Why it is not sent.
    pub detail: Option<&'a str>,
    /// How long the post took.
    pub took: Duration,
}

/// The outside, as the outbox needs it. A simulation is another one.
pub trait Courier: Send + Sync {
    /// Posts `body` to the gateway of `recipient` (`patient:98`) under `id`, and gives up after `within`.
    fn post(&self, id: &str, recipient: &str, body: String, within: Duration) -> impl Future<Output = Answer> + Send;
    /// Unix milliseconds.
    fn now_ms(&self) -> i64;
    /// Writes a line for operators.
    fn log(&self, attempted: &Attempted<'_>);
    /// Says that our own configuration keeps messages from being sent.
    fn alarm(&self, reason: &str);
    /// How long a post may take at most.
    fn patience(&self) -> Duration;
    /// Unlike that of any other delivery.
    fn token(&self) -> String;
    /// Which rows it carries.
    fn queue(&self) -> &str {
        MESSAGES
    }
    /// After how long a row that nobody took is given up, in ms, if it was tried often enough.
    fn given_up_after_ms(&self) -> i64 {
        backoff::GIVEN_UP_AFTER_MS
    }
}

/// What deliveries did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The gateway has them.
    pub sent: u64,
    /// There is no gateway; the log has them.
    #[serde(skip_serializing_if = "is_zero")]
    pub logged: u64,
    /// They failed and are tried again.
    pub retrying: u64,
    /// They are given up.
    pub dead: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.logged += other.logged;
        self.retrying += other.retrying;
        self.dead += other.dead;
    }
}

/// The outbox of one function, as one call uses it.
pub struct Outbox<'a, C> {
    /// Where it lies; [`MIGRATIONS`] have run there.
    pub db: &'a Db,
    /// The outside.
    pub courier: &'a C,
    /// Whose messages these are.
    pub function: &'static str,
}

impl<C: Courier> Outbox<'_, C> {
    /// Keeps the messages. One whose id is there already changes nothing.
    ///
    /// # Errors
    /// Those of the database; then they are to be enqueued again. Of more than 1,000 some may be kept.
    pub async fn enqueue(&self, messages: &[Message]) -> Result<(), DbError> {
        for messages in messages.chunks(ENQUEUED_MAX) {
            self.enqueue_rows(MESSAGES, messages.iter().map(row).collect::<Result<_, _>>()?).await?;
        }
        Ok(())
    }

    /// Keeps rows of a queue, at most 1,000. One whose id is there already changes nothing.
    ///
    /// # Errors
    /// Those of the database; then they are to be enqueued again.
    pub async fn enqueue_rows(&self, queue: &str, rows: Vec<NewRow<'_>>) -> Result<(), DbError> {
        if rows.is_empty() {
            return Ok(());
        }
        store::insert(self.db, (self.function, queue), rows, self.courier.now_ms()).await
    }

    /// Posts what is due, at most `rows` of it, and begins nothing after `until_ms`.
    ///
    /// # Errors
    /// Those of the database; what was taken and not settled is taken again when its lease ends.
    pub async fn deliver(&self, whose: Whose<'_>, rows: usize, until_ms: i64) -> Result<Tally, DbError> {
        Delivery::new(self, rows, until_ms).run(whose).await
    }

    /// Posts what is due at a ring of a stream's doorbell, of whose drain `brought` says whether it read entries. A ring
    /// holds all functions' Redis events up: one that brought none posts nothing where the gateway has just kept a
    /// delivery for nothing, and nothing was sent since.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn deliver_rung(&self, brought: bool, until_ms: i64) -> Result<Tally, DbError> {
        let since_ms = self.courier.now_ms() - STALLED_MS;
        if !brought && store::has_stalled(self.db, self.courier.queue(), since_ms).await? {
            return Ok(Tally::default());
        }
        self.deliver(Whose::Any, usize::MAX, until_ms).await
    }

    /// How many messages wait.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pending(&self) -> Result<u64, DbError> {
        store::pending(self.db, self.courier.queue()).await
    }

    /// Removes some of the bodies that are old enough, and returns how many.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_bodies(&self) -> Result<u64, DbError> {
        store::forget_bodies(self.db, self.courier.now_ms() - BODY_KEPT_MS, BODIES_REMOVED).await
    }
}

fn row(message: &Message) -> Result<NewRow<'_>, DbError> {
    let body = serde_json::to_string(message)
        .map_err(|error| DbError::Other(format!("a message cannot be written: {error}")))?;
    Ok(NewRow {
        id: &message.id,
        event_id: message.event_id.as_str(),
        order_id: message.order_id.as_str(),
        scenario: message.scenario,
        label: message.label,
        recipient: message.recipient.key(),
        recipient_id: message.recipient.id.as_ref().map(crate::id::Id::as_str),
        channel: message.channel.as_str(),
        occurred_at_ms: message.occurred_at_ms,
        body,
    })
}

#[cfg(test)]
mod tests;
