//! Random campaigns on a real SQLite: two workers that are cut off at any statement, calls that are repeated and
//! reordered, settlements that overlap, an empty pool, recalls and imports in between. A run is decided by its seed
//! alone, so that a failing one replays: `SIMULATION_SEED=7 cargo test -p rewards simulation`.
//!
//! At the end every call is repeated and the books are checked, by the audit and against a model that knows nothing of
//! statements, keys or claims: what was recorded, and what that is worth.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    time::Duration,
};

use shared::{
    db::{Db, DbError, Row, migration::migrate, native::Native},
    id::Id,
    log::EntryPath,
    message::{Accounts, Channel},
    outbox::{self, Answer, Attempted, Courier, Whose},
    simulation::{Course, Dice, Faults, Outside, Pointed, Simulated, Turn, run_alone},
};

use crate::{
    activity::{Change, NewActivity, Terms, TermsChange},
    audit::{Audit, Line, note, over_issued},
    card::Pool,
    event::{Invitation, Joining, PointsEvent, Registration},
    period::{Period, Weekday},
    rewards::{FUNCTION, Rewards, Settling},
    store::{
        self, activities, cards,
        claims::{self, Recall},
        events,
    },
};

/// 2020-09-15, a Tuesday, in Shanghai.
const START: i64 = 1_600_099_200_000;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const END: i64 = START + 28 * DAY;
const ACTIVITY: &str = "autumn";
const TERMS: Terms = Terms {
    invite_card_fen: 2_000,
    invite_points: 20,
    settlement_points: 1_000,
    settlement_cards: 5,
    settlement_card_fen: 2_000,
};
/// Polls of either worker before everything works again.
const STEPS: usize = 700;
const CALLS: usize = 36;

/// What was done to claims.
#[derive(Default)]
struct World {
    /// Claims whose recall was asked for, each by its id.
    asked: BTreeSet<String>,
    /// Those that were recalled because nothing earned them.
    not_earned: BTreeSet<String>,
    /// Those whose owners were shown their cards' secrets.
    shown: BTreeSet<String>,
}

struct Gateway(Course);

impl Courier for Gateway {
    async fn post(&self, _: &str, _: &str, _: String, _: Duration) -> Answer {
        Answer::Accepted
    }

    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn log(&self, _: &Attempted<'_>) {}

    fn alarm(&self, _: &str) {}

    fn patience(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn token(&self) -> String {
        self.0.token().to_string()
    }
}

/// What a caller asks.
#[derive(Clone, Debug)]
enum Call {
    Import(Vec<usize>),
    Join(Joining),
    Invite(Invitation),
    Register(Vec<Registration>),
    Earn(Vec<PointsEvent>),
    Settle(Period),
    Fulfil,
    Void(Id),
    /// Of the claim with this number among all there are.
    Activate(usize),
    Recall(usize),
    RecallOver,
    Register1(bool),
    Terms(TermsChange),
    Deliver,
}

impl Call {
    /// Whether repeating it at the end, when all has happened, is a repetition.
    fn is_fact(&self) -> bool {
        !matches!(self, Self::Activate(_) | Self::Recall(_) | Self::Register1(_) | Self::Terms(_))
    }
}

fn id(text: impl AsRef<str>) -> Id {
    Id::parse(text.as_ref()).unwrap()
}

/// A random campaign: few people and times, so that much meets.
fn plan(dice: &mut Dice) -> Vec<Call> {
    let mut calls = Vec::new();
    let card_count = 10 + dice.below(60);
    for number in 0..CALLS {
        // Events are of the past by the time they are told: the last of a campaign are told after its end.
        let told_ms =
            START + DAY + (END + 8 * DAY - START) * i64::try_from(number).unwrap() / i64::try_from(CALLS).unwrap();
        let at = |dice: &mut Dice| dice.between(START - DAY, told_ms);
        let registration = |dice: &mut Dice, at_ms: i64| {
            let invitee = dice.below(12);
            // Mostly one event each; now and then another for the same person, or of another content.
            let event = if dice.happens(100) { format!("other{}", dice.below(3)) } else { format!("e{invitee}") };
            Registration {
                activity_id: id(ACTIVITY),
                event_id: id(event),
                invitee: id(format!("f{invitee}")),
                opened_at_ms: at_ms,
                new_customer: !dice.happens(100),
            }
        };
        calls.push(match dice.below(20) {
            0 | 1 => Call::Import((0..1 + dice.below(30)).map(|_| dice.below(card_count)).collect()),
            2 => Call::Join(Joining { user_id: id(format!("u{}", dice.below(4))), channel: Some(Channel::App) }),
            3..=6 => {
                let invited_at_ms = if dice.happens(300) { None } else { Some(at(dice) / 2 + START / 2) };
                let (inviter, invitee) = (dice.below(4), dice.below(12));
                Call::Invite(Invitation {
                    inviter: id(format!("u{inviter}")),
                    invitee: id(format!("f{invitee}")),
                    invited_at_ms,
                })
            }
            7..=10 => {
                let count = 1 + dice.below(4);
                Call::Register(
                    (0..count)
                        .map(|_| {
                            let at_ms = at(dice);
                            registration(dice, at_ms)
                        })
                        .collect(),
                )
            }
            11 | 12 => {
                let count = 1 + dice.below(3);
                let event = |dice: &mut Dice| PointsEvent {
                    activity_id: id(ACTIVITY),
                    event_id: id(format!("p{}", dice.below(20))),
                    user_id: id(format!("u{}", dice.below(4))),
                    kind: id("learning"),
                    points: dice.between(1, 1_500),
                    at_ms: at(dice),
                };
                Call::Earn((0..count).map(|_| event(dice)).collect())
            }
            13 | 14 => Call::Settle(period(dice.below(5))),
            15 => Call::Fulfil,
            16 if dice.happens(500) => Call::Void(id(format!("f{}", dice.below(12)))),
            16 => Call::RecallOver,
            17 => Call::Activate(dice.below(40)),
            18 if dice.happens(300) => Call::Recall(dice.below(40)),
            18 => Call::Deliver,
            _ if dice.happens(600) => Call::Register1(dice.happens(500)),
            _ => Call::Terms(TermsChange {
                invite_card_fen: dice.happens(500).then_some(5_000),
                invite_points: dice.happens(500).then_some(30),
                settlement_points: dice.happens(300).then_some(500),
                settlement_cards: dice.happens(300).then_some(1),
                settlement_card_fen: dice.happens(300).then_some(10_000),
            }),
        });
    }
    calls
}

fn period(number: usize) -> Period {
    let at_ms = START + i64::try_from(number).unwrap() * 7 * DAY;
    Period::containing(at_ms, Weekday::parse("tuesday").unwrap()).unwrap()
}

/// The worth of card `number`.
fn worth(number: usize) -> i64 {
    [2_000, 2_000, 2_000, 5_000, 10_000][number % 5]
}

struct Simulation {
    outside: Outside<World>,
    /// Past all points.
    plain: Db,
    db: Db,
    calls: Vec<Call>,
}

async fn run(call: Call, db: Db, outside: Outside<World>) -> Result<(), DbError> {
    let gateway = Gateway(outside.course.clone());
    let accounts = accounts();
    let rewards =
        Rewards { db: &db, courier: &gateway, accounts: &accounts, stock_threshold: 5, path: EntryPath::Http };
    let always = || true;
    let now_ms = gateway.now_ms();
    match call {
        Call::Import(numbers) => {
            let new: Vec<_> = numbers.iter().collect::<BTreeSet<_>>().into_iter().map(|number| card(*number)).collect();
            let token = gateway.token();
            cards::import(&db, ACTIVITY, &new, &token, now_ms).await?;
            for fen in new.iter().map(|card| card.fen).collect::<BTreeSet<_>>() {
                rewards.fulfil_pool(Pool { activity_id: ACTIVITY, fen }, always).await?;
            }
        }
        Call::Join(joining) => drop(events::join(&db, ACTIVITY, &joining, now_ms).await?),
        Call::Invite(invitation) => {
            events::invite(&db, ACTIVITY, &invitation, now_ms).await?;
            rewards.grant(ACTIVITY, &[invitation.invitee.as_str()]).await?;
        }
        Call::Register(events) => drop(rewards.register(&events).await?),
        Call::Earn(events) => drop(rewards.earn(&events).await?),
        Call::Settle(period) => {
            let early = rewards.settle(ACTIVITY, period, always).await? == Settling::NotEnded;
            // The clock goes on meanwhile.
            assert!(early || period.to_ms() <= gateway.now_ms(), "a period was settled before its end");
            assert!(!early || period.to_ms() > now_ms, "a period that has ended was not settled");
        }
        Call::Fulfil => drop(rewards.fulfil(ACTIVITY, always).await?),
        Call::Void(invitee) => drop(rewards.void(ACTIVITY, invitee.as_str(), "false").await?),
        Call::Activate(number) => {
            if let Some(claim) = numbered(&db, number).await? {
                claims::activate(&db, &claim.id, &claim.user_id, now_ms).await?;
                let now = claims::get(&db, &claim.id).await?;
                if now.is_some_and(|now| now.state == "activated") {
                    outside.world().shown.insert(claim.id);
                }
            }
        }
        Call::Recall(number) => {
            if let Some(claim) = numbered(&db, number).await? {
                outside.world().asked.insert(claim.id.clone());
                rewards.recall(&[claim.id], Recall::Asked("asked")).await?;
            }
        }
        Call::RecallOver => {
            let Some(activity) = activities::get(&db, ACTIVITY).await? else { return Ok(()) };
            let mut audit = Audit::of_claims(db.clone(), activity, now_ms).await?;
            while let Some(ids) = over_issued(&mut audit).await? {
                outside.world().not_earned.extend(ids.iter().cloned());
                rewards.recall(&ids, Recall::NotEarned("over_issued")).await?;
                note(&audit).await?;
            }
        }
        Call::Register1(on) => {
            activities::change(&db, ACTIVITY, &Change { register: Some(on), ..Change::default() }, now_ms).await?;
            rewards.release(ACTIVITY, always).await?;
        }
        Call::Terms(terms) => {
            activities::change(&db, ACTIVITY, &Change { terms, ..Change::default() }, now_ms).await?;
        }
        Call::Deliver => {
            rewards.tell(always).await?;
            rewards.outbox().deliver(Whose::Any, 8, i64::MAX).await?;
        }
    }
    Ok(())
}

fn accounts() -> Accounts {
    Accounts {
        wechat_template_id: "t".into(),
        wechat_link: String::new(),
        mini_program_template_id: "t".into(),
        mini_program_page: String::new(),
        app_link: String::new(),
    }
}

fn card(number: usize) -> cards::NewCard {
    cards::NewCard {
        card_no: format!("6{number:03}"),
        fen: worth(number),
        secret: "sealed".into(),
        expires_at_ms: None,
    }
}

async fn numbered(db: &Db, number: usize) -> Result<Option<claims::Claim>, DbError> {
    let all = claims::list(db, &claims::Filter::default(), 1_000).await?;
    Ok(if all.is_empty() { None } else { all.get(number % all.len()).cloned() })
}

type Worker = Option<(usize, Pin<Box<dyn Future<Output = Result<(), DbError>> + Send>>)>;

impl Simulation {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut dice = Dice::new(seed);
        let calls = plan(&mut dice);
        let outside = Outside::new(Course::new(dice, faults, START), World::default());
        let plain = Native::in_memory();
        run_alone(async {
            migrate(&plain, "outbox", outbox::MIGRATIONS).await.unwrap();
            migrate(&plain, FUNCTION, store::MIGRATIONS).await.unwrap();
            let new = NewActivity {
                id: id(ACTIVITY),
                name: "秋季推荐".into(),
                starts_at_ms: START,
                ends_at_ms: END,
                weekday_start: Weekday::parse("tuesday").unwrap(),
                terms: TERMS,
            };
            assert!(activities::create(&plain, &new, START).await.unwrap());
        });
        let db = Db::new(Pointed { db: plain.clone(), course: outside.course.clone() });
        Self { outside, plain, db, calls }
    }

    /// Two workers take the calls, in their order at first; what was cut off or failed is asked again later.
    /// Returns how many points there were.
    fn run(&mut self) -> usize {
        let mut waiting: Vec<usize> = (0..self.calls.len()).rev().collect();
        let mut workers: [Worker; 2] = [None, None];
        for _ in 0..STEPS {
            let which = self.outside.course.below(2);
            let worker = &mut workers[which];
            if worker.is_none() {
                let Some(number) = waiting.pop() else { continue };
                *worker = Some((number, self.begin(number)));
            }
            let Some((number, future)) = worker else { continue };
            let number = *number;
            let again = match self.outside.course.turn(future.as_mut()) {
                Turn::Done(result) => result.is_err(),
                Turn::CutOff => true,
                Turn::Waits => continue,
            };
            *worker = None;
            if again {
                let place = self.outside.course.below(waiting.len() + 1);
                waiting.insert(place, number);
            }
        }
        drop(workers);
        // Whatever is left over is asked when everything works, one after the other.
        let points = self.outside.course.heal();
        waiting.extend(0..self.calls.len());
        while let Some(number) = waiting.pop() {
            if self.calls[number].is_fact() {
                self.finish(self.calls[number].clone());
            }
        }
        points
    }

    fn begin(&self, number: usize) -> Pin<Box<dyn Future<Output = Result<(), DbError>> + Send>> {
        let told_ms =
            START + DAY + (END + 8 * DAY - START) * i64::try_from(number).unwrap() / i64::try_from(CALLS).unwrap();
        self.outside.course.pass_until(told_ms);
        self.outside.course.pass(1);
        Box::pin(run(self.calls[number].clone(), self.db.clone(), self.outside.clone()))
    }

    fn finish(&self, call: Call) {
        self.outside.course.pass(1);
        run_alone(run(call.clone(), self.plain.clone(), self.outside.clone())).unwrap_or_else(|error| {
            panic!("{call:?}: {error}");
        });
    }

    fn settle_the_books(&self) {
        self.outside.course.pass_until(END + 40 * DAY);
        self.finish(Call::Register1(true));
        for number in 0..6 {
            self.finish(Call::Settle(period(number)));
        }
        self.finish(Call::RecallOver);
        self.finish(Call::Fulfil);
        self.finish(Call::Deliver);
    }

    fn rows(&self, sql: &str) -> Vec<Row> {
        run_alone(self.plain.query(sql, [])).unwrap()
    }

    /// The books.
    fn check(&self) {
        let model = Model::of(self);
        let claims = self.claims();
        // Who has what: by the model, and by the claims.
        for (key, (user, fen)) in &model.due {
            let claim = claims.get(key).unwrap_or_else(|| panic!("{key} is due and not claimed"));
            assert_eq!((&claim.user, claim.fen), (user, *fen), "{key}");
            let closed = claim.state == "recalled" && !self.outside.world().asked.contains(&claim.id);
            assert!(!closed, "{key} is due and was recalled unasked");
        }
        let world = self.outside.world();
        let mut with_card = 0;
        let mut waiting: BTreeMap<i64, usize> = BTreeMap::new();
        for (key, claim) in &claims {
            let due = model.due.contains_key(key);
            match claim.state.as_str() {
                "waiting" => {
                    assert!(due, "{key} waits and is not due");
                    assert_eq!(claim.card, None, "{key} has a card and does not say so");
                    *waiting.entry(claim.fen).or_default() += 1;
                }
                "issued" => assert!(due, "{key} is issued and not due"),
                // Taken before it was found false.
                "activated" => {}
                "recalled" => {
                    let voided = model.voided.contains(key);
                    let known = world.asked.contains(&claim.id) || world.not_earned.contains(&claim.id);
                    assert!(voided || known, "{key} was recalled unasked");
                    assert_eq!(claim.card_recalled, claim.card.is_some(), "{key}'s card is not marked");
                }
                other => panic!("{other}"),
            }
            let stays = claim.state == "activated" || !world.shown.contains(&claim.id);
            assert!(stays, "{key} was shown to its owner and is {}", claim.state);
            with_card += usize::from(claim.card.is_some());
        }
        drop(world);
        // No card is free while somebody waits for it, and none is in two hands.
        let mut cards_out = BTreeSet::new();
        for row in self.rows("SELECT card_no, claim_id, fen FROM rewards_cards ORDER BY seq") {
            match row.optional_text(1).unwrap() {
                None => assert_eq!(waiting.get(&row.integer(2).unwrap()), None, "a card is free while somebody waits"),
                Some(claim) => assert!(cards_out.insert(claim.to_owned()), "{claim} has two cards"),
            }
        }
        assert_eq!(cards_out.len(), with_card);
        let mut points: BTreeMap<String, i64> = BTreeMap::new();
        for row in self.rows("SELECT user_id, sum(points) FROM rewards_points GROUP BY user_id") {
            points.insert(row.text(0).unwrap().to_owned(), row.integer(1).unwrap());
        }
        points.retain(|_, sum| *sum != 0);
        assert_eq!(points, model.points());
        self.check_messages(&claims);
        self.check_audit(&model, &claims, &waiting);
    }

    fn check_messages(&self, claims: &BTreeMap<String, Held>) {
        let mut told: BTreeMap<String, usize> = BTreeMap::new();
        for row in self.rows("SELECT order_id FROM outbox WHERE scenario IN ('card_issued', 'points_settled')") {
            *told.entry(row.text(0).unwrap().to_owned()).or_default() += 1;
        }
        for (key, claim) in claims {
            let count = told.remove(&claim.id).unwrap_or_default();
            match claim.state.as_str() {
                "issued" if claim.tells => assert_eq!(count, 1, "{key} is told"),
                _ => assert!(count <= usize::from(claim.tells), "{key} is told {count} times"),
            }
        }
        assert!(told.is_empty());
    }

    fn check_audit(&self, model: &Model, claims: &BTreeMap<String, Held>, waiting: &BTreeMap<i64, usize>) {
        let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let now_ms = self.outside.course.now_ms();
        run_alone(async {
            let activity = activities::get(&self.plain, ACTIVITY).await.unwrap().unwrap();
            let mut audit = Audit::new(self.plain.clone(), activity, now_ms);
            let mut totals = None;
            while let Some(lines) = audit.next().await.unwrap() {
                for line in lines {
                    match line {
                        Line::Finding(finding) => {
                            let claim = finding.claim_id.unwrap_or_else(|| panic!("{}", finding.detail));
                            found.entry(finding.finding).or_default().insert(claim);
                        }
                        Line::Totals { totals: all, .. } => totals = Some(all),
                    }
                }
            }
            let totals = totals.unwrap();
            assert_eq!(totals.due.cards, i64::try_from(model.due.len()).unwrap());
            assert_eq!(totals.due.fen, model.due.values().map(|(_, fen)| fen).sum::<i64>());
            assert_eq!(totals.due.points, model.points().values().sum::<i64>());
            assert_eq!(totals.issued.points, totals.due.points);
        });
        // Clean, but for cards that were taken before they were found false, and for what the pool is too small for.
        let of = |finding| found.get(finding).cloned().unwrap_or_default();
        let taken = claims.iter().filter(|(key, claim)| claim.state == "activated" && !model.due.contains_key(*key));
        assert_eq!(of("over_issued"), taken.map(|(_, claim)| claim.id.clone()).collect());
        assert_eq!(of("unfulfilled").len(), waiting.values().sum::<usize>());
        for finding in ["double_issued", "orphan_card", "points_mismatch"] {
            assert_eq!(of(finding), BTreeSet::new(), "{finding}");
        }
    }

    fn claims(&self) -> BTreeMap<String, Held> {
        let sql = "SELECT coalesce(c.key, c.id), c.id, c.user_id, c.fen, c.state, k.card_no, c.tells, c.card_no,
                k.recalled_at_ms IS NOT NULL FROM rewards_claims AS c
            LEFT JOIN rewards_cards AS k ON k.claim_id = c.id";
        let held = |row: &Row| {
            let card = row.optional_text(5).unwrap().map(str::to_owned);
            assert_eq!(row.optional_text(7).unwrap(), card.as_deref(), "both sides name the same");
            let held = Held {
                id: row.text(1).unwrap().to_owned(),
                user: row.text(2).unwrap().to_owned(),
                fen: row.integer(3).unwrap(),
                state: row.text(4).unwrap().to_owned(),
                tells: row.integer(6).unwrap() == 1,
                card_recalled: row.integer(8).unwrap() == 1,
                card,
            };
            (row.text(0).unwrap().to_owned(), held)
        };
        self.rows(sql).iter().map(held).collect()
    }
}

struct Held {
    id: String,
    user: String,
    fen: i64,
    state: String,
    tells: bool,
    card: Option<String>,
    card_recalled: bool,
}

/// What the recorded facts are worth, told as the campaign's rules are told to people.
struct Model {
    /// Key → who, and how much.
    due: BTreeMap<String, (String, i64)>,
    voided: BTreeSet<String>,
    /// Who earned how many points, and when.
    earned: Vec<(String, i64, i64)>,
}

impl Model {
    fn of(simulation: &Simulation) -> Self {
        let mut model = Self { due: BTreeMap::new(), voided: BTreeSet::new(), earned: Vec::new() };
        let terms: Vec<(i64, Terms)> = simulation
            .rows("SELECT from_ms, invite_card_fen, invite_points, settlement_points, settlement_cards, settlement_card_fen
                FROM rewards_terms ORDER BY from_ms")
            .iter()
            .map(|row| {
                let n = |column| row.integer(column).unwrap();
                let terms = Terms {
                    invite_card_fen: n(1),
                    invite_points: n(2),
                    settlement_points: n(3),
                    settlement_cards: n(4),
                    settlement_card_fen: n(5),
                };
                (n(0), terms)
            })
            .collect();
        let terms_at = |at_ms: i64| terms.iter().rev().find(|(from_ms, _)| *from_ms <= at_ms).unwrap().1;
        let voids: BTreeSet<String> = simulation
            .calls
            .iter()
            .filter_map(|call| match call {
                Call::Void(invitee) => Some(invitee.to_string()),
                _ => None,
            })
            .collect();
        // Each person's one registration is one of those that were told, and so is each invitation.
        let told: Vec<&Registration> = simulation
            .calls
            .iter()
            .filter_map(|call| match call {
                Call::Register(events) => Some(events),
                _ => None,
            })
            .flatten()
            .collect();
        let invitations: Vec<&Invitation> = simulation
            .calls
            .iter()
            .filter_map(|call| match call {
                Call::Invite(invitation) => Some(invitation),
                _ => None,
            })
            .collect();
        let rows = simulation.rows("SELECT invitee, event_id, opened_at_ms, new_customer FROM rewards_registrations");
        let registered: BTreeSet<&str> = rows.iter().map(|row| row.text(0).unwrap()).collect();
        let mut events: BTreeMap<&str, &str> = BTreeMap::new();
        for row in &rows {
            events.insert(row.text(1).unwrap(), row.text(0).unwrap());
        }
        for event in &told {
            let known = registered.contains(event.invitee.as_str()) || events.contains_key(event.event_id.as_str());
            assert!(known, "{event:?} was lost");
        }
        for row in &rows {
            let (invitee, opened_at_ms) = (row.text(0).unwrap(), row.integer(2).unwrap());
            let new_customer = row.integer(3).unwrap() == 1;
            assert!(told.iter().any(|event| event.invitee.as_str() == invitee
                && event.event_id.as_str() == row.text(1).unwrap()
                && event.opened_at_ms == opened_at_ms
                && event.new_customer == new_customer));
            let key = format!("invite:{ACTIVITY}:{invitee}");
            if voids.contains(invitee) {
                model.voided.insert(key);
                continue;
            }
            let sql = format!("SELECT inviter, invited_at_ms FROM rewards_invitations WHERE invitee = '{invitee}'");
            let Some(invitation) = simulation.rows(&sql).into_iter().next() else {
                let could = invitations.iter().any(|it| {
                    it.invitee.as_str() == invitee && it.invited_at_ms.is_some_and(|at_ms| at_ms <= opened_at_ms)
                });
                assert!(!could, "an invitation of {invitee} was lost");
                continue;
            };
            let (inviter, invited_at_ms) = (invitation.text(0).unwrap(), invitation.optional_integer(1).unwrap());
            assert!(invitations.iter().any(|it| it.invitee.as_str() == invitee
                && it.inviter.as_str() == inviter
                && it.invited_at_ms == invited_at_ms));
            let in_time = invited_at_ms.is_none_or(|at_ms| at_ms <= opened_at_ms);
            if new_customer && in_time && (START..END).contains(&opened_at_ms) {
                let terms = terms_at(opened_at_ms);
                model.earned.push((inviter.to_owned(), terms.invite_points, opened_at_ms));
                model.due.insert(key, (inviter.to_owned(), terms.invite_card_fen));
            }
        }
        let told: Vec<&PointsEvent> = simulation
            .calls
            .iter()
            .filter_map(|call| match call {
                Call::Earn(events) => Some(events),
                _ => None,
            })
            .flatten()
            .collect();
        let rows = simulation.rows("SELECT event_id, user_id, points, at_ms FROM rewards_point_events");
        assert_eq!(
            rows.iter().map(|row| row.text(0).unwrap()).collect::<BTreeSet<_>>(),
            told.iter().map(|event| event.event_id.as_str()).collect()
        );
        for row in &rows {
            let (user, points, at_ms) = (row.text(1).unwrap(), row.integer(2).unwrap(), row.integer(3).unwrap());
            assert!(told.iter().any(|event| event.event_id.as_str() == row.text(0).unwrap()
                && event.user_id.as_str() == user
                && event.points == points
                && event.at_ms == at_ms));
            if (START..END).contains(&at_ms) {
                model.earned.push((user.to_owned(), points, at_ms));
            }
        }
        for number in 0..6 {
            let period = period(number);
            let terms = terms_at(period.to_ms() - 1);
            let mut sums: BTreeMap<&str, i64> = BTreeMap::new();
            for (user, points, at_ms) in &model.earned {
                if (period.first_ms()..period.to_ms()).contains(at_ms) {
                    *sums.entry(user).or_default() += points;
                }
            }
            for (user, sum) in sums {
                for n in 1..=sum / terms.settlement_points * terms.settlement_cards {
                    let key = format!("settle:{ACTIVITY}:{}:{user}:{n}", period.name());
                    model.due.insert(key, (user.to_owned(), terms.settlement_card_fen));
                }
            }
        }
        model
    }

    fn points(&self) -> BTreeMap<String, i64> {
        let mut points = BTreeMap::new();
        for (user, earned, _) in &self.earned {
            *points.entry(user.clone()).or_default() += earned;
        }
        points
    }
}

const SIMULATED: Simulated = Simulated { package: "rewards", run: simulate };

fn simulate(seed: u64, faults: Faults) -> usize {
    let mut simulation = Simulation::new(seed, faults);
    let points = simulation.run();
    simulation.settle_the_books();
    simulation.check();
    points
}

#[test]
fn whatever_is_cut_off_repeating_the_calls_makes_the_books_right() {
    SIMULATED.with_random_faults(2_000, 12);
}

#[test]
fn a_call_that_is_cut_off_at_any_statement_is_finished_by_its_repetition() {
    SIMULATED.with_a_fault_at_every_point(2, &[Faults::CutOffAt]);
}
