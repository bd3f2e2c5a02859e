//! What the tables forbid by themselves, and the race for the last card.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use futures::future::{BoxFuture, join_all};
use shared::db::{Db, DbError, Engine, Row, Value, migration::migrate, native::Native};

use super::*;
use crate::card::Pool;

/// Two claims of the same worth, and so many cards.
async fn campaign(cards: usize, claims: usize) -> Db {
    let db = Native::in_memory();
    migrate(&db, "rewards", MIGRATIONS).await.unwrap();
    for number in 0..claims {
        let sql = "INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, invitee, tells, at_ms, state,
                created_at_ms)
            VALUES ('clm_' || $1, 'invite:a:f' || $1, 'a', 'u' || $1, 'invite', 2000, 'f' || $1, 1, 0, 'waiting', 0)";
        db.execute(sql, [i64::try_from(number).unwrap().into()]).await.unwrap();
    }
    for number in 0..cards {
        let sql = "INSERT INTO rewards_cards (card_no, activity_id, fen, secret, import_id, imported_at_ms)
            VALUES ('card-' || $1, 'a', 2000, 'sealed', 'i', 0)";
        db.execute(sql, [i64::try_from(number).unwrap().into()]).await.unwrap();
    }
    db
}

/// SQLite, where others come in between any two statements.
struct Interleaved(Db);

impl Engine for Interleaved {
    fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.0.query(sql, values).await
        })
    }
}

/// 64 clients ask for a card at the same time, and there is one; who was handed which.
async fn race<F: Future<Output = Vec<String>>>(hand_out: impl Fn(Db, String) -> F) -> Vec<String> {
    let plain = campaign(1, 64).await;
    let handed: Arc<Mutex<Vec<String>>> = Arc::default();
    let clients = (0..64).map(|number| {
        let (db, handed) = (Db::new(Interleaved(plain.clone())), Arc::clone(&handed));
        let asked = hand_out(db, format!("clm_{number}"));
        async move {
            let cards = asked.await;
            handed.lock().unwrap().extend(cards);
        }
    });
    join_all(clients).await;
    std::mem::take(&mut *handed.lock().unwrap())
}

const POOL: Pool<'static> = Pool { activity_id: "a", fen: 2_000 };

#[tokio::test]
async fn the_last_card_goes_to_one_of_64() {
    let handed = race(|db, claim_id| async move {
        cards::assign(&db, POOL, 64, 0).await.unwrap();
        let card = cards::of_claim(&db, &claim_id).await.unwrap();
        card.map(|card| card.card_no).into_iter().collect()
    })
    .await;
    assert_eq!(handed, ["card-0"]);
}

/// As the real campaign did it: read a free card, hand it out, mark it afterwards.
#[tokio::test]
async fn the_naive_way_hands_the_last_card_to_many() {
    let handed = race(|db, _| async move {
        let free = "SELECT card_no FROM rewards_cards WHERE issued_at_ms IS NULL ORDER BY seq LIMIT 1";
        let Some(card) = db.query_one(free, []).await.unwrap() else { return Vec::new() };
        let card_no = card.text(0).unwrap().to_owned();
        let mark = "UPDATE rewards_cards SET issued_at_ms = 1 WHERE card_no = $1";
        db.execute(mark, [card_no.as_str().into()]).await.unwrap();
        vec![card_no]
    })
    .await;
    assert!(handed.len() > 1, "the race is none: {handed:?}");
}

#[tokio::test]
async fn cards_handed_out_are_marked_as_issued_by_the_statement_that_hands_them_out() {
    let db = campaign(3, 2).await;
    cards::assign(&db, POOL, 10, 7).await.unwrap();
    assert_eq!(cards::assign(&db, POOL, 10, 8).await.unwrap(), 0, "nothing is handed out again");
    let rows = db.query("SELECT claim_id, issued_at_ms FROM rewards_cards ORDER BY seq", []).await.unwrap();
    let rows: Vec<_> =
        rows.iter().map(|row| (row.optional_text(0).unwrap(), row.optional_integer(1).unwrap())).collect();
    assert_eq!(rows, [(Some("clm_0"), Some(7)), (Some("clm_1"), Some(7)), (None, None)]);
    let rows = db.query("SELECT state, card_no FROM rewards_claims ORDER BY seq", []).await.unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.text(0).unwrap(), row.optional_text(1).unwrap())).collect();
    assert_eq!(rows, [("issued", Some("card-0")), ("issued", Some("card-1"))]);
}

#[tokio::test]
async fn a_repaired_sequence_cannot_give_a_card_to_two_people() {
    let db = campaign(2, 2).await;
    cards::assign(&db, POOL, 10, 0).await.unwrap();
    // Whatever a repair by hand writes, each side is unique.
    for repair in [
        "UPDATE rewards_claims SET card_no = 'card-0'",
        "UPDATE rewards_cards SET claim_id = 'clm_0'",
        "UPDATE rewards_cards SET card_no = 'card-0'",
        "INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, tells, at_ms, state, created_at_ms)
            SELECT 'clm_9', key, activity_id, 'u9', kind, fen, tells, at_ms, 'waiting', 0 FROM rewards_claims LIMIT 1",
    ] {
        let error = db.execute(repair, []).await.unwrap_err();
        assert!(matches!(error, DbError::Constraint(_)), "{repair}: {error}");
    }
}

#[tokio::test]
async fn overlapping_runs_claim_a_referral_once() {
    let db = campaign(0, 0).await;
    for sql in [
        "INSERT INTO rewards_activities (id, name, starts_at_ms, ends_at_ms, weekday_start, created_at_ms, updated_at_ms)
            VALUES ('a', 'a', 0, 100, 0, 0, 0)",
        "INSERT INTO rewards_terms VALUES ('a', 0, 2000, 20, 1000, 5, 2000)",
        "INSERT INTO rewards_invitations VALUES ('a', 'f', 'u', 1, 1)",
        "INSERT INTO rewards_registrations (activity_id, invitee, event_id, opened_at_ms, new_customer, held, path,
                recorded_at_ms) VALUES ('a', 'f', 'e', 5, 1, 0, 'http', 5)",
    ] {
        db.execute(sql, []).await.unwrap();
    }
    let runs = (0..8).map(|_| async {
        let db = Db::new(Interleaved(db.clone()));
        claims::claim_invites(&db, "a", &["f"], 9).await.unwrap();
        points::earn_invites(&db, "a", &["f"], 9).await.unwrap();
    });
    join_all(runs).await;
    let count = async |table: &str| {
        let row = db.query_one(&format!("SELECT count(*) FROM {table}"), []).await.unwrap().unwrap();
        row.integer(0).unwrap()
    };
    assert_eq!((count("rewards_claims").await, count("rewards_points").await), (1, 1));
}

/// A statement that reads a whole table is fast in every test and slow in every campaign.
#[tokio::test]
async fn what_a_grant_runs_reads_by_indexes_alone() {
    struct Explained(Db, Arc<Mutex<Vec<String>>>);
    impl Engine for Explained {
        fn run<'a>(&'a self, sql: &'a str, values: Vec<Value>) -> BoxFuture<'a, Result<Vec<Row>, DbError>> {
            Box::pin(async move {
                let plan = self.0.query(&format!("EXPLAIN QUERY PLAN {sql}"), values.clone()).await?;
                for row in plan {
                    let step = row.text(3)?.to_owned();
                    if step.contains("rewards_") && step.starts_with("SCAN") && !step.contains("_untold")
                        || step.starts_with("MATERIALIZE rewards")
                        || (step.contains("AUTOMATIC") && !step.contains("(place=?)"))
                    {
                        self.1.lock().unwrap().push(format!("{step} in {sql}"));
                    }
                }
                self.0.query(sql, values).await
            })
        }
    }
    let slow: Arc<Mutex<Vec<String>>> = Arc::default();
    let db = Db::new(Explained(campaign(50, 5).await, Arc::clone(&slow)));
    let id = |text: &str| shared::id::Id::parse(text).unwrap();
    let event = crate::event::Registration {
        activity_id: id("a"),
        event_id: id("e"),
        invitee: id("f"),
        opened_at_ms: 5,
        new_customer: true,
    };
    let events = [event];
    events::register(&db, &events, "http", 0).await.unwrap();
    events::known(&db, &events).await.unwrap();
    events::of_invitee(&db, "a", "f").await.unwrap();
    events::invitees(&db, "a", "u", "", 10).await.unwrap();
    events::invited(&db, "a", "u").await.unwrap();
    events::held(&db, "a", 10).await.unwrap();
    events::forgotten(&db, "a", 0, 10).await.unwrap();
    claims::due(&db, "a", &["f"]).await.unwrap();
    claims::claim_invites(&db, "a", &["f"], 0).await.unwrap();
    points::earn_invites(&db, "a", &["f"], 0).await.unwrap();
    points::take_back(&db, "a", "f", 0).await.unwrap();
    cards::assign(&db, POOL, 10, 0).await.unwrap();
    cards::untold(&db, 10).await.unwrap();
    cards::told(&db, &["clm_0"]).await.unwrap();
    cards::stock(&db, POOL, 10, 0).await.unwrap();
    cards::pools(&db, "a").await.unwrap();
    cards::recall(&db, &["clm_0".to_owned()], 0).await.unwrap();
    claims::recall(&db, &["clm_0".to_owned()], "r", 0).await.unwrap();
    let slow = slow.lock().unwrap();
    assert!(slow.is_empty(), "{slow:#?}");
}
