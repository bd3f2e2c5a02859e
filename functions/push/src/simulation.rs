//! The whole path on a real SQLite, with everything else simulated: two workers that are cut off at any point, a
//! stream, a gateway, and time. A run is decided by its seed alone, so that a failing one replays:
//! `SIMULATION_SEED=7 cargo test -p push simulation`.
//!
//! At the end the books are checked: every message that is due was accepted by the gateway, under one `webhook-id`
//! each, none that is not due, and those of an order in the order of its changes. A message is repeated only where that
//! cannot be told: at each post the gateway asks whether the outbox knew its end already, and whether another post of it
//! is under way; and at the end all events come again.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shared::{
    db::{Db, migration::migrate, native::Native},
    json,
    log::EntryPath,
    outbox::{self, Answer, Attempted, Courier, Whose, ledger},
    simulation::{Course, Dice, Faults, Outside, Pointed, Simulated, Turn, run_alone},
    stream::{self, Dead, Entry, Source, StreamError},
};

use crate::{
    drain::drain,
    format::{Formatter, Outcome, tests::formatter},
    intake::{Batch, FUNCTION, Intake, written},
    store,
};

const START: i64 = 1_481_361_166_000;
/// Polls of either worker before everything works again.
const STEPS: usize = 400;
/// How long a drain holds the stream, as in Redis.
const DRAIN_LEASE_MS: i64 = 5_000;

/// Every lease of a row, with its end, and whether the outbox knew by then that the message was sent or dead.
const LEASES: [&str; 2] = [
    "CREATE TABLE leases (id TEXT NOT NULL, token TEXT NOT NULL, until_ms INTEGER NOT NULL, settled INTEGER NOT NULL)",
    r#"CREATE TRIGGER leased AFTER UPDATE OF lease ON outbox WHEN NEW.state = 'sending' BEGIN
        INSERT INTO leases VALUES (NEW.id, NEW.lease, NEW.due_at_ms,
            OLD.attempt_log LIKE '%"outcome":"sent"%' OR OLD.attempt_log LIKE '%"outcome":"dead"%');
    END"#,
];

/// What the gateway and the stream have.
struct World {
    /// Webhook ids, in the order in which the gateway accepted them.
    accepted: Vec<(String, String)>,
    /// Posts that have not ended, each with the end of its lease. One that is cut off never ends, and has its lease.
    under_way: Vec<(String, i64)>,
    /// Orders' messages that the gateway will never take.
    poison: BTreeSet<String>,
    stream: Stream,
}

/// A stream with one consumer group of one consumer.
#[derive(Default)]
struct Stream {
    entries: Vec<String>,
    /// How many were handed out.
    read: usize,
    /// Handed out and not acknowledged.
    pending: BTreeSet<usize>,
    dead: BTreeSet<usize>,
    /// Who drains, and until when.
    lease: Option<(u64, i64)>,
}

/// All that is not the code under test, and the database, without faults.
#[derive(Clone)]
struct Stage {
    outside: Outside<World>,
    plain: Db,
}

/// The gateway, as one worker meets it.
struct Gateway {
    stage: Stage,
    /// Of the delivery that it makes.
    token: AtomicU64,
}

impl Gateway {
    fn new(stage: Stage) -> Self {
        Self { stage, token: AtomicU64::new(0) }
    }

    /// A post begins, by whoever leased the row. Returns the end of the lease.
    fn begins(&self, id: &str) -> i64 {
        const SQL: &str =
            "SELECT until_ms, settled FROM leases WHERE id = $1 AND token = $2 ORDER BY rowid DESC LIMIT 1";
        let token = self.token.load(Ordering::Relaxed).to_string();
        let lease = run_alone(self.stage.plain.query_one(SQL, [id.into(), token.into()])).unwrap();
        let lease = lease.expect("nothing is posted that is not leased");
        let (until_ms, settled, now_ms) = (lease.integer(0).unwrap(), lease.integer(1).unwrap(), self.now_ms());
        assert_eq!(settled, 0, "{id} is posted again, and the outbox knew that it was sent or dead");
        let mut world = self.stage.outside.world();
        let others = world.under_way.iter().any(|(other, until_ms)| other == id && *until_ms > now_ms);
        // Who is too late may meet whoever took over.
        assert!(!others || until_ms <= now_ms, "{id} is posted twice at once");
        world.under_way.push((id.to_owned(), until_ms));
        until_ms
    }

    fn ends(&self, id: &str, until_ms: i64) {
        let under_way = &mut self.stage.outside.world().under_way;
        let place = under_way.iter().position(|post| *post == (id.to_owned(), until_ms)).unwrap();
        under_way.swap_remove(place);
    }
}

impl Courier for Gateway {
    async fn post(&self, id: &str, _: &str, body: String, within: Duration) -> Answer {
        let until_ms = self.begins(id);
        self.stage.outside.course.switch().await;
        self.stage.outside.course.point().await;
        let answer = {
            let mut world = self.stage.outside.world();
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            let about = format!("{} {}", body["order_id"].as_str().unwrap(), body["occurred_at"].as_str().unwrap());
            if world.poison.contains(id) {
                Answer::Refused { status: 422, retry_after_ms: None }
            } else if self.stage.outside.course.fails(300) {
                match self.stage.outside.course.below(5) {
                    0 => Answer::Refused { status: 500, retry_after_ms: None },
                    1 => Answer::Refused { status: 429, retry_after_ms: Some(3_000) },
                    2 => Answer::Refused { status: 401, retry_after_ms: None },
                    3 => {
                        self.stage.outside.course.pass(i64::try_from(within.as_millis()).unwrap());
                        Answer::Unreachable("did not answer in time".into())
                    }
                    // It has the message, and its answer is lost.
                    _ => {
                        world.accepted.push((id.to_owned(), about));
                        Answer::Unreachable("broke off".into())
                    }
                }
            } else {
                world.accepted.push((id.to_owned(), about));
                Answer::Accepted
            }
        };
        self.stage.outside.course.point().await;
        self.stage.outside.course.switch().await;
        self.ends(id, until_ms);
        answer
    }

    fn now_ms(&self) -> i64 {
        self.stage.outside.course.now_ms()
    }

    fn log(&self, _: &Attempted<'_>) {}

    fn alarm(&self, _: &str) {}

    fn patience(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn token(&self) -> String {
        let token = self.stage.outside.course.token();
        self.token.store(token, Ordering::Relaxed);
        token.to_string()
    }
}

/// One drain's view of the stream.
struct Drain {
    stage: Stage,
    token: u64,
}

impl Drain {
    /// Runs a script: all of it or nothing, and its answer may be lost.
    async fn script<T>(&self, run: impl FnOnce(&mut World) -> T + Send) -> Result<T, StreamError> {
        self.stage.outside.course.switch().await;
        self.stage.outside.course.point().await;
        if self.stage.outside.course.fails(10) {
            return Err(StreamError::TimedOut);
        }
        let done = run(&mut self.stage.outside.world());
        self.stage.outside.course.point().await;
        if self.stage.outside.course.fails(10) {
            return Err(StreamError::TimedOut);
        }
        Ok(done)
    }
}

impl Source for Drain {
    async fn read(&self, count: usize, held: Option<&str>) -> Result<stream::Batch, StreamError> {
        let token = self.token;
        let first = held.map_or(0, |id| id.parse::<usize>().unwrap() + 1);
        let now_ms = self.stage.outside.course.now_ms();
        self.script(move |world| {
            let stream = &mut world.stream;
            if stream.lease.is_some_and(|(holder, until_ms)| holder != token && until_ms > now_ms) {
                return stream::Batch::Busy;
            }
            stream.lease = Some((token, now_ms + DRAIN_LEASE_MS));
            let mut ids: Vec<usize> = stream.pending.range(first..).copied().take(count).collect();
            if ids.is_empty() {
                ids = (stream.read..stream.entries.len()).take(count).collect();
                stream.read += ids.len();
                stream.pending.extend(&ids);
            }
            stream::Batch::Entries(ids.into_iter().map(|id| entry(id, &stream.entries[id])).collect())
        })
        .await
    }

    async fn finish(&self, handled: &[String], dead: &[Dead]) -> Result<(), StreamError> {
        let number = |id: &str| id.parse::<usize>().unwrap();
        let handled: Vec<_> = handled.iter().map(|id| number(id)).collect();
        let dead: Vec<_> = dead.iter().map(|dead| number(&dead.id)).collect();
        self.script(move |world| {
            for id in dead {
                if world.stream.pending.remove(&id) {
                    assert!(world.stream.dead.insert(id), "an entry died twice");
                }
            }
            for id in handled {
                world.stream.pending.remove(&id);
            }
        })
        .await
    }

    async fn release(&self) -> Result<u64, StreamError> {
        let token = self.token;
        self.script(move |world| {
            if world.stream.lease.is_some_and(|(holder, _)| holder == token) {
                world.stream.lease = None;
            }
            (world.stream.entries.len() - world.stream.read + world.stream.pending.len()) as u64
        })
        .await
    }
}

fn entry(id: usize, text: &str) -> Entry {
    Entry { id: id.to_string(), fields: vec![("message".into(), text.to_owned())], valid_utf8: true }
}

/// What is done to an order, one after the other.
struct Order {
    /// Whether its events come by the stream; else by HTTP, the next when the last is answered.
    by_stream: bool,
    events: Vec<String>,
    /// How many have come in, for sure.
    sent: usize,
}

/// The run as its publishers see it.
struct Plan {
    orders: Vec<Order>,
}

/// Sends a message, whatever the order did before. The patient is told of each.
const TRANSITIONS: [(&str, &str, &str); 5] = [
    ("待接单", "待服务", "护士接单"),
    ("待服务", "服务中", "服务开始"),
    ("退款申请中", "服务纠纷", "护士拒绝退款"),
    ("服务中", "退款申请中", "患者申请退款"),
    ("服务中", "服务完成", "服务完成（护士触发）"),
];

impl Plan {
    fn new(dice: &mut Dice) -> Self {
        let order = |dice: &mut Dice, number: usize| {
            let events = (0..1 + dice.below(5)).map(|place| {
                let (from, to, operation) = TRANSITIONS[dice.below(TRANSITIONS.len())];
                // Two changes within a second, in the feed's order, are usual.
                let at = shared::clock::rfc3339(START + 1000 * (place as i64 / 2));
                match dice.below(12) {
                    0 => event(number, place, "退款中", "已退款", "", &at),
                    1 => event(number, place, "退款申请中", "服务纠纷", "", &at),
                    2 => "{\"order_id\":1,\"from\":true,\"to\":false}".to_owned(),
                    _ => event(number, place, from, to, operation, &at),
                }
            });
            let events = events.collect();
            Order { by_stream: dice.happens(600), events, sent: 0 }
        };
        let count = 1 + dice.below(5);
        Self { orders: (0..count).map(|number| order(dice, number)).collect() }
    }
}

fn event(order: usize, place: usize, from: &str, to: &str, operation: &str, at: &str) -> String {
    format!(
        r#"{{"event_id":"e{order}-{place}","order_id":"o{order}","from":"{from}","to":"{to}","operation":"{operation}",
        "patient_id":98,"nurse_id":17,"occurred_at":"{at}"}}"#
    )
}

/// It ends with the order and the event's place in it, if one came in by it.
type Worker = Pin<Box<dyn Future<Output = Option<(usize, usize)>>>>;

/// One run.
struct Simulation {
    stage: Stage,
    db: Arc<Db>,
    formatter: Arc<Formatter>,
    plan: Plan,
}

impl Simulation {
    async fn new(seed: u64, faults: Faults) -> Self {
        let mut dice = Dice::new(seed);
        let plan = Plan::new(&mut dice);
        let plain = Native::in_memory();
        migrate(&plain, "outbox", outbox::MIGRATIONS).await.unwrap();
        migrate(&plain, FUNCTION, store::MIGRATIONS).await.unwrap();
        for statement in LEASES {
            plain.execute(statement, []).await.unwrap();
        }
        let formatter = Arc::new(formatter(""));
        let mut poison = BTreeSet::new();
        for (id, ..) in plan.orders.iter().flat_map(|order| messages(&formatter, order)) {
            if dice.happens(60) {
                poison.insert(id);
            }
        }
        let world = World { accepted: Vec::new(), under_way: Vec::new(), poison, stream: Stream::default() };
        let course = Course::new(dice, faults, START);
        let db = Arc::new(Db::new(Pointed { db: plain.clone(), course: course.clone() }));
        let stage = Stage { outside: Outside::new(course, world), plain };
        Self { stage, db, formatter, plan }
    }

    /// What a worker does next, at random.
    fn next(&mut self) -> Worker {
        let course = &self.stage.outside.course;
        let (kind, number) = (course.below(4), course.below(self.plan.orders.len()));
        match kind {
            0 | 1 if !self.plan.orders[number].by_stream => self.take_in_next(number),
            0 => self.deliver(),
            _ => self.drain(),
        }
    }

    /// An order's next event comes by HTTP; or, all being in, one of them again.
    fn take_in_next(&self, number: usize) -> Worker {
        let order = &self.plan.orders[number];
        let replayed = self.stage.outside.course.below(order.events.len());
        self.take_in(number, if order.sent < order.events.len() { order.sent } else { replayed })
    }

    /// An order's event comes by HTTP.
    fn take_in(&self, number: usize, place: usize) -> Worker {
        let (stage, db, formatter) = (self.stage.clone(), self.db.clone(), self.formatter.clone());
        let text = self.plan.orders[number].events[place].clone();
        Box::pin(async move {
            let gateway = Gateway::new(stage.clone());
            let intake = Intake { formatter: &formatter, db: &db, courier: &gateway, path: EntryPath::Http };
            let mut batch = Batch::default();
            let event = json::parse(text.as_bytes()).unwrap();
            batch.add(formatter.format(&event), || written(&event));
            intake.commit(&batch).await.ok()?;
            let until_ms = gateway.now_ms() + 10_000;
            let _ = intake.deliver(&batch.ids(), until_ms).await;
            Some((number, place))
        })
    }

    /// A scheduler delivers.
    fn deliver(&self) -> Worker {
        let (stage, db) = (self.stage.clone(), self.db.clone());
        Box::pin(async move {
            let gateway = Gateway::new(stage.clone());
            let until_ms = gateway.now_ms() + 10_000;
            let outbox = outbox::Outbox { db: &db, courier: &gateway, function: FUNCTION };
            let _ = outbox.deliver(Whose::Any, 64, until_ms).await;
            None
        })
    }

    /// The doorbell rings.
    fn drain(&self) -> Worker {
        let (stage, db, formatter) = (self.stage.clone(), self.db.clone(), self.formatter.clone());
        Box::pin(async move {
            let gateway = Gateway::new(stage.clone());
            let intake = Intake { formatter: &formatter, db: &db, courier: &gateway, path: EntryPath::Stream };
            let source = Drain { token: stage.outside.course.token(), stage };
            let _ = drain(&intake, &source, "message", || true).await;
            let until_ms = gateway.now_ms() + 1_000;
            let _ = intake.outbox().deliver(Whose::Any, usize::MAX, until_ms).await;
            None
        })
    }

    /// The publishers of the stream write, and sometimes write again what they wrote.
    fn publish(&mut self) {
        let course = &self.stage.outside.course;
        let number = course.below(self.plan.orders.len());
        let order = &mut self.plan.orders[number];
        if !order.by_stream {
            return;
        }
        let replayed = course.below(order.events.len());
        if order.sent < order.events.len() {
            self.stage.outside.world().stream.entries.push(order.events[order.sent].clone());
            order.sent += 1;
        } else if course.happens(50) {
            self.stage.outside.world().stream.entries.push(order.events[replayed].clone());
        }
    }

    /// Lets two workers do things, `steps` of them, in turns that the dice decide.
    fn run(&mut self, steps: usize) {
        let mut workers: [Option<Worker>; 2] = [None, None];
        for _ in 0..steps {
            let (which, publishes) = (self.stage.outside.course.below(2), self.stage.outside.course.happens(80));
            self.stage.outside.course.pass_some();
            if publishes {
                self.publish();
            }
            let mut worker = workers[which].take().unwrap_or_else(|| self.next());
            match self.stage.outside.course.turn(worker.as_mut()) {
                Turn::Done(came_in) => self.count(came_in),
                Turn::CutOff => {}
                Turn::Waits => workers[which] = Some(worker),
            }
        }
    }

    fn count(&mut self, came_in: Option<(usize, usize)>) {
        if let Some((number, place)) = came_in {
            let order = &mut self.plan.orders[number];
            // Both workers may have taken in the same one.
            order.sent = order.sent.max(place + 1);
        }
    }

    /// Everything works again: what was begun is finished. Returns how many points there were before.
    fn finish(&mut self) -> usize {
        let points = self.stage.outside.course.heal();
        for _ in 0..60 {
            // Longer than any wait or lease, and all of it less than the day after which a message is given up.
            self.stage.outside.course.pass(16 * 60_000);
            let mut workers = vec![self.drain()];
            for number in 0..self.plan.orders.len() {
                let order = &mut self.plan.orders[number];
                if order.by_stream {
                    let missing = &order.events[order.sent..];
                    self.stage.outside.world().stream.entries.extend_from_slice(missing);
                    order.sent = order.events.len();
                } else if order.sent < order.events.len() {
                    workers.push(self.take_in_next(number));
                }
            }
            workers.push(self.deliver());
            for worker in workers {
                let came_in = run_alone(worker);
                self.count(came_in);
            }
            let all_in = self.plan.orders.iter().all(|order| order.sent == order.events.len());
            let drained = {
                let stream = &self.stage.outside.world().stream;
                stream.read == stream.entries.len() && stream.pending.is_empty()
            };
            if all_in && drained && self.waiting() == 0 {
                return points;
            }
        }
        panic!("it never ends: {} wait", self.waiting());
    }

    /// All events come again, the way that they came.
    fn replay(&self) {
        let accepted = self.stage.outside.world().accepted.len();
        for (number, order) in self.plan.orders.iter().enumerate() {
            if order.by_stream {
                self.stage.outside.world().stream.entries.extend_from_slice(&order.events);
            } else {
                for place in 0..order.events.len() {
                    run_alone(self.take_in(number, place));
                }
            }
        }
        for worker in [self.drain(), self.deliver()] {
            run_alone(worker);
        }
        assert_eq!(self.stage.outside.world().accepted.len(), accepted, "a replay sends");
    }

    fn waiting(&self) -> i64 {
        let sql = "SELECT count(*) FROM outbox WHERE state IN ('pending', 'sending')";
        run_alone(self.stage.plain.query_one(sql, [])).unwrap().unwrap().integer(0).unwrap()
    }

    /// The books.
    fn check(&self) {
        let world = self.stage.outside.world();
        let mut due = BTreeMap::new();
        for order in &self.plan.orders {
            for (id, about) in messages(&self.formatter, order) {
                due.insert(id, about);
            }
        }
        let mut firsts: Vec<&String> = Vec::new();
        for (id, about) in &world.accepted {
            assert_eq!(due.get(id), Some(about), "{id} was not due");
            assert!(!world.poison.contains(id), "{id} was refused");
            if !firsts.contains(&id) {
                firsts.push(id);
            }
        }
        for id in due.keys().filter(|id| !world.poison.contains(*id)) {
            assert!(firsts.contains(&id), "{id} was never accepted");
        }
        for order in &self.plan.orders {
            let expected: Vec<_> = messages(&self.formatter, order)
                .into_iter()
                .map(|(id, _)| id)
                .filter(|id| !world.poison.contains(id))
                .collect();
            let found: Vec<_> = firsts.iter().copied().filter(|id| expected.contains(id)).cloned().collect();
            assert_eq!(found, expected, "out of order");
        }
        drop(world);
        for (id, poisoned) in due.keys().map(|id| (id, self.stage.outside.world().poison.contains(id))) {
            let state = run_alone(ledger::get(&self.stage.plain, id)).unwrap().unwrap().entry.state;
            assert_eq!(state, if poisoned { ledger::State::Dead } else { ledger::State::Sent });
        }
        let kept = run_alone(self.stage.plain.query_one("SELECT count(*) FROM push_events", [])).unwrap().unwrap();
        assert_eq!(kept.integer(0).unwrap(), self.unclear(), "events that need somebody");
    }

    /// How many of the events need somebody.
    fn unclear(&self) -> i64 {
        let mut ids = BTreeSet::new();
        for text in self.plan.orders.iter().flat_map(|order| &order.events) {
            let event = json::parse(text.as_bytes()).unwrap();
            for formatted in self.formatter.format(&event) {
                match formatted.outcome {
                    Outcome::Formatted(_) | Outcome::Ignored(_) => {}
                    _ => drop(ids.insert(formatted.event_id.map_or_else(String::new, |id| id.as_str().to_owned()))),
                }
            }
        }
        i64::try_from(ids.len()).unwrap()
    }
}

/// The messages of an order's events in the order of its changes, each with what it is about.
fn messages(formatter: &Formatter, order: &Order) -> Vec<(String, String)> {
    let message = |text: &String| {
        let event = json::parse(text.as_bytes()).unwrap();
        let message = formatter.format(&event).into_iter().find_map(|formatted| match formatted.outcome {
            Outcome::Formatted(message) => Some(message),
            _ => None,
        })?;
        Some((message.id.clone(), format!("{} {}", message.order_id.as_str(), message.occurred_at)))
    };
    order.events.iter().filter_map(message).collect()
}

const SIMULATED: Simulated = Simulated { package: "push", run: simulate };

fn simulate(seed: u64, faults: Faults) -> usize {
    let mut simulation = run_alone(Simulation::new(seed, faults));
    simulation.run(STEPS);
    let points = simulation.finish();
    simulation.replay();
    simulation.check();
    points
}

#[test]
fn whatever_fails_every_message_arrives_once_and_in_order() {
    SIMULATED.with_random_faults(2_000, 8);
}

#[test]
fn a_worker_that_is_cut_off_at_any_point_loses_nothing() {
    SIMULATED.with_a_fault_at_every_point(3, &[Faults::CutOffAt]);
}
