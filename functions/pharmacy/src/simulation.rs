//! Orders on a real SQLite, with everything else simulated: two workers that are cut off at any point, power cuts that
//! undo what nobody waited for the disk for, partners, a push gateway, and time. A run is decided by its seed alone, so that a failing one replays:
//! `SIMULATION_SEED=7 cargo test -p pharmacy simulation`.
//!
//! One of the partners is [`Third`], which no line but those here knows. At the end the books are checked: every order
//! went a way that the table allows, each person was told once of each step, and a partner has the orders that were paid
//! for, knows of each that was called off, and has no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderMap;
use shared::{
    db::{Db, DbError, Engine, Row, Value, migration::migrate, native::Native},
    id::Id,
    json,
    log::EntryPath,
    message::{Accounts, Message},
    outbox::{self, Attempted, Courier, Outbox, Whose},
    simulation::{Course, Dice, Faults, Outside, Pointed, Simulated, Turn, run_alone},
};

use crate::{
    history::CANCEL_REFUSED,
    intake::{FUNCTION, Intake, Placed, Reported},
    notice::notices,
    order::{Order, tests::order},
    partner::{self, Call, Callback, Outgoing, Partner, Received, Refusal, Reply, judged, report},
    rules::{RuleSet, source::Source},
    status::{Event, MOVES, Status},
    store::{self, Kept, Payment, Review},
    submission::{Account, Answered, Peer, Submissions, queue},
};

const START: i64 = 1_481_361_166_000;
/// Polls of either worker before everything works again.
const STEPS: usize = 300;

/// A partner that speaks by lines: `order <number>`, `ok`, `<key> <id> <number> <status>`.
pub(crate) struct Third;

impl Partner for Third {
    fn name(&self) -> &'static str {
        "third"
    }

    fn prefix(&self) -> &'static str {
        "TP"
    }

    fn check_secret(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn submission(&self, order: &Order, _: &Call<'_>) -> Result<Outgoing, String> {
        Ok(Outgoing { path: "/take", headers: HeaderMap::new(), body: format!("order {}", order.order_no) })
    }

    fn cancellation(&self, order: &Order, _: &Call<'_>) -> Result<Outgoing, String> {
        Ok(Outgoing { path: "/cancel", headers: HeaderMap::new(), body: format!("drop {}", order.order_no) })
    }

    fn reply(&self, status: u16, body: &[u8]) -> Reply {
        judged(status, body, |object| Some(Reply::Decided(report(object.text("status")?)?, None)))
    }

    fn callback(&self, received: &Received<'_>) -> Result<Callback, Refusal> {
        let text = std::str::from_utf8(received.body).map_err(|_| Refusal::Malformed(Vec::new()))?;
        let parts: Vec<_> = text.split(' ').collect();
        match parts[..] {
            [key, _, _, _] if key != received.secret => Err(Refusal::Signature("another key".into())),
            [_, id, number, what] => Ok(Callback {
                replay_id: id.into(),
                order_no: Id::parse(number).unwrap(),
                report: report(what).unwrap(),
                reason: None,
            }),
            _ => Err(Refusal::Malformed(Vec::new())),
        }
    }
}

/// Those that there are, and one more.
pub(crate) const PARTNERS: [&dyn Partner; 3] = [partner::ALL[0], partner::ALL[1], &Third];

#[test]
fn a_third_partner_is_one_implementation_and_one_line() {
    assert_eq!(partner::of_order(&PARTNERS, "TP-1").map(Partner::name), Some("third"));
    let headers = HeaderMap::new();
    let received = |secret| Received { headers: &headers, body: b"key a TP-1 shipped", secret, now_ms: START };
    assert_eq!(Third.callback(&received("key")).unwrap().report, Event::PartnerShipped);
    assert!(matches!(Third.callback(&received("other")), Err(Refusal::Signature(_))));
}

/// What the disk, the gateway and the partners have.
#[derive(Default)]
struct World {
    /// There are commits that a power cut undoes: they stand within the savepoint `unsynced`.
    unsynced: bool,
    /// Messages that the gateway accepted, by id, with whom and what they tell.
    told: BTreeMap<String, String>,
    /// What each partner decided of the orders that it has.
    has: BTreeMap<String, &'static str>,
    /// Orders that partners were told to drop, and whether they will not.
    dropped: BTreeMap<String, bool>,
    /// Orders of which somebody was told that they are paid, cancelled, and so on.
    promised: BTreeSet<(String, &'static str)>,
}

/// SQLite, of which a power cut undoes what nobody waited for the disk for. Commits of the connection for effects wait
/// for none: all since the last that did are lost together.
struct Disk {
    db: Db,
    outside: Outside<World>,
    of_effects: bool,
}

impl Disk {
    fn is_unsynced(&self, becomes: bool) -> bool {
        std::mem::replace(&mut self.outside.world().unsynced, becomes)
    }

    async fn commit(&self, sql: &str, values: Vec<Value>) -> Result<Vec<Row>, DbError> {
        if self.of_effects && !self.is_unsynced(true) {
            self.db.execute("SAVEPOINT unsynced", []).await?;
        }
        let before = self.changes().await?;
        let result = self.db.query(sql, values).await;
        // What changes nothing commits nothing, and makes nothing last.
        let lasts = !self.of_effects && self.changes().await? != before;
        if lasts && self.is_unsynced(false) {
            self.db.execute("RELEASE unsynced", []).await?;
        }
        result
    }

    async fn changes(&self) -> Result<i64, DbError> {
        self.db.query_one("SELECT total_changes()", []).await?.ok_or(DbError::Column(0))?.integer(0)
    }
}

impl Engine for Disk {
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
        Box::pin(self.commit(sql, values))
    }
}

struct Gateway(Outside<World>);

impl Courier for Gateway {
    async fn post(&self, id: &str, _: &str, body: String, _: Duration) -> outbox::Answer {
        self.0.course.switch().await;
        self.0.course.point().await;
        let down = self.0.course.fails(150);
        if !down {
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            let about = format!("{} {} {}", body["order_id"], body["recipient"], body["scenario"]);
            let mut world = self.0.world();
            // Twice under one id is once.
            let before = world.told.insert(id.to_owned(), about.clone());
            assert!(before.is_none_or(|before| before == about), "one id for two messages");
        }
        self.0.course.point().await;
        if down || self.0.course.fails(50) {
            outbox::Answer::Refused { status: 503, retry_after_ms: None }
        } else {
            outbox::Answer::Accepted
        }
    }

    fn now_ms(&self) -> i64 {
        self.0.course.now_ms()
    }

    fn log(&self, _: &Attempted<'_>) {}

    fn alarm(&self, _: &str) {}

    fn patience(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn token(&self) -> String {
        self.0.course.token().to_string()
    }
}

/// The partners, all at once: an order's number says whose it is.
struct Partners(Outside<World>);

impl Peer for Partners {
    async fn post(&self, _: String, request: Outgoing, within: Duration) -> Result<Answered, String> {
        self.0.course.switch().await;
        self.0.course.point().await;
        let order_no = numbered(&request.body);
        let course = &self.0.course;
        let failure = course.fails(300).then(|| course.below(5));
        let answered = |status, body: String| Ok(Answered { status, retry_after_ms: None, body: Bytes::from(body) });
        let answer = match failure {
            Some(0) => Err("the pharmacy refused the connection".into()),
            Some(1) => answered(500, "{}".into()),
            Some(2) => answered(200, "<html>".into()),
            late_or_well => {
                let mut world = self.0.world();
                let decision = if request.path == "/cancel" {
                    let keeps = course.happens(300);
                    if *world.dropped.entry(order_no).or_insert(keeps) { "shipped" } else { "" }
                } else {
                    let decisions = ["", "", "accepted", "out_of_stock", "rejected"];
                    let decision = decisions[course.below(decisions.len())];
                    // It decides once, however often it is asked.
                    world.has.entry(order_no).or_insert(decision)
                };
                match late_or_well {
                    // It has the order, and its answer is lost, or comes too late.
                    Some(3) => Err("the pharmacy broke off".into()),
                    Some(_) => {
                        course.pass(i64::try_from(within.as_millis()).unwrap());
                        Err("the pharmacy did not answer in time".into())
                    }
                    // Each partner sees in it what it knows.
                    None if decision.is_empty() => answered(200, "{\"code\":0}".into()),
                    None => answered(200, format!("{{\"code\":0,\"status\":\"{decision}\"}}")),
                }
            }
        };
        self.0.course.point().await;
        self.0.course.switch().await;
        answer
    }
}

/// The order's number in a partner's request.
fn numbered(body: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(body) => {
            let number = body.get("order_no").or_else(|| body.get("orderNo"));
            number.and_then(serde_json::Value::as_str).unwrap().to_owned()
        }
        Err(_) => body.split(' ').nth(1).unwrap().to_owned(),
    }
}

/// What both workers share.
struct Stage {
    outside: Outside<World>,
    db: Db,
    effects: Db,
    plain: Db,
    rules: &'static RuleSet,
    accounts: Accounts,
}

impl Stage {
    fn intake<'a>(&'a self, gateway: &'a Gateway) -> Intake<'a, Gateway> {
        Intake {
            db: &self.db,
            effects: &self.effects,
            partners: &PARTNERS,
            accounts: &self.accounts,
            courier: gateway,
            path: EntryPath::Http,
        }
    }

    fn promise(&self, order_no: &str, what: &'static str) {
        self.outside.world().promised.insert((order_no.to_owned(), what));
    }
}

type Worker = Pin<Box<dyn Future<Output = ()>>>;

/// The orders of a run: some go to review, some straight to payment.
const ORDERS: [(&str, bool); 6] =
    [("ST-1", false), ("YF-1", false), ("TP-1", false), ("ST-2", true), ("YF-2", true), ("TP-2", true)];

fn the_order(number: usize) -> Order {
    let (order_no, reviewed) = ORDERS[number];
    let mut order = order(order_no);
    if reviewed {
        order.prescription.lines[0].days = None;
    }
    order
}

async fn place(stage: Arc<Stage>, number: usize) {
    let gateway = Gateway(stage.outside.clone());
    let order = the_order(number);
    let order_no = order.order_no.clone();
    let intake = stage.intake(&gateway);
    let pharmacy = intake.partner(&order).unwrap().name();
    if let Ok(placed) = intake.place(&[(order, pharmacy)], stage.rules).await {
        assert!(matches!(placed[..], [Placed::New(_) | Placed::Again(_)]), "{placed:?}");
        stage.promise(order_no.as_str(), "placed");
        let _ = intake.deliver(&[order_no.as_str()], gateway.now_ms() + 3_000).await;
    }
}

async fn pay(stage: Arc<Stage>, number: usize) {
    let gateway = Gateway(stage.outside.clone());
    let order = the_order(number);
    let payment_id = Id::parse(&format!("pay-{}", stage.outside.course.below(2))).unwrap();
    let payment = Payment { payment_id, paid_at: "2016-12-10T17:12:46+08:00".into(), amount_fen: order.amount_fen };
    if stage.intake(&gateway).pay(order.order_no.as_str(), payment).await.is_ok() {
        stage.promise(order.order_no.as_str(), "paid");
    }
}

async fn review(stage: Arc<Stage>, number: usize) {
    let gateway = Gateway(stage.outside.clone());
    let order_no = ORDERS[number].0;
    let course = &stage.outside.course;
    let (approves, who) = (course.happens(700), course.below(2));
    let review = Review {
        pharmacist_id: Id::parse(&format!("ph-{who}")).unwrap(),
        decision: if approves { "approve" } else { "reject" }.into(),
        note: None,
        decided_at: "2016-12-10T17:12:46+08:00".into(),
    };
    if stage.intake(&gateway).review(order_no, review).await.is_ok() {
        stage.promise(order_no, if approves { "approved" } else { "turned_down" });
    }
}

async fn cancel(stage: Arc<Stage>, number: usize) {
    let gateway = Gateway(stage.outside.clone());
    let order_no = ORDERS[number].0;
    if stage.intake(&gateway).cancel(order_no, None).await.is_ok() {
        stage.promise(order_no, "cancelled");
    }
}

/// A partner says something of an order that it has, in any order, and again; and now and then of one that it was never
/// given.
async fn call_back(stage: Arc<Stage>, number: usize) {
    let gateway = Gateway(stage.outside.clone());
    let order_no = ORDERS[number].0;
    let partner = partner::of_order(&PARTNERS, order_no).unwrap();
    let words = ["accepted", "dispensed", "shipped", "delivered", "out_of_stock", "rejected"];
    let course = &stage.outside.course;
    if !stage.outside.world().has.contains_key(order_no) && !course.happens(200) {
        return;
    }
    let word = words[course.below(words.len())];
    let callback = Callback {
        replay_id: format!("{order_no}-{word}"),
        order_no: Id::parse(order_no).unwrap(),
        report: report(word).unwrap(),
        reason: Some(word.into()),
    };
    if let Ok((_, Reported::Applied)) = stage.intake(&gateway).called_back(partner, &callback).await {
        stage.promise(order_no, callback.report.as_str());
    }
}

/// A scheduler submits and delivers.
async fn submit(stage: Arc<Stage>) {
    let gateway = Gateway(stage.outside.clone());
    let intake = stage.intake(&gateway);
    let _ = intake.finish(gateway.now_ms() + 10_000).await;
    for partner in PARTNERS {
        let queue = queue(partner);
        let account = Account { url: "http://partner".into(), secret: crate::partner::tests::WHSEC.into() };
        let peer = Partners(stage.outside.clone());
        let courier = Submissions { partner, account: &account, queue: &queue, peer: &peer, intake };
        let outbox = Outbox { db: &stage.effects, courier: &courier, function: FUNCTION };
        let _ = outbox.deliver(Whose::Any, 64, gateway.now_ms() + 20_000).await;
    }
    let _ = intake.outbox().deliver(Whose::Any, 64, gateway.now_ms() + 10_000).await;
}

/// One run.
struct Simulation {
    stage: Arc<Stage>,
}

impl Simulation {
    async fn new(seed: u64, faults: Faults) -> Self {
        let plain = Native::in_memory();
        migrate(&plain, "outbox", outbox::MIGRATIONS).await.unwrap();
        migrate(&plain, FUNCTION, store::MIGRATIONS).await.unwrap();
        let outside = Outside::new(Course::new(Dice::new(seed), faults, START), World::default());
        let [db, effects] = [false, true].map(|of_effects| {
            let disk = Disk { db: plain.clone(), outside: outside.clone(), of_effects };
            Db::new(Pointed { db: Db::new(disk), course: outside.course.clone() })
        });
        let accounts = Accounts {
            wechat_template_id: "wx".into(),
            wechat_link: String::new(),
            mini_program_template_id: "mp".into(),
            mini_program_page: String::new(),
            app_link: String::new(),
        };
        // Compiling takes longer than a run.
        static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::compile(&Source::shipped().unwrap(), 0).unwrap());
        let rules = &*RULES;
        Self { stage: Arc::new(Stage { outside, db, effects, plain, rules, accounts }) }
    }

    /// What a worker does next, at random.
    fn next(&self) -> Worker {
        let course = &self.stage.outside.course;
        let (kind, number) = (course.below(16), course.below(ORDERS.len()));
        let stage = self.stage.clone();
        match kind {
            0..3 => Box::pin(place(stage, number)),
            3..6 => Box::pin(pay(stage, number)),
            6..8 => Box::pin(review(stage, number)),
            8 => Box::pin(cancel(stage, number)),
            9..12 => Box::pin(call_back(stage, number)),
            _ => Box::pin(submit(stage)),
        }
    }

    /// Lets two workers do things, `steps` of them, in turns that the dice decide.
    fn run(&self, steps: usize) {
        let course = &self.stage.outside.course;
        let mut workers: [Option<Worker>; 2] = [None, None];
        for _ in 0..steps {
            let which = course.below(2);
            course.pass_some();
            let mut worker = workers[which].take().unwrap_or_else(|| self.next());
            match course.turn(worker.as_mut()) {
                Turn::Done(()) => {}
                Turn::CutOff => {
                    if self.power_is_cut() {
                        workers = [None, None];
                    }
                }
                Turn::Waits => workers[which] = Some(worker),
            }
        }
    }

    /// Whether a worker that was cut off was cut off with everything else; then the disk alone is left.
    fn power_is_cut(&self) -> bool {
        let course = &self.stage.outside.course;
        let is_cut = match course.faults() {
            Faults::Random(_) => course.happens(300),
            Faults::PowerCutAt(_) => true,
            Faults::CutOffAt(_) | Faults::None => false,
        };
        if !is_cut {
            return false;
        }
        let unsynced = std::mem::take(&mut self.stage.outside.world().unsynced);
        for statement in ["ROLLBACK TO unsynced", "RELEASE unsynced"].into_iter().filter(|_| unsynced) {
            run_alone(self.stage.plain.execute(statement, [])).unwrap();
        }
        true
    }

    /// Everything works again: what was begun is finished, by a scheduler alone. Returns how many points there were
    /// before.
    fn finish(&self) -> usize {
        let points = self.stage.outside.course.heal();
        for _ in 0..40 {
            // Longer than any wait or lease.
            self.stage.outside.course.pass(16 * 60_000);
            run_alone(submit(self.stage.clone()));
            if self.count("outbox WHERE state IN ('pending', 'sending')") == 0
                && self.count("pharmacy_orders WHERE told < steps") == 0
                && self.count("pharmacy_callbacks WHERE settled = 0") == 0
            {
                return points;
            }
        }
        panic!("it never ends");
    }

    fn count(&self, of: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {of}");
        run_alone(self.stage.plain.query_one(&sql, [])).unwrap().unwrap().integer(0).unwrap()
    }

    /// The books.
    fn check(&self) {
        let orders = run_alone(store::list(&self.stage.plain, &store::Filter::default(), false, 100)).unwrap();
        let mut due = BTreeSet::new();
        for kept in &orders {
            self.check_order(kept);
            for step in &kept.history {
                let messages = notices(&kept.order, step).into_iter();
                due.extend(messages.map(|notice| Message::new(notice, &self.stage.accounts).id));
            }
        }
        let world = self.stage.outside.world();
        let told: BTreeSet<_> = world.told.keys().cloned().collect();
        assert_eq!(told, due, "each person is told once of each step, and of nothing else");
        assert_eq!(world.told.values().collect::<BTreeSet<_>>().len() + self.payments_asked_twice(&orders), told.len());
        for (order_no, what) in &world.promised {
            let kept = orders.iter().find(|kept| kept.order.order_no.as_str() == order_no).unwrap();
            assert!(kept.history.iter().any(|step| step.event == *what), "{order_no}: {what} is forgotten");
        }
    }

    /// Approved orders tell `payment_due` once: no order does both at placing and after a review.
    fn payments_asked_twice(&self, orders: &[Kept]) -> usize {
        let asks = |event: &str| matches!(event, "passed" | "approved");
        orders.iter().filter(|kept| kept.history.iter().filter(|step| asks(&step.event)).count() > 1).count()
    }

    fn check_order(&self, kept: &Kept) {
        let world = self.stage.outside.world();
        let order_no = kept.order.order_no.as_str();
        let ways: Vec<&str> = kept.history.iter().map(|step| step.status.as_str()).collect();
        assert_eq!(ways.first(), Some(&"received"));
        for (pair, step) in ways.windows(2).zip(kept.history.iter().skip(1)) {
            if step.event == CANCEL_REFUSED {
                assert_eq!(pair, ["cancelled"; 2], "{order_no}");
                continue;
            }
            let legal = MOVES.iter().any(|row| {
                row.event.as_str() == step.event
                    && row.to.as_str() == pair[1]
                    && row.from.iter().any(|from| from.as_str() == pair[0])
            });
            assert!(legal, "{order_no}: {ways:?}");
        }
        assert_eq!(ways.last(), Some(&kept.status.as_str()), "{order_no}");
        // Nobody says anything of an order before it is given the order.
        let said = kept.history.iter().any(|step| Event::parse(&step.event).is_some_and(Event::is_partners));
        assert!(!said || kept.sent_at_ms.is_some(), "{order_no}: {ways:?}");
        let paid = ways.contains(&"submitted");
        assert_eq!(kept.payment.is_some(), paid, "{order_no}");
        assert_eq!(kept.refund_due, paid && kept.status.owes_refund(), "{order_no}: {ways:?}");
        let has = world.has.get(order_no);
        assert!(paid || has.is_none(), "{order_no} was given away unpaid");
        // One that it speaks of it may have, also where nobody saw it come through.
        if paid && kept.status != Status::Cancelled && !said {
            assert!(has.is_some(), "{order_no} was never given to its partner: {ways:?}");
        }
        if kept.status == Status::Submitted {
            assert_eq!(has, Some(&""), "{order_no}: what its partner decided is lost");
        }
        // It was there, and then called off.
        if has.is_some() && kept.status == Status::Cancelled {
            assert!(world.dropped.contains_key(order_no), "{order_no}: its partner does not know");
        }
        // Whoever was told that a partner keeps it is told once.
        let keeps = world.dropped.get(order_no).copied().unwrap_or_default();
        let noted = kept.history.iter().filter(|step| step.event == CANCEL_REFUSED).count();
        assert_eq!(noted, usize::from(keeps), "{order_no}: {ways:?}");
        if kept.status != Status::Cancelled {
            assert!(!world.dropped.contains_key(order_no), "{order_no}");
        }
    }
}

const SIMULATED: Simulated = Simulated { package: "pharmacy", run: simulate };

fn simulate(seed: u64, faults: Faults) -> usize {
    let simulation = run_alone(Simulation::new(seed, faults));
    simulation.run(STEPS);
    let points = simulation.finish();
    simulation.check();
    points
}

#[test]
fn whatever_fails_every_order_goes_a_legal_way_and_each_step_is_told_once() {
    SIMULATED.with_random_faults(300, 8);
}

#[test]
fn a_worker_or_the_power_that_is_cut_off_at_any_point_loses_nothing() {
    SIMULATED.with_a_fault_at_every_point(1, &[Faults::CutOffAt, Faults::PowerCutAt]);
}

#[test]
fn an_order_reads_back_as_it_was_placed() {
    let simulation = run_alone(Simulation::new(1, Faults::None));
    simulation.run(STEPS);
    let orders = run_alone(store::list(&simulation.stage.plain, &store::Filter::default(), false, 100)).unwrap();
    assert!(!orders.is_empty());
    for kept in orders {
        let value = json::parse(kept.body.as_bytes()).unwrap();
        assert_eq!(Order::read(&value, "").unwrap(), kept.order);
    }
}
