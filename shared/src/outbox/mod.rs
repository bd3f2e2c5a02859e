//! What people are told, kept until the gateway has it.
//!
//! A function [enqueues](Outbox::enqueue) its messages and [delivers](Outbox::deliver) at once; whatever fails is
//! delivered by a later call, of any function. A message goes out at least once, always under the same `webhook-id`,
//! and those of one order in the order of its changes: a later one waits until the earlier one is sent or dead.
//!
//! What a courier of another kind carries, such as an order to a partner, lies in a queue of its own, and is leased, tried
//! again and settled by the same code: [`Outbox::enqueue_rows`].
//!
//! [`backoff`] judges the gateway's answers, [`store`] is the SQL of sending, [`ledger`] what operators read and do.

pub mod backoff;
pub mod ledger;
mod store;

use std::{collections::VecDeque, future::Future, time::Duration};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use serde::Serialize;

pub use self::store::{MESSAGES, MIGRATIONS, NewRow, Whose};
use self::{
    backoff::{Verdict, verdict},
    store::{LeaseRequest, Leased, Outcome},
};
use crate::{
    clock,
    db::{Db, DbError},
    message::Message,
};

/// Posts that are under way at the same time.
const CONCURRENCY: usize = 8;
/// Messages that are enqueued by one statement: SQLite takes 32,766 values.
const ENQUEUED_MAX: usize = 1_000;
/// Rows that are taken at once.
const ROWS_MAX: usize = 64;
/// How long a row is ours, and how long it waits if we die.
const LEASE_MS: i64 = 30_000;
/// A post begins only with so much of its lease left: more than it may take. What a slow gateway keeps from beginning
/// is given back.
const LEASE_LEFT_MS: i64 = 10_000;
/// So many messages in a row that fail at their first attempt, and this call delivers no more: the gateway is down for
/// everybody.
const FAILURES_MAX: u32 = 8;
/// So many in a row that had failed before, and it tries new ones alone: these may fail for what they are.
const REPEATED_FAILURES_MAX: u32 = 64;
/// Attempts that are settled by one statement: what a crash in between would repeat.
const SETTLED_MAX: usize = 16;
/// A body is kept so long after its message was sent.
const BODY_KEPT_MS: i64 = 30 * 24 * 3_600_000;
/// Bodies that one delivery removes: a small bite, as it holds the database's write lock.
const BODIES_REMOVED: i64 = 200;
/// A fault of our own configuration is said so often.
const ALARM_EVERY_MS: i64 = 60_000;

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
    /// After how long a row that nobody took is given up, in ms.
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

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Sent => self.sent += 1,
            Verdict::Logged => self.logged += 1,
            Verdict::Retry { .. } => self.retrying += 1,
            Verdict::Dead => self.dead += 1,
        }
    }
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
        let mut call = Call {
            outbox: self,
            token: self.courier.token(),
            until_ms,
            queue: VecDeque::new(),
            takable: rows,
            drained: false,
            failures: 0,
            repeated_failures: 0,
            tally: Tally::default(),
        };
        let done = call.run(whose).await;
        // What was taken and not tried is nobody's fault, whatever happened to the rest.
        let given_back = call.give_back().await;
        done?;
        given_back?;
        Ok(call.tally)
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

/// One delivery.
struct Call<'a, C> {
    outbox: &'a Outbox<'a, C>,
    token: String,
    until_ms: i64,
    /// Taken and not yet tried.
    queue: VecDeque<Leased>,
    /// How many rows may still be taken.
    takable: usize,
    /// Nothing was due when last asked, and nothing has changed since.
    drained: bool,
    /// The failures since the last success, of first attempts.
    failures: u32,
    /// And of others.
    repeated_failures: u32,
    tally: Tally,
}

/// A post that has ended.
struct Ended {
    row: Leased,
    answer: Answer,
    began_at_ms: i64,
    ended_at_ms: i64,
}

impl<C: Courier> Call<'_, C> {
    async fn run(&mut self, whose: Whose<'_>) -> Result<(), DbError> {
        let outbox = self.outbox;
        let mut flying = FuturesUnordered::new();
        let mut ended = Vec::new();
        loop {
            while flying.len() < CONCURRENCY {
                if self.queue.is_empty() {
                    self.take(whose).await?;
                }
                let Some(row) = self.next() else { break };
                flying.push(post(outbox.courier, row, self.until_ms));
            }
            let Some(first) = flying.next().await else { break };
            ended.push(first);
            while let Some(Some(next)) = flying.next().now_or_never() {
                ended.push(next);
            }
            // Settled together while others fly; at once where the next rows depend on it.
            if ended.len() >= SETTLED_MAX || self.queue.is_empty() {
                self.settle(std::mem::take(&mut ended)).await?;
            }
        }
        // Time is over, with rows still in the queue.
        if ended.is_empty() { Ok(()) } else { self.settle(ended).await }
    }

    /// Whether another post may begin.
    fn may_begin(&self) -> bool {
        self.failures < FAILURES_MAX && self.outbox.courier.now_ms() < self.until_ms
    }

    /// Whether only messages that nobody has tried are worth trying.
    fn new_alone(&self) -> bool {
        self.repeated_failures >= REPEATED_FAILURES_MAX
    }

    async fn take(&mut self, whose: Whose<'_>) -> Result<(), DbError> {
        if self.drained || self.takable == 0 || !self.may_begin() {
            return Ok(());
        }
        let now_ms = self.outbox.courier.now_ms();
        let request = LeaseRequest {
            whose,
            queue: self.outbox.courier.queue(),
            token: &self.token,
            now_ms,
            until_ms: now_ms + LEASE_MS,
            rows: self.takable.min(ROWS_MAX),
            new_alone: self.new_alone(),
        };
        let rows = store::lease(self.outbox.db, &request).await?;
        self.drained = rows.is_empty();
        self.takable -= rows.len();
        self.queue.extend(rows);
        Ok(())
    }

    /// The next row to post. One whose lease has little left is somebody else's soon.
    fn next(&mut self) -> Option<Leased> {
        let fresh = self.queue.front()?.leased_until_ms - self.outbox.courier.now_ms() >= LEASE_LEFT_MS;
        if fresh && self.may_begin() { self.queue.pop_front() } else { None }
    }

    async fn settle(&mut self, ended: Vec<Ended>) -> Result<(), DbError> {
        let Outbox { db, courier, .. } = self.outbox;
        let mut outcomes = Vec::with_capacity(ended.len());
        let mut alarm = None;
        for ended in &ended {
            let row = &ended.row;
            let tried_ms = ended.ended_at_ms - row.tried_since_ms;
            let given_up = tried_ms >= courier.given_up_after_ms();
            let verdict = verdict(&row.id, row.attempts, given_up, &ended.answer, ended.ended_at_ms);
            self.tally.count(&verdict);
            let reason = reason(&ended.answer);
            let (state, said, due_at_ms) = match verdict {
                Verdict::Sent => ("sent", "sent", ended.ended_at_ms),
                Verdict::Logged => ("logged", "logged", ended.ended_at_ms),
                Verdict::Dead => ("dead", "dead", ended.ended_at_ms),
                Verdict::Retry { due_at_ms, .. } => ("pending", "retrying", due_at_ms),
            };
            match verdict {
                Verdict::Sent | Verdict::Logged => (self.failures, self.repeated_failures) = (0, 0),
                // Its own fault, not the gateway's.
                Verdict::Dead => {}
                Verdict::Retry { ours, .. } => {
                    let failures = if row.attempts > 1 { &mut self.repeated_failures } else { &mut self.failures };
                    *failures += 1;
                    if ours {
                        alarm.clone_from(&reason);
                    }
                }
            }
            let took_ms = ended.ended_at_ms - ended.began_at_ms;
            courier.log(&Attempted {
                id: &row.id,
                label: &row.label,
                recipient: &row.recipient,
                recipient_id: row.recipient_id.as_deref(),
                outcome: said,
                detail: reason.as_deref(),
                took: Duration::from_millis(took_ms.unsigned_abs()),
            });
            outcomes.push(Outcome {
                id: &row.id,
                order_id: &row.order_id,
                state,
                due_at_ms,
                line: attempt_line(ended, said, reason.as_deref(), took_ms),
            });
        }
        let now_ms = courier.now_ms();
        // Only a row that had failed before can have held others back. They are let go before it is settled: if this is
        // cut off in between, they are blocked a little longer, and not held for as long as it was.
        let freed = ended.iter().zip(&outcomes).filter(|(ended, outcome)| {
            outcome.state != "pending" && (ended.row.attempts > 1 || outcome.state == "dead")
        });
        let freed: Vec<&str> = freed.map(|(_, outcome)| outcome.order_id).collect();
        if !freed.is_empty() {
            store::let_go(db, courier.queue(), &freed, now_ms).await?;
        }
        store::settle(db, &outcomes, &self.token, now_ms).await?;
        self.drained = false;
        let retried: Vec<_> = outcomes.iter().filter(|outcome| outcome.state == "pending").collect();
        if !retried.is_empty() {
            store::hold_back(db, courier.queue(), &retried).await?;
        }
        if let Some(reason) = alarm
            && store::may_say(db, &format!("{} refused", courier.queue()), now_ms, ALARM_EVERY_MS).await?
        {
            courier.alarm(&reason);
        }
        Ok(())
    }

    async fn give_back(&mut self) -> Result<(), DbError> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.queue.iter().map(|row| row.id.as_str()).collect();
        store::give_back(self.outbox.db, &ids, &self.token).await
    }
}

async fn post(courier: &impl Courier, mut row: Leased, until_ms: i64) -> Ended {
    let began_at_ms = courier.now_ms();
    let left = Duration::from_millis(u64::try_from(until_ms - began_at_ms).unwrap_or_default());
    let patience = courier.patience();
    let body = std::mem::take(&mut row.body);
    let mut answer = courier.post(&row.id, &row.recipient, body, left.min(patience)).await;
    let ended_at_ms = courier.now_ms();
    if left < patience && ended_at_ms >= until_ms && matches!(answer, Answer::Unreachable(_)) {
        answer = Answer::CutShort;
    }
    Ended { row, answer, began_at_ms, ended_at_ms }
}

/// Why a message is not sent.
fn reason(answer: &Answer) -> Option<String> {
    match answer {
        Answer::Accepted => None,
        Answer::NoGateway => Some("no gateway is configured".into()),
        Answer::Refused { status, .. } => Some(format!("the gateway answered {status}")),
        Answer::Unreachable(reason) => Some(reason.clone()),
        Answer::CutShort => Some("the gateway did not answer within the time that this call had left".into()),
    }
}

/// One attempt, as `GET …/messages/{id}` shows it.
fn attempt_line(ended: &Ended, outcome: &str, detail: Option<&str>, took_ms: i64) -> String {
    let mut line = serde_json::json!({
        "at": clock::rfc3339(ended.began_at_ms),
        "outcome": outcome,
        "duration_ms": took_ms,
    });
    if let (Some(detail), Some(fields)) = (detail, line.as_object_mut()) {
        fields.insert("detail".into(), detail.into());
    }
    format!("{line}\n")
}

#[cfg(test)]
mod tests;
