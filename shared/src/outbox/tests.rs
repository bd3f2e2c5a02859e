//! The outbox on a real SQLite, with a gateway and a clock of the test's own.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use futures::future::BoxFuture;

use super::{
    delivery::LEASE_MS,
    ledger::{Filter, State},
    store::{LeaseRequest, Outcome},
    *,
};
use crate::{
    db::{Engine, Row, Value, migration::migrate, native::Native},
    id::Id,
    message::{Accounts, Channel, Notice, Recipient, Role, Text},
};

const START: i64 = 1_481_361_166_000;
const FOREVER: i64 = i64::MAX;

/// A gateway that answers by message, and keeps what it got.
struct World {
    now_ms: AtomicI64,
    answers: Mutex<HashMap<String, Answer>>,
    usual: Mutex<Answer>,
    got: Mutex<Vec<String>>,
    alarms: AtomicI64,
    tokens: AtomicI64,
    /// How long a post takes.
    post_ms: AtomicI64,
}

impl World {
    fn new() -> Self {
        Self {
            now_ms: AtomicI64::new(START),
            answers: Mutex::default(),
            usual: Mutex::new(Answer::Accepted),
            got: Mutex::default(),
            alarms: AtomicI64::new(0),
            tokens: AtomicI64::new(0),
            post_ms: AtomicI64::new(0),
        }
    }

    fn pass(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn answers(&self, answer: Answer) {
        *self.usual.lock().unwrap() = answer;
    }

    fn answers_to(&self, message: &Message, answer: Answer) {
        self.answers.lock().unwrap().insert(message.id.clone(), answer);
    }

    /// The messages that came since it was asked last.
    fn got(&self) -> Vec<String> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }
}

impl Courier for World {
    async fn post(&self, id: &str, _: &str, body: String, _: Duration) -> Answer {
        assert!(body.contains(id));
        self.pass(self.post_ms.load(Ordering::Relaxed));
        self.got.lock().unwrap().push(id.to_owned());
        self.answers.lock().unwrap().get(id).cloned().unwrap_or_else(|| self.usual.lock().unwrap().clone())
    }

    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn log(&self, _: &Attempted<'_>) {}

    fn alarm(&self, reason: &str) {
        assert_eq!(reason, "the gateway answered 401");
        self.alarms.fetch_add(1, Ordering::Relaxed);
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(7)
    }

    fn token(&self) -> String {
        self.tokens.fetch_add(1, Ordering::Relaxed).to_string()
    }
}

async fn database() -> Db {
    let db = Native::in_memory();
    migrate(&db, "outbox", MIGRATIONS).await.unwrap();
    db
}

fn outbox<'a>(db: &'a Db, world: &'a World) -> Outbox<'a, World> {
    Outbox { db, courier: world, function: "push" }
}

/// The message of an order's event, which happened `at_s` seconds after the start.
fn message(order: u64, event: &str, at_s: i64) -> Message {
    let text = Text { title: "标题", body: "正文。", short: "正文", phrase: "状态" };
    let accounts = Accounts {
        wechat_template_id: "wx".into(),
        wechat_link: String::new(),
        mini_program_template_id: "mp".into(),
        mini_program_page: String::new(),
        app_link: String::new(),
    };
    let notice = Notice {
        event_id: Id::parse(&format!("{order}-{event}")).unwrap(),
        scenario: "nurse_accepted",
        label: "护士接单",
        order_id: Id::parse(&order.to_string()).unwrap(),
        recipient: Recipient { role: Role::Patient, id: Id::parse("98"), audience: None, address: None },
        channel: Channel::Wechat,
        text,
        occurred_at_ms: START + at_s * 1000,
        nurse: None,
    };
    Message::new(notice, &accounts)
}

fn ids(messages: &[&Message]) -> Vec<String> {
    messages.iter().map(|message| message.id.clone()).collect()
}

fn down() -> Answer {
    Answer::Refused { status: 503, retry_after_ms: None }
}

async fn state(db: &Db, message: &Message) -> State {
    ledger::get(db, &message.id).await.unwrap().unwrap().entry.state
}

async fn deliver(outbox: &Outbox<'_, World>) -> Tally {
    outbox.deliver(Whose::Any, usize::MAX, FOREVER).await.unwrap()
}

/// Takes what is due at the start as somebody else would, and returns how many rows that is.
async fn lease(db: &Db, token: &str) -> usize {
    let request = LeaseRequest {
        whose: Whose::Any,
        queue: MESSAGES,
        token,
        now_ms: START,
        until_ms: START + LEASE_MS,
        rows: 10,
        new_alone: false,
    };
    store::lease(db, &request).await.unwrap().len()
}

fn failure(message: &Message, due_at_ms: i64) -> Outcome {
    let (id, order_id) = (message.id.clone(), message.order_id.as_str().to_owned());
    Outcome { id, order_id, state: "pending", due_at_ms, line: String::new() }
}

#[tokio::test]
async fn a_message_goes_out_once_however_often_it_is_enqueued() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let message = message(1, "a", 0);
    let messages = [message.clone(), message.clone()];
    outbox.enqueue(&messages).await.unwrap();
    assert_eq!(deliver(&outbox).await, Tally { sent: 1, ..Tally::default() });
    outbox.enqueue(&messages).await.unwrap();
    assert_eq!(deliver(&outbox).await, Tally::default());
    assert_eq!(world.got(), ids(&[&message]));
    assert_eq!(state(&db, &message).await, State::Sent);
}

#[tokio::test]
async fn a_failure_is_tried_again_when_it_is_due_and_not_before() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let message = message(1, "a", 0);
    outbox.enqueue(std::slice::from_ref(&message)).await.unwrap();
    world.answers(down());
    assert_eq!(deliver(&outbox).await, Tally { retrying: 1, ..Tally::default() });
    assert_eq!(deliver(&outbox).await, Tally::default());
    world.pass(2_000);
    world.answers(Answer::Accepted);
    assert_eq!(deliver(&outbox).await, Tally { sent: 1, ..Tally::default() });
    let whole = ledger::get(&db, &message.id).await.unwrap().unwrap();
    assert_eq!(whole.entry.attempts, 2);
    let history: Vec<_> = whole.history.iter().map(|line| line.get().to_owned()).collect();
    assert!(history[0].contains("the gateway answered 503") && history[1].contains("\"sent\""), "{history:?}");
}

#[tokio::test]
async fn an_orders_messages_go_out_in_the_order_of_its_changes() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let (first, second, third) = (message(1, "a", 0), message(1, "b", 1), message(1, "c", 1));
    let other = message(2, "a", 5);
    // As they came in, which is not the order in which they happened.
    outbox.enqueue(&[second.clone(), third.clone(), first.clone(), other.clone()]).await.unwrap();
    world.answers_to(&first, down());
    deliver(&outbox).await;
    let mut got = world.got();
    got.sort();
    let mut expected = ids(&[&first, &other]);
    expected.sort();
    assert_eq!(got, expected, "the later ones wait, another order does not");
    world.pass(2_000);
    world.answers_to(&first, Answer::Accepted);
    deliver(&outbox).await;
    assert_eq!(world.got(), ids(&[&first, &second, &third]));
}

#[tokio::test]
async fn what_waits_behind_a_dead_message_goes_out_at_once() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let (first, second) = (message(1, "a", 0), message(1, "b", 1));
    outbox.enqueue(&[first.clone(), second.clone()]).await.unwrap();
    world.answers_to(&first, down());
    deliver(&outbox).await;
    world.pass(2_000);
    world.answers_to(&first, Answer::Refused { status: 422, retry_after_ms: None });
    assert_eq!(deliver(&outbox).await, Tally { sent: 1, dead: 1, ..Tally::default() });
    assert_eq!(state(&db, &first).await, State::Dead);
    assert_eq!(state(&db, &second).await, State::Sent);
}

#[tokio::test]
async fn a_row_is_sent_by_one_delivery_at_a_time_and_by_the_next_when_its_lease_ends() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let message = message(1, "a", 0);
    outbox.enqueue(std::slice::from_ref(&message)).await.unwrap();
    assert_eq!(lease(&db, "dies").await, 1);
    assert_eq!(deliver(&outbox).await, Tally::default());
    world.pass(LEASE_MS - 1);
    assert_eq!(deliver(&outbox).await, Tally::default());
    world.pass(1);
    assert_eq!(deliver(&outbox).await.sent, 1);
    // The one that was thought dead comes back with a failure, which counts no more.
    store::settle(&db, &[failure(&message, START)], "dies", world.now_ms()).await.unwrap();
    assert_eq!(state(&db, &message).await, State::Sent);
}

#[tokio::test]
async fn a_gateway_that_is_down_is_not_asked_for_every_message() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages: Vec<_> = (0..200).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&messages).await.unwrap();
    world.answers(Answer::Unreachable("the gateway refused the connection".into()));
    let tally = deliver(&outbox).await;
    assert!((8..=16).contains(&tally.retrying), "{tally:?}");
    assert_eq!(outbox.pending().await.unwrap(), 200);
    world.answers(Answer::Accepted);
    world.pass(2_000);
    assert_eq!(deliver(&outbox).await.sent, 200, "what was given back is due again");
}

#[tokio::test]
async fn a_ring_that_brought_nothing_does_not_ask_a_gateway_that_just_failed() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages: Vec<_> = (0..100).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&messages).await.unwrap();
    world.answers(down());
    deliver(&outbox).await;
    assert_eq!(outbox.deliver_rung(false, FOREVER).await.unwrap(), Tally::default());
    assert!(outbox.deliver_rung(true, FOREVER).await.unwrap().retrying > 0, "what came in is tried");
    world.pass(5_000);
    assert!(outbox.deliver_rung(false, FOREVER).await.unwrap().retrying > 0, "it may be there again");
    assert_eq!(outbox.deliver_rung(false, FOREVER).await.unwrap(), Tally::default());
    world.answers(Answer::Accepted);
    assert_eq!(outbox.deliver(Whose::Any, 1, FOREVER).await.unwrap().sent, 1);
    assert!(outbox.deliver_rung(false, FOREVER).await.unwrap().sent > 0, "it is there again");
}

#[tokio::test]
async fn a_failure_or_two_keep_no_ring_from_delivering_and_time_spent_on_nothing_does() {
    for (failing, post_ms, tried) in [(2, 0, true), (2, 1_000, false)] {
        let (db, world) = (database().await, World::new());
        let outbox = outbox(&db, &world);
        let messages: Vec<_> = (0..failing).map(|order| message(order, "a", 0)).collect();
        outbox.enqueue(&messages).await.unwrap();
        world.answers(down());
        world.post_ms.store(post_ms, Ordering::Relaxed);
        outbox.deliver(Whose::Any, usize::MAX, START + 1_000).await.unwrap();
        world.pass(2_000);
        assert_eq!(outbox.deliver_rung(false, FOREVER).await.unwrap().retrying > 0, tried, "{post_ms} ms");
    }
}

#[tokio::test]
async fn a_backlog_behind_retries_is_not_looked_at_by_every_delivery() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    outbox.enqueue(&[message(1, "a", 0), message(1, "b", 1)]).await.unwrap();
    world.answers(down());
    deliver(&outbox).await;
    outbox.enqueue(&[message(1, "c", 2)]).await.unwrap();
    let due = db.query("SELECT 1 FROM outbox WHERE due_at_ms <= $1", [START.into()]).await.unwrap();
    assert!(due.is_empty(), "all wait for the first one's next attempt");
}

#[tokio::test]
async fn our_own_fault_is_said_once_a_minute() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    outbox.enqueue(&[message(1, "a", 0), message(2, "a", 0)]).await.unwrap();
    world.answers(Answer::Refused { status: 401, retry_after_ms: None });
    for expected in [1, 1, 2] {
        deliver(&outbox).await;
        assert_eq!(world.alarms.load(Ordering::Relaxed), expected);
        world.pass(31_000);
    }
}

#[tokio::test]
async fn time_that_ran_out_for_the_caller_is_followed_by_a_wait_of_half_a_minute_at_most() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let message = message(1, "a", 0);
    outbox.enqueue(std::slice::from_ref(&message)).await.unwrap();
    world.answers(Answer::CutShort);
    outbox.deliver(Whose::Any, 1, START + 1_000).await.unwrap();
    let whole = ledger::get(&db, &message.id).await.unwrap().unwrap();
    assert_eq!((whole.entry.state, whole.entry.attempts), (State::Pending, 1));
    assert_eq!(outbox.deliver(Whose::Any, 1, START).await.unwrap(), Tally::default(), "there is no time at all");
    assert_eq!(deliver(&outbox).await, Tally::default(), "a slow gateway may have it, and is not asked at once");
    for _ in 0..20 {
        world.pass(48_000);
        assert_eq!(deliver(&outbox).await.retrying, 1, "nor ever later than that");
    }
    world.answers(Answer::Accepted);
    world.pass(48_000);
    assert_eq!(deliver(&outbox).await.sent, 1);
}

#[tokio::test]
async fn messages_that_always_fail_keep_no_others_waiting() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let failing: Vec<_> = (0..300).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&failing).await.unwrap();
    failing.iter().for_each(|message| world.answers_to(message, down()));
    // However long they have failed, and however many are due again.
    for _ in 0..60 {
        deliver(&outbox).await;
        world.pass(60_000);
    }
    let good: Vec<_> = (1_000..1_003).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&good).await.unwrap();
    world.got();
    assert_eq!(deliver(&outbox).await.sent, 3);
    // And one that failed while all did has its turn among them.
    world.answers_to(&good[0], Answer::Accepted);
    let late = message(2_000, "a", 0);
    outbox.enqueue(std::slice::from_ref(&late)).await.unwrap();
    world.answers_to(&late, down());
    deliver(&outbox).await;
    world.answers_to(&late, Answer::Accepted);
    let mut sent = 0;
    for _ in 0..15 {
        world.pass(60_000);
        sent += deliver(&outbox).await.sent;
    }
    assert_eq!(sent, 1);
}

#[tokio::test]
async fn what_a_retry_sends_lets_go_of_what_waited_behind_it() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages = [message(1, "a", 1), message(1, "b", 2)];
    outbox.enqueue(&messages).await.unwrap();
    world.answers(Answer::Refused { status: 503, retry_after_ms: Some(3_600_000) });
    deliver(&outbox).await;
    // One that happened before what waits, and is told of late, waits for nothing.
    let earlier = message(1, "c", 0);
    outbox.enqueue(std::slice::from_ref(&earlier)).await.unwrap();
    world.answers(Answer::Accepted);
    world.got();
    deliver(&outbox).await;
    assert_eq!(world.got(), [earlier.id]);
    assert!(ledger::retry(&db, &messages[0].id, world.now_ms()).await.unwrap());
    for _ in 0..2 {
        deliver(&outbox).await;
    }
    assert_eq!(world.got(), ids(&[&messages[0], &messages[1]]));
}

#[tokio::test]
async fn what_a_retry_sends_lets_go_of_what_was_tried_before_it() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let (earlier, later) = (message(1, "a", 0), message(1, "b", 1));
    outbox.enqueue(std::slice::from_ref(&later)).await.unwrap();
    world.answers(down());
    deliver(&outbox).await;
    outbox.enqueue(std::slice::from_ref(&earlier)).await.unwrap();
    world.answers(Answer::Refused { status: 503, retry_after_ms: Some(3_600_000) });
    deliver(&outbox).await;
    world.pass(60_000);
    assert!(ledger::retry(&db, &earlier.id, world.now_ms()).await.unwrap());
    world.answers(Answer::Accepted);
    world.got();
    deliver(&outbox).await;
    assert_eq!(world.got(), ids(&[&earlier, &later]));
}

#[tokio::test]
async fn what_is_sent_lets_nothing_go_that_happened_before_it() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let (earlier, later) = (message(1, "a", 0), message(1, "b", 1));
    outbox.enqueue(std::slice::from_ref(&later)).await.unwrap();
    assert_eq!(lease(&db, "slow").await, 1);
    outbox.enqueue(std::slice::from_ref(&earlier)).await.unwrap();
    world.answers(Answer::Refused { status: 503, retry_after_ms: Some(3_600_000) });
    assert_eq!(deliver(&outbox).await.retrying, 1);
    store::let_go(&db, MESSAGES, &ids(&[&later]), START).await.unwrap();
    assert_eq!(deliver(&outbox).await, Tally::default(), "it waits for what the gateway asked for");
}

#[tokio::test]
async fn a_failure_that_counts_no_more_holds_nothing_back() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let (first, second) = (message(1, "a", 0), message(1, "b", 1));
    outbox.enqueue(&[first.clone(), second.clone()]).await.unwrap();
    assert_eq!(lease(&db, "dies").await, 1);
    world.pass(LEASE_MS);
    assert_eq!(outbox.deliver(Whose::These(&ids(&[&first])), 1, FOREVER).await.unwrap().sent, 1);
    let failure = failure(&first, world.now_ms() + 3_600_000);
    store::settle(&db, std::slice::from_ref(&failure), "dies", world.now_ms()).await.unwrap();
    store::hold_back(&db, MESSAGES, &[&failure]).await.unwrap();
    assert_eq!(deliver(&outbox).await.sent, 1);
}

#[tokio::test]
async fn a_message_is_given_up_after_a_day_in_which_it_was_tried() {
    const DAY_MS: i64 = 24 * 3_600_000;
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    world.answers(down());
    let tried_all_day = message(1, "a", 0);
    outbox.enqueue(std::slice::from_ref(&tried_all_day)).await.unwrap();
    while deliver(&outbox).await.dead == 0 {
        world.pass(900_000);
    }
    assert_eq!(world.now_ms() - START, DAY_MS);

    let hardly_tried = message(2, "a", 0);
    outbox.enqueue(std::slice::from_ref(&hardly_tried)).await.unwrap();
    world.got();
    while deliver(&outbox).await.dead == 0 {
        world.pass(DAY_MS);
    }
    assert_eq!(world.got().len(), 20, "nobody was there for most of these days");
}

#[tokio::test]
async fn a_call_finds_its_own_messages_by_their_ids() {
    let (db, _) = (database().await, World::new());
    let sql = "EXPLAIN QUERY PLAN SELECT o.seq FROM outbox AS o WHERE o.state IN ('pending', 'sending')
        AND +o.due_at_ms <= 1 AND +o.queue = 'messages' AND o.id IN (SELECT value FROM json_each('[]'))";
    let plan = db.query(sql, []).await.unwrap();
    let plan: Vec<_> = plan.iter().map(|row| row.text(3).unwrap().to_owned()).collect();
    assert!(plan.iter().any(|step| step.contains("(id=?)")), "{plan:?}");
}

#[tokio::test]
async fn what_was_sent_before_it_was_counted_counts() {
    let db = Native::in_memory();
    migrate(&db, "outbox", &MIGRATIONS[..3]).await.unwrap();
    let world = World::new();
    outbox(&db, &world).enqueue(&[message(1, "a", 0), message(2, "a", 0)]).await.unwrap();
    db.execute("UPDATE outbox SET state = 'sent' WHERE order_id = '1'", []).await.unwrap();
    migrate(&db, "outbox", MIGRATIONS).await.unwrap();
    let states = ledger::stats(&db, START).await.unwrap().by_state;
    assert_eq!((states["sent"], states["pending"]), (1, 1));
}

/// A list that reads the whole table is fast in every test and slow after a year.
#[tokio::test]
async fn what_an_operator_asks_is_answered_by_indexes_alone() {
    struct Explained(Db, Arc<Mutex<Vec<String>>>);
    impl Engine for Explained {
        fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
            Box::pin(async move {
                let plan = self.0.query(&format!("EXPLAIN QUERY PLAN {sql}"), values.clone()).await?;
                let steps = plan.iter().map(|row| row.text(3).unwrap().to_owned());
                self.1.lock().unwrap().extend(steps.filter(|step| step.contains("outbox")));
                self.0.query(sql, values).await
            })
        }
    }
    let plan = Arc::new(Mutex::new(Vec::new()));
    let db = Db::new(Explained(database().await, plan.clone()));
    let steps = || std::mem::take(&mut *plan.lock().unwrap());

    ledger::stats(&db, START).await.unwrap();
    let stats = steps();
    assert!(stats.iter().all(|step| step.starts_with("SEARCH")), "{stats:?}");
    assert!(stats.contains(&"SEARCH outbox USING COVERING INDEX outbox_unsent (queue=?)".into()), "{stats:?}");

    let by_state = "SEARCH outbox USING INDEX outbox_unsent (queue=? AND state=?)";
    let pending = Filter { state: Some(State::Pending), ..Filter::default() };
    ledger::list(&db, &pending, 50).await.unwrap();
    assert_eq!(steps(), [by_state]);
    let of_an_order = Filter { order_id: Some("1".into()), ..pending };
    ledger::list(&db, &of_an_order, 50).await.unwrap();
    assert_eq!(steps(), ["SEARCH outbox USING INDEX outbox_order (order_id=?)"]);
    ledger::retry_some(&db, State::Dead, 50, START).await.unwrap();
    assert!(steps().iter().any(|step| step.contains("outbox_unsent (queue=? AND state=?)")));
}

#[tokio::test]
async fn what_is_sent_is_counted_as_it_is() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages: Vec<_> = (0..20).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&messages).await.unwrap();
    messages.iter().take(5).for_each(|message| world.answers_to(message, down()));
    deliver(&outbox).await;
    outbox.enqueue(&messages).await.unwrap();
    let sent = async || ledger::stats(&db, START).await.unwrap().by_state["sent"];
    assert_eq!(sent().await, 15);
    // Whoever is late tells what is known.
    store::settle(&db, &[Outcome { state: "sent", ..failure(&messages[9], START) }], "late", START).await.unwrap();
    assert_eq!(sent().await, 15);
    db.execute("DELETE FROM outbox WHERE id = $1", [messages[9].id.as_str().into()]).await.unwrap();
    assert_eq!(sent().await, 14);
}

#[tokio::test]
async fn when_time_is_over_every_post_that_was_made_is_settled_and_the_rest_given_back() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages: Vec<_> = (0..60).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&messages).await.unwrap();
    world.post_ms.store(100, Ordering::Relaxed);
    let tally = outbox.deliver(Whose::Any, usize::MAX, START + 2_000).await.unwrap();
    let states = ledger::stats(&db, world.now_ms()).await.unwrap().by_state;
    assert_eq!(world.got().len() as u64, tally.sent);
    assert_eq!((states["sent"].unsigned_abs(), states["sending"]), (tally.sent, 0));
    assert!((20..40).contains(&tally.sent), "{tally:?}");
}

#[tokio::test]
async fn no_post_begins_that_would_be_cut_short() {
    for (post_ms, posts) in [(150, 4..=6), (600, 1..=1)] {
        let (db, world) = (database().await, World::new());
        let outbox = outbox(&db, &world);
        let messages: Vec<_> = (0..20).map(|place| message(1, &format!("m{place}"), place)).collect();
        outbox.enqueue(&messages).await.unwrap();
        world.post_ms.store(post_ms, Ordering::Relaxed);
        let tally = outbox.deliver(Whose::Any, usize::MAX, START + 1_000).await.unwrap();
        assert!(posts.contains(&tally.sent), "{post_ms} ms: {tally:?}");
        assert!(world.now_ms() <= START + 1_000, "the last one ended {} ms too late", world.now_ms() - START - 1_000);
    }
}

#[tokio::test]
async fn bodies_go_after_thirty_days_and_ids_stay() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let message = message(1, "a", 0);
    outbox.enqueue(std::slice::from_ref(&message)).await.unwrap();
    deliver(&outbox).await;
    assert_eq!(outbox.forget_bodies().await.unwrap(), 0);
    world.pass(BODY_KEPT_MS + 1);
    assert_eq!(outbox.forget_bodies().await.unwrap(), 1);
    assert_eq!(outbox.forget_bodies().await.unwrap(), 0);
    assert!(ledger::get(&db, &message.id).await.unwrap().unwrap().message.is_none());
    outbox.enqueue(std::slice::from_ref(&message)).await.unwrap();
    assert_eq!(deliver(&outbox).await, Tally::default());
}

#[tokio::test]
async fn an_operator_finds_messages_and_tries_them_again() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let messages: Vec<_> = (1..=5).map(|order| message(order, "a", 0)).collect();
    outbox.enqueue(&messages).await.unwrap();
    world.answers(Answer::Refused { status: 400, retry_after_ms: None });
    assert_eq!(deliver(&outbox).await.dead, 5);
    let dead = Filter { state: Some(State::Dead), ..Filter::default() };
    let page = ledger::list(&db, &dead, 2).await.unwrap();
    assert_eq!(page.iter().map(|entry| entry.order_id.as_str()).collect::<Vec<_>>(), ["5", "4"]);
    let cursor = page.last().map(|entry| entry.seq);
    let next = ledger::list(&db, &Filter { cursor, ..dead.clone() }, 2).await.unwrap();
    assert_eq!(next.iter().map(|entry| entry.order_id.as_str()).collect::<Vec<_>>(), ["3", "2"]);
    let one = Filter { order_id: Some("3".into()), recipient: Some("patient:98".into()), ..dead.clone() };
    assert_eq!(ledger::list(&db, &one, 9).await.unwrap().len(), 1);

    world.answers(Answer::Accepted);
    assert!(ledger::retry(&db, &messages[0].id, world.now_ms()).await.unwrap());
    assert_eq!(deliver(&outbox).await.sent, 1);
    assert!(!ledger::retry(&db, &messages[0].id, world.now_ms()).await.unwrap(), "a sent one is not sent again");
    assert_eq!(ledger::retry_some(&db, State::Dead, 3, world.now_ms()).await.unwrap(), 3);
    assert_eq!(ledger::retry_some(&db, State::Dead, 3, world.now_ms()).await.unwrap(), 1);
    assert_eq!(deliver(&outbox).await.sent, 4);
    let stats = ledger::stats(&db, world.now_ms()).await.unwrap();
    assert_eq!((stats.by_state["sent"], stats.by_state["dead"], stats.sent_in_last.minute), (5, 0, 5));
    assert_eq!(stats.oldest_pending_age_ms, None);
}

#[tokio::test]
async fn a_row_of_another_queue_is_no_message() {
    let (db, world) = (database().await, World::new());
    let outbox = outbox(&db, &world);
    let row = NewRow {
        id: "sub_1",
        event_id: "e",
        order_id: "o",
        scenario: "submit",
        label: "提交",
        recipient: "partner".into(),
        recipient_id: None,
        channel: "partner",
        occurred_at_ms: 0,
        body: "submit o".into(),
    };
    outbox.enqueue_rows("partner", vec![row]).await.unwrap();
    assert!(ledger::get(&db, "sub_1").await.unwrap().is_none());
    assert!(!ledger::retry(&db, "sub_1", world.now_ms()).await.unwrap());
    assert!(ledger::get_of(&db, "partner", "sub_1").await.unwrap().is_some());
}
