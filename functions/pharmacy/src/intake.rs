//! What happens to orders, committed. Every entry path comes through here: the same checks, the same log line.
//!
//! A move is one statement ([`store::advance`]); its effects, messages and submissions, are enqueued after it under ids
//! of their own and noted as done. Whatever is repeated, or cut off between two statements, ends the same.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use serde::Serialize;
use shared::{
    db::{Db, DbError},
    digest,
    log::{EntryPath, Line},
    message::{Accounts, Message},
    outbox::{Courier, NewRow, Outbox, Whose},
    problem::{Fault, Kind, Problem},
};

use crate::{
    history::Step,
    notice::{event_id, notices},
    order::Order,
    partner::{self, Callback, Partner},
    rules::{Fired, RuleSet},
    status::{Event, Status},
    store::{self, Kept, KeptCallback, NewOrder, Payment, Review, With},
    submission::{CANCEL, SUBMIT, queue},
};

/// The component's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whose messages these are, in the shared outbox.
pub(crate) const FUNCTION: &str = "pharmacy";

/// Overdue messages of others that a call delivers beside its own, so that traffic alone heals.
const OVERDUE: usize = 8;

/// So many calls of an instance, and one of them delivers what is overdue.
const EVERY: u32 = 16;

/// Orders or callbacks that one statement finds left undone.
const LEFT: i64 = 100;

/// The way in, as one call uses it.
pub(crate) struct Intake<'a, C> {
    pub(crate) db: &'a Db,
    /// The same, for what steps lead to: commits that a power cut may undo, as the steps repeat them.
    pub(crate) effects: &'a Db,
    pub(crate) partners: &'a [&'a dyn Partner],
    pub(crate) accounts: &'a Accounts,
    /// Who carries messages to people.
    pub(crate) courier: &'a C,
    pub(crate) path: EntryPath,
}

impl<C> Clone for Intake<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Intake<'_, C> {}

/// What a caller is told of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    pub(crate) order_no: String,
    pub(crate) pharmacy: String,
    pub(crate) status: Status,
    pub(crate) reasons: Vec<Fired>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) refund_due: bool,
}

impl Answer {
    fn of(kept: &Kept, status: Status) -> Self {
        Self {
            order_no: kept.order.order_no.as_str().to_owned(),
            pharmacy: kept.pharmacy.clone(),
            status,
            reasons: kept.reasons.clone(),
            refund_due: kept.refund_due && status.owes_refund(),
        }
    }
}

/// What became of an order that was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is new.
    New(Answer),
    /// It was placed before, the same: this is the first answer.
    Again(Answer),
    /// Its number is another order's.
    Conflict,
}

/// What an event did to an order.
enum Happened {
    Moved(Kept),
    /// The order is where the event does not move it.
    Stayed(Kept),
    Missing,
}

/// What a callback did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reported {
    /// It moved the order.
    Applied,
    /// The order is there already.
    Repeated,
    /// The order is further, or has ended.
    Late,
}

/// A request to change an order that was not followed.
#[derive(Debug)]
pub(crate) enum Denied {
    Problem(Problem),
    Database(DbError),
}

impl From<DbError> for Denied {
    fn from(error: DbError) -> Self {
        Self::Database(error)
    }
}

impl From<Problem> for Denied {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Problem(problem) => problem,
            Denied::Database(error) => error.into(),
        }
    }
}

/// The problem of an order that is not here.
pub(crate) fn missing(order_no: &str) -> Problem {
    let order_no: String = order_no.chars().take(shared::id::MAX_LEN + 16).collect();
    Problem::new(Kind::NotFound, format!("there is no order `{order_no}`"))
}

fn wrong_state(kept: &Kept, what: &str) -> Problem {
    Problem::new(Kind::WrongState, format!("the order is {}: {what}", kept.status.as_str()))
}

impl<'a, C: Courier> Intake<'a, C> {
    /// The outbox of messages to people.
    pub(crate) fn outbox(&self) -> Outbox<'a, C> {
        Outbox { db: self.effects, courier: self.courier, function: FUNCTION }
    }

    /// The partner of an order's number.
    ///
    /// # Errors
    /// 422, which says which numbers there are partners for.
    pub(crate) fn partner(&self, order: &Order) -> Result<&'a dyn Partner, Problem> {
        partner::of_order(self.partners, order.order_no.as_str()).ok_or_else(|| {
            let known: Vec<_> =
                self.partners.iter().map(|partner| format!("{} ({})", partner.prefix(), partner.name())).collect();
            let detail = format!("no pharmacy has order numbers like this; known prefixes: {}", known.join(", "));
            Problem::new(Kind::Unprocessable, "no pharmacy is known for the order's number")
                .with(Fault::at("/order_no", detail))
        })
    }

    /// Places orders with the verdict of `rules`, and has their effects. Each must have its partner.
    pub(crate) async fn place(
        &self,
        orders: &[(Order, &'static str)],
        rules: &RuleSet,
    ) -> Result<Vec<Placed>, DbError> {
        let (placed, kept) = self.record(orders, rules).await?;
        self.tell(&kept).await?;
        Ok(placed)
    }

    /// Places them and leaves their effects to [`finish`](Self::finish): two statements for all of them.
    pub(crate) async fn record(
        &self,
        orders: &[(Order, &'static str)],
        rules: &RuleSet,
    ) -> Result<(Vec<Placed>, Vec<Kept>), DbError> {
        let started = Instant::now();
        let now_ms = self.courier.now_ms();
        let mut rows = Vec::with_capacity(orders.len());
        for (order, pharmacy) in orders {
            rows.push(new_order(order, pharmacy, rules, now_ms)?);
        }
        let inserted = store::insert(self.db, &rows, now_ms).await?;
        let numbers: Vec<_> = rows.iter().map(|row| row.order_no.as_str()).collect();
        let kept = store::get_all(self.db, &numbers).await?;
        let by_number: BTreeMap<_, _> = kept.iter().map(|kept| (kept.order.order_no.as_str(), kept)).collect();
        // Of two with one number in one batch, the first is the new one.
        let mut new: Vec<&str> = inserted.iter().map(String::as_str).collect();
        let mut placed = Vec::with_capacity(rows.len());
        for row in &rows {
            let kept = by_number.get(row.order_no.as_str());
            let kept = kept.ok_or_else(|| DbError::Other("an order that is kept cannot be read".into()))?;
            let is_new = new.iter().position(|number| *number == row.order_no).map(|place| new.swap_remove(place));
            let answer = Answer::of(kept, kept.placed_as);
            let (outcome, said) = match is_new {
                Some(_) => (Placed::New(answer), kept.placed_as.as_str()),
                None if kept.body == row.body => (Placed::Again(answer), "repeated"),
                None => (Placed::Conflict, "conflict"),
            };
            // It is so already, whatever becomes of its effects.
            log("order", &row.order_no, said, None, started.elapsed(), self.path);
            placed.push(outcome);
        }
        Ok((placed, kept))
    }

    /// The patient has paid.
    pub(crate) async fn pay(&self, order_no: &str, payment: Payment) -> Result<Answer, Denied> {
        let kept = store::get(self.db, order_no).await?.ok_or_else(|| missing(order_no))?;
        if payment.amount_fen != kept.order.amount_fen {
            let detail = format!("must be the order's, {}", kept.order.amount_fen);
            let problem = Problem::new(Kind::Unprocessable, "the amount is not the order's");
            return Err(problem.with(Fault::at("/amount_fen", detail)).into());
        }
        let by = Some(format!("payment:{}", payment.payment_id));
        let with = With { payment: Some(payment.clone()), ..With::default() };
        match self.happen(order_no, Event::Paid, by, None, &with).await? {
            Happened::Moved(kept) => Ok(Answer::of(&kept, Status::Submitted)),
            Happened::Stayed(kept) => match &kept.payment {
                Some(paid) if *paid == payment => Ok(Answer::of(&kept, Status::Submitted)),
                Some(paid) => {
                    let detail =
                        format!("the order was paid by the payment `{}`, at {}", paid.payment_id, paid.paid_at);
                    Err(Problem::new(Kind::Conflict, detail).into())
                }
                None => Err(wrong_state(&kept, "it takes no payment; what was paid is to be given back").into()),
            },
            Happened::Missing => Err(missing(order_no).into()),
        }
    }

    /// A pharmacist has decided. The first decision counts.
    pub(crate) async fn review(&self, order_no: &str, review: Review) -> Result<Answer, Denied> {
        let event = if review.decision == "approve" { Event::Approved } else { Event::TurnedDown };
        let by = Some(format!("pharmacist:{}", review.pharmacist_id));
        let with = With { review: Some(review.clone()), ..With::default() };
        match self.happen(order_no, event, by, review.note.clone(), &with).await? {
            Happened::Moved(kept) => Ok(Answer::of(&kept, event.row().to)),
            Happened::Stayed(kept) => match &kept.review {
                Some(first) if first.pharmacist_id == review.pharmacist_id && first.decision == review.decision => {
                    Ok(Answer::of(&kept, event.row().to))
                }
                Some(first) => {
                    let decided = if first.decision == "approve" { "approved" } else { "rejected" };
                    let detail = format!("pharmacist `{}` {decided} it at {}", first.pharmacist_id, first.decided_at);
                    Err(Problem::new(Kind::Conflict, detail).into())
                }
                None => Err(wrong_state(&kept, "it waits for no review").into()),
            },
            Happened::Missing => Err(missing(order_no).into()),
        }
    }

    /// The clinic or the patient calls the order off.
    pub(crate) async fn cancel(&self, order_no: &str, reason: Option<String>) -> Result<Answer, Denied> {
        match self.happen(order_no, Event::Cancelled, None, reason, &With::default()).await? {
            Happened::Moved(kept) => Ok(Answer::of(&kept, Status::Cancelled)),
            Happened::Stayed(kept) if kept.status == Status::Cancelled => Ok(Answer::of(&kept, Status::Cancelled)),
            Happened::Stayed(kept) => Err(wrong_state(&kept, "it cannot be cancelled any more").into()),
            Happened::Missing => Err(missing(order_no).into()),
        }
    }

    /// A partner has called back: the callback is kept under its replay-proof id, and then applied.
    pub(crate) async fn called_back(
        &self,
        partner: &dyn Partner,
        callback: &Callback,
    ) -> Result<(Answer, Reported), Denied> {
        let started = Instant::now();
        let order_no = callback.order_no.as_str();
        // Another partner's orders are none of its affair.
        let known = store::get(self.db, order_no).await?.is_some_and(|kept| kept.pharmacy == partner.name());
        if !known {
            return Err(missing(order_no).into());
        }
        let kept = store::keep_callback(self.db, partner.name(), callback, self.courier.now_ms()).await?;
        if kept.callback != *callback {
            return Err(Problem::new(Kind::Conflict, "another callback came under this id before").into());
        }
        let done = self.apply(&kept).await;
        let outcome = match &done {
            Ok((_, Reported::Applied)) => callback.report.as_str(),
            Ok((_, Reported::Repeated)) => "repeated",
            Ok((_, Reported::Late)) => "late",
            Err(_) => "refused",
        };
        log("callback", order_no, outcome, None, started.elapsed(), self.path);
        done
    }

    async fn apply(&self, kept: &KeptCallback) -> Result<(Answer, Reported), Denied> {
        let KeptCallback { pharmacy, callback, settled } = kept;
        let order_no = callback.order_no.as_str();
        let reported = match self.report(order_no, pharmacy, callback.report, callback.reason.clone()).await {
            Err(Denied::Problem(problem)) => {
                store::forget_callback(self.db, pharmacy, &callback.replay_id).await?;
                return Err(problem.into());
            }
            reported => reported?,
        };
        if !settled {
            store::settle_callback(self.db, pharmacy, &callback.replay_id).await?;
        }
        Ok(reported)
    }

    /// A partner says what became of an order, in its answer or by a callback.
    pub(crate) async fn report(
        &self,
        order_no: &str,
        pharmacy: &str,
        event: Event,
        reason: Option<String>,
    ) -> Result<(Answer, Reported), Denied> {
        let by = Some(format!("pharmacy:{pharmacy}"));
        match self.happen(order_no, event, by, reason, &With::default()).await? {
            Happened::Moved(kept) => Ok((Answer::of(&kept, kept.status), Reported::Applied)),
            Happened::Stayed(kept) if kept.sent_at_ms.is_none() => {
                Err(wrong_state(&kept, "the pharmacy has not been given it").into())
            }
            Happened::Stayed(kept) => {
                let reported = if kept.status == event.row().to { Reported::Repeated } else { Reported::Late };
                Ok((Answer::of(&kept, kept.status), reported))
            }
            Happened::Missing => Err(missing(order_no).into()),
        }
    }

    /// A partner keeps an order that was called off: its history says so. Returns whether that is new.
    pub(crate) async fn cancel_refused(&self, order_no: &str, pharmacy: &str, reason: String) -> Result<bool, DbError> {
        let step = Step::cancel_refused(self.courier.now_ms(), format!("pharmacy:{pharmacy}"), reason);
        let Some(kept) = store::note(self.db, order_no, Status::Cancelled, &step).await? else { return Ok(false) };
        self.tell(&[kept]).await?;
        Ok(true)
    }

    async fn happen(
        &self,
        order_no: &str,
        event: Event,
        by: Option<String>,
        detail: Option<String>,
        with: &With,
    ) -> Result<Happened, DbError> {
        let started = Instant::now();
        let step = Step::new(event, self.courier.now_ms(), by, detail);
        if let Some(kept) = store::advance(self.db, order_no, event, &step, with).await? {
            log("order", order_no, event.row().to.as_str(), None, started.elapsed(), self.path);
            self.tell(std::slice::from_ref(&kept)).await?;
            return Ok(Happened::Moved(kept));
        }
        match store::get(self.db, order_no).await? {
            Some(kept) => {
                // Whoever repeats a call finishes what it had begun.
                self.tell(std::slice::from_ref(&kept)).await?;
                Ok(Happened::Stayed(kept))
            }
            None => Ok(Happened::Missing),
        }
    }

    /// Enqueues what the orders' untold steps lead to, and notes that it did.
    async fn tell(&self, orders: &[Kept]) -> Result<(), DbError> {
        let untold: Vec<&Kept> = orders.iter().filter(|kept| kept.told < kept.history.len()).collect();
        if untold.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        for kept in &untold {
            let partner = partner::named(self.partners, &kept.pharmacy);
            for step in kept.history.iter().skip(kept.told) {
                let notices = notices(&kept.order, step).into_iter();
                messages.extend(notices.map(|notice| Message::new(notice, self.accounts)));
                if let Some(partner) = partner {
                    self.hand_over(partner, kept, step).await?;
                }
            }
        }
        self.outbox().enqueue(&messages).await?;
        let done: Vec<_> = untold.iter().map(|kept| (kept.order.order_no.as_str(), kept.history.len())).collect();
        store::told(self.effects, &done).await
    }

    /// Enqueues what the partner must be given by a step: a paid order, and that it was called off if it has it.
    async fn hand_over(&self, partner: &dyn Partner, kept: &Kept, step: &Step) -> Result<(), DbError> {
        let has_it =
            kept.sent_at_ms.is_some() || kept.history.iter().any(|step| step.event == Event::PartnerAccepted.as_str());
        let (what, label) = if step.event == Event::Paid.as_str() {
            (SUBMIT, "提交药房")
        } else if step.event == Event::Cancelled.as_str() && has_it {
            (CANCEL, "通知药房取消")
        } else {
            return Ok(());
        };
        let order_no = kept.order.order_no.as_str();
        let id = submission_id(what, order_no);
        let event_id = event_id(order_no, &step.status);
        let queue = queue(partner);
        let row = NewRow {
            id: &id,
            event_id: event_id.as_ref().map_or("-", shared::id::Id::as_str),
            order_id: order_no,
            scenario: what,
            label,
            recipient: queue.clone(),
            recipient_id: Some(order_no),
            channel: "partner",
            occurred_at_ms: step.at_ms,
            body: format!("{what} {order_no}"),
        };
        self.outbox().enqueue_rows(&queue, vec![row]).await
    }

    /// Finishes what was begun and cut off, until none is left or the time is over: callbacks that were kept and not
    /// applied, effects that were not enqueued. Returns how many it found.
    pub(crate) async fn finish(&self, until_ms: i64) -> Result<u64, DbError> {
        let mut found = 0;
        loop {
            let callbacks = store::open_callbacks(self.db, LEFT).await?;
            for callback in &callbacks {
                if let Err(Denied::Database(error)) = self.apply(callback).await {
                    return Err(error);
                }
            }
            let left = store::untold(self.db, LEFT).await?;
            self.tell(&left).await?;
            found += (callbacks.len() + left.len()) as u64;
            let all = [callbacks.len(), left.len()].into_iter().all(|some| (some as i64) < LEFT);
            if all || self.courier.now_ms() >= until_ms {
                return Ok(found);
            }
        }
    }

    /// Delivers an order's messages, and now and then a few that are overdue. What it leaves is in the outbox.
    pub(crate) async fn deliver(&self, orders: &[&str], until_ms: i64) -> Result<(), DbError> {
        let kept = store::get_all(self.db, orders).await?;
        let ids: Vec<String> = kept.iter().flat_map(|kept| self.message_ids(kept)).collect();
        if !ids.is_empty() {
            self.outbox().deliver(Whose::These(&ids), ids.len(), until_ms).await?;
        }
        static CALLS: AtomicU32 = AtomicU32::new(0);
        if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            self.outbox().deliver(Whose::Any, OVERDUE, until_ms).await?;
        }
        Ok(())
    }

    /// The ids of all messages that an order has led to.
    fn message_ids(&self, kept: &Kept) -> Vec<String> {
        let notices = kept.history.iter().flat_map(|step| notices(&kept.order, step));
        notices.map(|notice| Message::new(notice, self.accounts).id).collect()
    }
}

/// The id of what a partner is given of an order: the same for every attempt.
pub(crate) fn submission_id(what: &str, order_no: &str) -> String {
    digest::hex("sub_", format!("{what}\n{order_no}").as_bytes())
}

fn new_order(order: &Order, pharmacy: &'static str, rules: &RuleSet, now_ms: i64) -> Result<NewOrder, DbError> {
    let unwritable = |error: serde_json::Error| DbError::Other(error.to_string());
    let verdict = rules.judge(order);
    let by = format!("doctor:{}", order.doctor_id);
    let steps =
        [Step::received(now_ms, by), Step::new(verdict.event, now_ms, Some(format!("rules:{}", rules.version)), None)];
    Ok(NewOrder {
        order_no: order.order_no.as_str().to_owned(),
        pharmacy,
        status: verdict.event.row().to.as_str(),
        rules_version: rules.version,
        reasons: serde_json::to_string(&verdict.reasons()).map_err(unwritable)?,
        hidden: serde_json::to_string(&verdict.hidden).map_err(unwritable)?,
        body: serde_json::to_string(order).map_err(unwritable)?,
        amount_fen: order.amount_fen,
        history: steps.iter().map(Step::line).collect(),
        steps: 2,
    })
}

/// Writes an outcome's line.
pub(crate) fn log(what: &str, key: &str, outcome: &str, detail: Option<&str>, took: Duration, path: EntryPath) {
    Line { known_as: (), what, key, outcome, detail, took, path, version: VERSION }.write();
}
