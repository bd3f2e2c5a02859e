//! A partner that no line but those of a test knows goes every way that the others go: it is found, given its orders,
//! heard, listed; and a partner whose variables have faults keeps none of the others.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use axum::http::{HeaderMap, Uri};
use bytes::Bytes;
use shared::{
    clock,
    db::{Db, migration::migrate, native::Native},
    log::EntryPath,
    message::Accounts,
    outbox::{self, Attempted, Courier},
    problem::Problem,
};

use super::{callbacks, orders, work};
use crate::{
    intake::{FUNCTION, Intake, Placed, submission_id},
    order::tests::order,
    partner::{Outgoing, Partner, named, tests::WHSEC},
    rules::{RuleSet, source::Source},
    simulation::PARTNERS,
    status::Status,
    store::{self, Payment},
    submission::{Account, Answered, Peer, Pharmacies, SUBMIT},
};

/// Nobody is told anything.
struct Silent;

impl Courier for Silent {
    async fn post(&self, _: &str, _: &str, _: String, _: Duration) -> outbox::Answer {
        outbox::Answer::Accepted
    }

    fn now_ms(&self) -> i64 {
        clock::now_ms()
    }

    fn log(&self, _: &Attempted<'_>) {}

    fn alarm(&self, _: &str) {}

    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn token(&self) -> String {
        "token".into()
    }
}

/// Partners that take all they are given, and say nothing.
#[derive(Default)]
struct Taking(Mutex<Vec<String>>);

impl Peer for Taking {
    async fn post(&self, url: String, _: Outgoing, _: Duration) -> Result<Answered, String> {
        self.0.lock().unwrap().push(url);
        Ok(Answered { status: 200, retry_after_ms: None, body: Bytes::from_static(b"{\"code\":0}") })
    }
}

async fn database() -> Db {
    let db = Native::in_memory();
    migrate(&db, "outbox", outbox::MIGRATIONS).await.unwrap();
    migrate(&db, FUNCTION, store::MIGRATIONS).await.unwrap();
    db
}

fn accounts() -> Accounts {
    let [wechat_template_id, mini_program_template_id] = ["wx", "mp"].map(str::to_owned);
    let [wechat_link, mini_program_page, app_link] = [(); 3].map(|()| String::new());
    Accounts { wechat_template_id, wechat_link, mini_program_template_id, mini_program_page, app_link }
}

fn intake<'a>(db: &'a Db, accounts: &'a Accounts) -> Intake<'a, Silent> {
    Intake { db, effects: db, partners: &PARTNERS, accounts, courier: &Silent, path: EntryPath::Http }
}

/// The partners at an origin of their own each; `variables` are another's.
fn pharmacies(variables: (&str, [&str; 3])) -> Pharmacies {
    let account = |partner: &&dyn Partner| {
        let origin = format!("https://{}.example.org", partner.name());
        let usual = [origin.as_str(), "/orders", WHSEC];
        let given = if partner.name() == variables.0 { variables.1 } else { usual };
        (partner.name(), Account::of(*partner, given))
    };
    Pharmacies(PARTNERS.iter().map(account).collect())
}

async fn paid(intake: &Intake<'_, Silent>, order_no: &str) {
    let order = order(order_no);
    let amount_fen = order.amount_fen;
    let pharmacy = intake.partner(&order).unwrap().name();
    let rules = RuleSet::compile(&Source::shipped().unwrap(), 0).unwrap();
    assert!(matches!(intake.place(&[(order, pharmacy)], &rules).await.unwrap()[..], [Placed::New(_)]));
    let payment = Payment {
        payment_id: shared::id::Id::parse("pay-1").unwrap(),
        paid_at: "2016-12-10T17:12:46+08:00".into(),
        amount_fen,
    };
    intake.pay(order_no, payment).await.unwrap();
}

fn until_ms() -> i64 {
    clock::now_ms() + 5_000
}

async fn statuses(db: &Db) -> BTreeMap<String, Status> {
    let orders = store::list(db, &store::Filter::default(), false, 100).await.unwrap();
    orders.into_iter().map(|kept| (kept.order.order_no.as_str().to_owned(), kept.status)).collect()
}

#[tokio::test]
async fn a_third_partner_is_found_given_its_orders_heard_and_listed() {
    let (db, accounts, peer) = (database().await, accounts(), Taking::default());
    let (intake, pharmacies) = (intake(&db, &accounts), pharmacies(("", [""; 3])));
    let third = named(&PARTNERS, "third").unwrap();
    for order_no in ["TP-1", "TP-2", "ST-1"] {
        paid(&intake, order_no).await;
    }
    let ids = [submission_id(SUBMIT, "TP-1")];
    work::submit_these(intake, (&pharmacies, &peer), third, &ids, until_ms()).await.unwrap();
    assert_eq!(*peer.0.lock().unwrap(), ["https://third.example.org/orders/take"]);
    let done = work::submit_due(intake, (&pharmacies, &peer), 10, until_ms()).await.unwrap();
    let sent: BTreeMap<_, _> = done.iter().map(|(name, done)| (*name, (done.tally.sent, done.pending))).collect();
    assert_eq!(sent, [("standard", (1, 0)), ("third", (1, 0)), ("yifeng", (0, 0))].into());

    let hear = async |body: &str| {
        let account = pharmacies.account(third).unwrap();
        callbacks::hear(&intake, third, account, &HeaderMap::new(), body.as_bytes()).await
    };
    assert_eq!(hear("another cb-1 TP-1 shipped").await.unwrap_err().status(), 401);
    assert_eq!(hear(&format!("{WHSEC} cb-1 ST-1 shipped")).await.unwrap_err().status(), 404);
    hear(&format!("{WHSEC} cb-1 TP-1 shipped")).await.unwrap();
    assert_eq!(statuses(&db).await["TP-1"], Status::Shipped);

    let of_third = Uri::from_static("/?pharmacy=third");
    assert_eq!(orders::listed(&db, &PARTNERS, &of_third).await.unwrap().items.len(), 2);
    assert_eq!(work::listed(&db, &PARTNERS, &of_third).await.unwrap().items.len(), 2);
    let of_nobody = Uri::from_static("/?pharmacy=fourth");
    let unknown: Problem = orders::listed(&db, &PARTNERS, &of_nobody).await.unwrap_err();
    assert!(unknown.errors()[0].detail.contains("third"), "{:?}", unknown.errors());
}

#[tokio::test]
async fn a_partner_whose_variables_have_faults_is_shut_alone() {
    let (db, accounts, peer) = (database().await, accounts(), Taking::default());
    let intake = intake(&db, &accounts);
    let pharmacies = pharmacies(("standard", ["https://standard.example.org/path", "orders", "no secret"]));
    for order_no in ["ST-1", "TP-1"] {
        paid(&intake, order_no).await;
    }
    let problem = pharmacies.account(named(&PARTNERS, "standard").unwrap()).unwrap_err();
    assert_eq!(problem.status(), 503);
    let pointers: Vec<_> = problem.errors().iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/variables/standard_origin", "/variables/standard_path", "/variables/standard_secret"]);
    let done = work::submit_due(intake, (&pharmacies, &peer), 10, until_ms()).await.unwrap();
    assert_eq!((done["third"].tally.sent, done["standard"].tally.retrying, done["standard"].pending), (1, 0, 1));
    assert_eq!(*peer.0.lock().unwrap(), ["https://third.example.org/orders/take"]);
    assert_eq!(statuses(&db).await["ST-1"], Status::Submitted, "it waits");
}
