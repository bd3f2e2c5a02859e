//! What a campaign does, whichever way it is asked: record what happened, give what is due for it, take back what was
//! not. Each step is one statement that may be repeated; whatever cuts a call off, repeating it finishes the work.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use shared::{
    db::{Db, DbError},
    log::EntryPath,
    message::Accounts,
    outbox::{Courier, Outbox},
};

use crate::{
    card::Pool,
    event::{PointsEvent, Registration},
    notice::{self, Matter},
    period::Period,
    store::{
        activities, cards,
        claims::{self, Due, Recall},
        events::{self, Earned, KnownRow},
        points,
        searches::{self, Search},
        settlements::{self, Settled},
    },
};

/// Whose messages these are, in the shared outbox.
pub(crate) const FUNCTION: &str = "rewards";
/// Claims of others that a call serves beside its own.
const BITE: i64 = 20;
/// Claims, or registrations, that one statement works on.
const BATCH: i64 = 200;
/// Registrations, or points events, that one step of a search looks at.
const WINDOW: i64 = 5_000;

/// A campaign's work, for one call.
pub(crate) struct Rewards<'a, C> {
    pub(crate) db: &'a Db,
    pub(crate) courier: &'a C,
    pub(crate) accounts: &'a Accounts,
    /// With fewer free cards than so many, operators are told.
    pub(crate) stock_threshold: i64,
    pub(crate) path: EntryPath,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    pub(crate) event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invitee: Option<String>,
    pub(crate) outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inviter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) claim_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) points: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
}

/// The outcomes of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// What it is worth was given.
    Granted,
    /// It is worth a card, and none is there now.
    Waiting,
    /// It is recorded; `register` is off.
    Held,
    /// It is recorded, and nothing is due for it.
    Recorded,
    /// It was found false.
    Voided,
    /// The invitee's registration is known by another event.
    Duplicate,
    /// Its id has other content.
    Conflict,
    /// There is no such activity.
    UnknownActivity,
}

impl Outcome {
    /// As the log and the answers write it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Recorded => "recorded",
            Self::Voided => "voided",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::UnknownActivity => "unknown_activity",
        }
    }
}

/// How far a search for what is due has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Fulfilled {
    /// Cards that were given to claims that waited.
    pub(crate) fulfilled: i64,
    /// Claims that still wait.
    pub(crate) waiting: i64,
    /// Whether all was looked at; if not, call again.
    pub(crate) complete: bool,
}

/// What a settlement did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Settlement {
    pub(crate) period: String,
    /// Who has cards of it, by now.
    pub(crate) users: i64,
    /// How many cards are claimed.
    pub(crate) cards: i64,
    /// How many of them wait.
    pub(crate) waiting: i64,
    /// Whether all was looked at; if not, call again.
    pub(crate) complete: bool,
}

/// What became of the wish to settle a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    Done(Settlement),
    /// Its points may still change.
    NotEnded,
    UnknownActivity,
}

impl<C: Courier> Rewards<'_, C> {
    pub(crate) fn outbox(&self) -> Outbox<'_, C> {
        Outbox { db: self.db, courier: self.courier, function: FUNCTION }
    }

    fn now_ms(&self) -> i64 {
        self.courier.now_ms()
    }

    const fn path_name(&self) -> &'static str {
        match self.path {
            EntryPath::Http => "http",
            EntryPath::Redis => "redis",
            EntryPath::Stream => "stream",
        }
    }

    /// Records registrations and gives what is due for them; their answers, in their order.
    pub(crate) async fn register(&self, events: &[Registration]) -> Result<Vec<Answer>, DbError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        events::register(self.db, events, self.path_name(), self.now_ms()).await?;
        let mut known = events::known(self.db, events).await?;
        // What the statement could not give by itself: there was no card, or `register` is off.
        let mut left: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (event, known) in events.iter().zip(&known) {
            if known.as_ref().is_some_and(KnownRow::lacks) {
                left.entry(event.activity_id.as_str()).or_default().push(event.invitee.as_str());
            }
        }
        if !left.is_empty() {
            for (activity_id, invitees) in left {
                self.grant(activity_id, &invitees).await?;
            }
            known = events::known(self.db, events).await?;
        }
        Ok(events.iter().zip(known).map(|(event, known)| answer(event, known)).collect())
    }

    /// Gives what is due for the registrations of these invitees, as far as it was not given.
    pub(crate) async fn grant(&self, activity_id: &str, invitees: &[&str]) -> Result<(), DbError> {
        let due = claims::due(self.db, activity_id, invitees).await?;
        let off: Vec<&str> = due.iter().filter(|due| !due.register_on).map(|due| due.invitee.as_str()).collect();
        if !off.is_empty() {
            events::hold(self.db, activity_id, &off).await?;
        }
        let due: Vec<&Due> = due.iter().filter(|due| due.register_on).collect();
        if due.is_empty() {
            return Ok(());
        }
        let invitees: Vec<&str> = due.iter().map(|due| due.invitee.as_str()).collect();
        let now_ms = self.now_ms();
        points::earn_invites(self.db, activity_id, &invitees, now_ms).await?;
        claims::claim_invites(self.db, activity_id, &invitees, now_ms).await?;
        let fens: BTreeSet<i64> = due.iter().map(|due| due.card_fen).filter(|fen| *fen > 0).collect();
        for fen in fens {
            let claims = i64::try_from(invitees.len()).unwrap_or(BATCH) + BITE;
            let pool = Pool { activity_id, fen };
            cards::assign(self.db, pool, claims, self.now_ms()).await?;
            self.check(pool, false).await?;
        }
        Ok(())
    }

    /// Tells owners of their cards, at most so many at once, until there is no `more_time`; how many that were. Whoever
    /// gives a card leaves this to a later call: a card is told of once, whichever call it is.
    pub(crate) async fn tell(&self, more_time: impl Fn() -> bool) -> Result<u64, DbError> {
        let mut told = 0;
        loop {
            let issued = cards::untold(self.db, BATCH).await?;
            let messages: Vec<_> = issued.iter().filter_map(|issued| notice::card(issued, self.accounts)).collect();
            self.outbox().enqueue(&messages).await?;
            if !issued.is_empty() {
                let ids: Vec<&str> = issued.iter().map(|issued| issued.claim_id.as_str()).collect();
                cards::told(self.db, &ids).await?;
            }
            let pools: BTreeSet<_> = issued.iter().map(|issued| (issued.activity_id.as_str(), issued.fen)).collect();
            for (activity_id, fen) in pools {
                self.check(Pool { activity_id, fen }, false).await?;
            }
            told += issued.len() as u64;
            if issued.is_empty() || !more_time() {
                return Ok(told);
            }
        }
    }

    /// Tells operators what is newly the matter with a pool; with `over`, notes also what is the matter no more.
    async fn check(&self, pool: Pool<'_>, over: bool) -> Result<(), DbError> {
        let (threshold, now_ms) = (self.stock_threshold, self.now_ms());
        let stock = cards::stock(self.db, pool, threshold, now_ms).await?;
        if !over && Matter::ALL.iter().all(|matter| !matter.holds(stock, threshold)) {
            return Ok(());
        }
        let known = cards::alerts(self.db, pool).await?;
        for matter in Matter::ALL {
            let found = known.iter().find(|(what, ..)| what == matter.key());
            let (raised, episode) = found.map_or((false, 0), |(_, raised, episode)| (*raised, *episode));
            let holds = matter.holds(stock, threshold);
            if holds && !raised {
                let alert = matter.alert(pool, stock, threshold, episode + 1, now_ms);
                self.outbox().enqueue(alert.as_slice()).await?;
                cards::note(self.db, pool, matter.key(), true, episode + 1).await?;
            } else if !holds && raised {
                cards::note(self.db, pool, matter.key(), false, episode).await?;
            }
        }
        Ok(())
    }

    /// Serves a pool's claims until none waits, no card is free, or there is no `more_time`.
    pub(crate) async fn fulfil_pool(&self, pool: Pool<'_>, more_time: impl Fn() -> bool) -> Result<i64, DbError> {
        let mut fulfilled = 0;
        loop {
            let issued = cards::assign(self.db, pool, BATCH, self.now_ms()).await?;
            fulfilled += issued;
            if issued == 0 || !more_time() {
                break;
            }
        }
        self.check(pool, true).await?;
        Ok(fulfilled)
    }

    /// Pays what was held while `register` was off; whether that is all.
    pub(crate) async fn release(&self, activity_id: &str, more_time: impl Fn() -> bool) -> Result<bool, DbError> {
        loop {
            let Some(activity) = activities::get(self.db, activity_id).await? else { return Ok(true) };
            let invitees = events::held(self.db, activity_id, BATCH).await?;
            if invitees.is_empty() || !activity.switches.register {
                return Ok(true);
            }
            let all: Vec<&str> = invitees.iter().map(String::as_str).collect();
            self.grant(activity_id, &all).await?;
            events::release(self.db, activity_id, &invitees).await?;
            if !more_time() {
                return Ok(false);
            }
        }
    }

    /// Gives what is due and was not given, whatever kept it back: held registrations, claims that wait, and what a
    /// call that was cut off, or new dates, left behind.
    pub(crate) async fn fulfil(&self, activity_id: &str, more_time: impl Fn() -> bool) -> Result<Fulfilled, DbError> {
        let mut done = Fulfilled { complete: self.release(activity_id, &more_time).await?, ..Fulfilled::default() };
        for fen in cards::pools(self.db, activity_id).await? {
            done.fulfilled += self.fulfil_pool(Pool { activity_id, fen }, &more_time).await?;
        }
        let mut after = searches::after(self.db, activity_id, Search::Registrations).await?;
        while done.complete {
            let (invitees, last) = events::forgotten(self.db, activity_id, after, WINDOW).await?;
            let Some(last) = last else {
                searches::note(self.db, activity_id, Search::Registrations, 0).await?;
                break;
            };
            for some in invitees.chunks(usize::try_from(BATCH).unwrap_or(1)) {
                let some: Vec<&str> = some.iter().map(String::as_str).collect();
                self.grant(activity_id, &some).await?;
            }
            after = last;
            done.complete = more_time();
            if !done.complete {
                searches::note(self.db, activity_id, Search::Registrations, after).await?;
            }
        }
        let mut after = searches::after(self.db, activity_id, Search::PointEvents).await?;
        while done.complete {
            let looked = points::earn_forgotten(self.db, activity_id, after, WINDOW, self.now_ms()).await?;
            let Some(last) = looked else {
                searches::note(self.db, activity_id, Search::PointEvents, 0).await?;
                break;
            };
            after = last;
            done.complete = more_time();
            if !done.complete {
                searches::note(self.db, activity_id, Search::PointEvents, after).await?;
            }
        }
        self.tell(&more_time).await?;
        done.waiting = claims::waiting(self.db, activity_id).await?.into_iter().map(|(_, waiting)| waiting).sum();
        Ok(done)
    }

    /// Records points from elsewhere and counts them; their answers, in their order.
    pub(crate) async fn earn(&self, events: &[PointsEvent]) -> Result<Vec<Answer>, DbError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let now_ms = self.now_ms();
        events::earn(self.db, events, self.path_name(), now_ms).await?;
        let keys: Vec<(&str, &str)> =
            events.iter().map(|event| (event.activity_id.as_str(), event.event_id.as_str())).collect();
        points::earn_events(self.db, &keys, now_ms).await?;
        let earned = events::earned(self.db, events).await?;
        let answer = |(event, earned): (&PointsEvent, Earned)| {
            let (outcome, points, detail) = match earned {
                Earned::NoActivity => (Outcome::UnknownActivity, None, Some("there is no such activity".into())),
                Earned::Other => (Outcome::Conflict, None, Some("the event_id has other content".into())),
                Earned::Outside => (Outcome::Recorded, None, Some("it is outside the activity's dates".into())),
                Earned::Counts => (Outcome::Granted, Some(event.points), None),
            };
            let event_id = event.event_id.as_str().to_owned();
            Answer { event_id, invitee: None, outcome, inviter: None, claim_id: None, points, detail }
        };
        Ok(events.iter().zip(earned).map(answer).collect())
    }

    /// Pays every full sum of a period's points, user by user.
    pub(crate) async fn settle(
        &self,
        activity_id: &str,
        period: Period,
        more_time: impl Fn() -> bool,
    ) -> Result<Settling, DbError> {
        if period.to_ms() > self.now_ms() {
            return Ok(Settling::NotEnded);
        }
        let Some(terms) = activities::terms_before(self.db, activity_id, period.to_ms()).await? else {
            return Ok(Settling::UnknownActivity);
        };
        let settled = Settled { activity_id, period, terms };
        let pool = Pool { activity_id, fen: terms.settlement_card_fen };
        let mut after = String::new();
        let mut complete = true;
        loop {
            let users = settlements::users(self.db, settled, &after, BATCH).await?;
            let Some(last) = users.last() else { break };
            settlements::claim(self.db, settled, &users, self.now_ms()).await?;
            after.clone_from(last);
            if !more_time() {
                complete = false;
                break;
            }
        }
        self.fulfil_pool(pool, &more_time).await?;
        let (users, cards, waiting) = settlements::claimed(self.db, activity_id, period).await?;
        Ok(Settling::Done(Settlement { period: period.name(), users, cards, waiting, complete }))
    }

    /// Voids a registration found false: recalls its card if it is not activated, and takes back its points.
    pub(crate) async fn void(&self, activity_id: &str, invitee: &str, reason: &str) -> Result<Option<Voided>, DbError> {
        let now_ms = self.now_ms();
        let Some((voided_at_ms, reason)) = events::void(self.db, activity_id, invitee, reason, now_ms).await? else {
            return Ok(None);
        };
        if let Some(claim) = claims::of_invitee(self.db, activity_id, invitee).await? {
            self.recall(&[claim.id], Recall::Asked(&reason)).await?;
        }
        let points = points::take_back(self.db, activity_id, invitee, now_ms).await?;
        let claim = claims::of_invitee(self.db, activity_id, invitee).await?;
        Ok(Some(Voided { voided_at_ms, reason, claim, points }))
    }

    /// Takes back claims whose cards are not activated; which those were.
    pub(crate) async fn recall(&self, claim_ids: &[String], why: Recall<'_>) -> Result<Vec<String>, DbError> {
        claims::recall(self.db, claim_ids, why, self.now_ms()).await
    }
}

/// What became of a void registration.
#[derive(Clone, Debug)]
pub(crate) struct Voided {
    pub(crate) voided_at_ms: i64,
    pub(crate) reason: String,
    pub(crate) claim: Option<claims::Claim>,
    /// Taken back.
    pub(crate) points: i64,
}

/// What a registration's sender is told.
fn answer(event: &Registration, known: Option<KnownRow>) -> Answer {
    let mut answer = Answer {
        event_id: event.event_id.as_str().to_owned(),
        invitee: Some(event.invitee.as_str().to_owned()),
        outcome: Outcome::Recorded,
        inviter: None,
        claim_id: None,
        points: None,
        detail: None,
    };
    let Some(row) = known else {
        answer.outcome = Outcome::UnknownActivity;
        answer.detail = Some("there is no such activity".into());
        return answer;
    };
    if row.event_id != event.event_id.as_str() {
        answer.outcome = Outcome::Duplicate;
        answer.detail = Some(format!("the invitee's registration is known by the event {}", row.event_id));
        return answer;
    }
    let same = row.invitee == event.invitee.as_str()
        && row.opened_at_ms == event.opened_at_ms
        && row.new_customer == event.new_customer;
    if !same {
        answer.outcome = Outcome::Conflict;
        answer.detail = Some("the event_id has other content".into());
        return answer;
    }
    answer.inviter.clone_from(&row.inviter);
    (answer.outcome, answer.detail) = outcome(&row);
    if matches!(answer.outcome, Outcome::Granted | Outcome::Waiting) {
        answer.claim_id = row.claim_id;
        answer.points = Some(row.points);
    }
    answer
}

/// What a registration comes to, and why if that is nothing.
pub(crate) fn outcome(row: &KnownRow) -> (Outcome, Option<String>) {
    if row.voided {
        return (Outcome::Voided, Some("it was found false".into()));
    }
    // One that is not paid yet is held, whether or not it is marked so.
    if !row.register_on && (row.held || row.lacks()) {
        return (Outcome::Held, Some("`register` is switched off; it is paid when it is on again".into()));
    }
    if row.due {
        let waits = row.claim_state.as_deref() == Some("waiting");
        return (if waits { Outcome::Waiting } else { Outcome::Granted }, None);
    }
    let why = if !row.new_customer {
        "the invitee is no new customer"
    } else if row.inviter.is_none() {
        "nobody invited them yet"
    } else {
        "it is outside the activity's dates, or before the invitation"
    };
    (Outcome::Recorded, Some(why.into()))
}
