//! One call that delivers: rows are taken, posted side by side, and settled together while others fly.

use std::{collections::VecDeque, iter, time::Duration};

use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::{
    Answer, Attempted, Courier, Outbox, Tally, Whose,
    backoff::{GIVEN_UP_ATTEMPTS, Verdict, verdict},
    store::{self, LeaseRequest, Leased, Outcome},
};
use crate::{clock, db::DbError};

/// Posts that are under way at the same time.
const CONCURRENCY: usize = 8;
/// Rows that are taken at once.
const ROWS_MAX: usize = 64;
/// How long a row is ours, and how long it waits if we die.
pub(super) const LEASE_MS: i64 = 30_000;
/// A post begins only with so much of its lease left: more than it may take. What a slow gateway keeps from beginning
/// is given back.
const LEASE_LEFT_MS: i64 = 10_000;
/// So many messages in a row that fail at their first attempt, and this call delivers no more: the gateway is down for
/// everybody.
const FAILURES_MAX: u32 = 8;
/// So many in a row that had failed before, and it tries new ones alone: these may fail for what they are.
const REPEATED_FAILURES_MAX: u32 = 64;
/// From so many attempts on they are settled, all by one statement. A crash repeats those and what was posted meanwhile:
/// a few dozen.
const SETTLED_MAX: usize = 16;
/// A fault of our own configuration is said so often.
const ALARM_EVERY_MS: i64 = 60_000;

/// One delivery.
pub(super) struct Delivery<'a, C> {
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
    /// How long a post takes, as the last ones went; `None` before the first.
    post_ms: Option<i64>,
    /// The first fault of the database: nothing begins after it.
    fault: Option<DbError>,
    tally: Tally,
}

/// A post that has ended.
struct Ended {
    row: Leased,
    answer: Answer,
    began_at_ms: i64,
    ended_at_ms: i64,
}

/// What a delivery waits for.
enum Step {
    Posted(Ended),
    Settled(Result<(), DbError>),
}

impl<'a, C: Courier> Delivery<'a, C> {
    /// A delivery of at most `rows`, which begins nothing after `until_ms`.
    pub(super) fn new(outbox: &'a Outbox<'a, C>, rows: usize, until_ms: i64) -> Self {
        Self {
            outbox,
            token: outbox.courier.token(),
            until_ms,
            queue: VecDeque::new(),
            takable: rows,
            drained: false,
            failures: 0,
            repeated_failures: 0,
            post_ms: None,
            fault: None,
            tally: Tally::default(),
        }
    }

    /// Delivers, and says what became of it.
    pub(super) async fn run(mut self, whose: Whose<'_>) -> Result<Tally, DbError> {
        self.post_and_settle(whose).await;
        // What was taken and not tried is nobody's fault, whatever happened to the rest.
        let given_back = self.give_back().await;
        self.note(given_back);
        if self.stalled() {
            let Outbox { db, courier, .. } = self.outbox;
            let noted = store::note_stall(db, courier.queue(), courier.now_ms()).await;
            self.note(noted);
        }
        self.fault.map_or(Ok(self.tally), Err)
    }

    /// Whether the gateway took nothing, until there was no time, or no use in going on.
    fn stalled(&self) -> bool {
        let Tally { sent, logged, retrying, .. } = self.tally;
        self.fault.is_none() && sent + logged == 0 && retrying > 0 && !self.may_begin()
    }

    /// After a fault of the database, too, what was posted ends and is settled: the next statement may do its work.
    async fn post_and_settle(&mut self, whose: Whose<'_>) {
        let outbox = self.outbox;
        let token = self.token.clone();
        let mut under_way = FuturesUnordered::new();
        let (mut flying, mut settling) = (0, false);
        let mut ended = Vec::new();
        loop {
            while flying < CONCURRENCY && ended.len() < SETTLED_MAX {
                // Not between two statements of a settlement, which nobody polls meanwhile.
                if self.queue.is_empty() && !settling {
                    let taken = self.take(whose).await;
                    self.note(taken);
                }
                let Some(row) = self.next() else { break };
                under_way.push(post(outbox.courier, row, self.until_ms).map(Step::Posted).left_future());
                flying += 1;
            }
            // At once where the next rows depend on it, and when nothing else is left to do.
            let due = ended.len() >= SETTLED_MAX || self.queue.is_empty() || flying == 0;
            if due && !settling && !ended.is_empty() {
                let judged = self.judge(std::mem::take(&mut ended));
                under_way.push(settle(outbox, judged, &token).map(Step::Settled).right_future());
                settling = true;
            }
            let Some(first) = under_way.next().await else { return };
            for step in iter::once(first).chain(iter::from_fn(|| under_way.next().now_or_never().flatten())) {
                match step {
                    Step::Posted(post) => {
                        flying -= 1;
                        ended.push(post);
                    }
                    Step::Settled(done) => {
                        self.note(done);
                        settling = false;
                        self.drained = false;
                    }
                }
            }
        }
    }

    /// Keeps the first fault.
    fn note(&mut self, done: Result<(), DbError>) {
        if let (Err(fault), None) = (done, &self.fault) {
            self.fault = Some(fault);
        }
    }

    /// Whether another post may begin: not if it would likely be cut short.
    fn may_begin(&self) -> bool {
        // A little more for one that is held up.
        const HELD_UP_MS: i64 = 20;
        let post_ms = self.post_ms.map_or(0, |post_ms| post_ms * 5 / 4 + HELD_UP_MS);
        let ended_at_ms = self.outbox.courier.now_ms().saturating_add(post_ms);
        self.fault.is_none() && self.failures < FAILURES_MAX && ended_at_ms < self.until_ms
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

    /// Says what becomes of attempts, and counts and logs them.
    fn judge(&mut self, ended: Vec<Ended>) -> Judged {
        let courier = self.outbox.courier;
        let mut judged = Judged::default();
        // One that is far slower than the others counts for little.
        let took_ms: i64 = ended.iter().map(|post| post.ended_at_ms - post.began_at_ms).sum();
        let mean_ms = took_ms / i64::try_from(ended.len()).unwrap_or(1).max(1);
        self.post_ms = Some(self.post_ms.map_or(mean_ms, |post_ms| (3 * post_ms + mean_ms) / 4));
        for Ended { row, answer, began_at_ms, ended_at_ms } in ended {
            let given_up =
                row.attempts >= GIVEN_UP_ATTEMPTS && ended_at_ms - row.tried_since_ms >= courier.given_up_after_ms();
            let verdict = verdict(&row.id, row.attempts, given_up, &answer, ended_at_ms);
            let reason = reason(&answer);
            let (state, said, due_at_ms, tally) = match verdict {
                Verdict::Sent => ("sent", "sent", ended_at_ms, &mut self.tally.sent),
                Verdict::Logged => ("logged", "logged", ended_at_ms, &mut self.tally.logged),
                Verdict::Dead => ("dead", "dead", ended_at_ms, &mut self.tally.dead),
                Verdict::Retry { due_at_ms, .. } => ("pending", "retrying", due_at_ms, &mut self.tally.retrying),
            };
            *tally += 1;
            match verdict {
                Verdict::Sent | Verdict::Logged => (self.failures, self.repeated_failures) = (0, 0),
                // Its own fault, not the gateway's.
                Verdict::Dead => {}
                Verdict::Retry { ours, .. } => {
                    let failures = if row.attempts > 1 { &mut self.repeated_failures } else { &mut self.failures };
                    *failures += 1;
                    if ours {
                        judged.alarm.clone_from(&reason);
                    }
                }
            }
            let took_ms = ended_at_ms - began_at_ms;
            courier.log(&Attempted {
                id: &row.id,
                label: &row.label,
                recipient: &row.recipient,
                recipient_id: row.recipient_id.as_deref(),
                outcome: said,
                detail: reason.as_deref(),
                took: Duration::from_millis(took_ms.unsigned_abs()),
            });
            // Only a row that had failed before can have held others back.
            if state == "dead" || (state != "pending" && row.attempts > 1) {
                judged.freed.push(row.id.clone());
            }
            let line = attempt_line(began_at_ms, said, reason.as_deref(), took_ms);
            judged.outcomes.push(Outcome { id: row.id, order_id: row.order_id, state, due_at_ms, line });
        }
        judged
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

/// What becomes of attempts, as it is to be stored.
#[derive(Default)]
struct Judged {
    outcomes: Vec<Outcome>,
    /// Rows behind which nothing waits any more.
    freed: Vec<String>,
    /// What is wrong with our own configuration.
    alarm: Option<String>,
}

async fn settle<C: Courier>(outbox: &Outbox<'_, C>, judged: Judged, token: &str) -> Result<(), DbError> {
    let Outbox { db, courier, .. } = outbox;
    let Judged { outcomes, freed, alarm } = judged;
    let now_ms = courier.now_ms();
    // What waits is let go before its cause is settled: if this is cut off in between, it is blocked a little longer, and
    // not held for as long as it was.
    if !freed.is_empty() {
        store::let_go(db, courier.queue(), &freed, now_ms).await?;
    }
    store::settle(db, &outcomes, token, now_ms).await?;
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
fn attempt_line(began_at_ms: i64, outcome: &str, detail: Option<&str>, took_ms: i64) -> String {
    let mut line = serde_json::json!({
        "at": clock::rfc3339(began_at_ms),
        "outcome": outcome,
        "duration_ms": took_ms,
    });
    if let (Some(detail), Some(fields)) = (detail, line.as_object_mut()) {
        fields.insert("detail".into(), detail.into());
    }
    format!("{line}\n")
}
