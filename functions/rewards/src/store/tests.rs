//! What the tables forbid by themselves, and the race for the last card.

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use futures::future::{BoxFuture, join_all};
use shared::db::{Db, DbError, Engine, Row, Value, migration::migrate, native::Native};

use super::*;
use crate::{
    activity::{Change, TermsChange},
    audit::{Audit, Line},
    card::Pool,
};

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
    // The trigger would leave them nothing to do.
    for sql in ["DROP TRIGGER rewards_registered", ACTIVITY, TERMS, INVITATION, REGISTRATION] {
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

const ACTIVITY: &str =
    "INSERT INTO rewards_activities (id, name, starts_at_ms, ends_at_ms, weekday_start, created_at_ms,
        updated_at_ms)
    VALUES ('a', 'a', 0, 100000000000, 0, 0, 0)";
const TERMS: &str = "INSERT INTO rewards_terms VALUES ('a', 0, 2000, 20, 1000, 5, 2000)";
const INVITATION: &str = "INSERT INTO rewards_invitations VALUES ('a', 'f', 'u', 1, 1)";
const REGISTRATION: &str =
    "INSERT INTO rewards_registrations (activity_id, invitee, event_id, opened_at_ms, new_customer,
        held, path, recorded_at_ms)
    VALUES ('a', 'f', 'e', 5, 1, 0, 'http', 5)";

/// What the audit finds at `now_ms`.
async fn audited(db: &Db, now_ms: i64) -> Vec<(&'static str, String)> {
    let activity = activities::get(db, "a").await.unwrap().unwrap();
    let mut audit = Audit::new(db.clone(), activity, now_ms);
    let mut found = Vec::new();
    while let Some(lines) = audit.next().await.unwrap() {
        for line in lines {
            if let Line::Finding(finding) = line {
                found.push((finding.finding, finding.detail));
            }
        }
    }
    found
}

/// An old database's mistakes, written past all that forbids them.
#[tokio::test]
async fn the_audit_finds_whatever_does_not_follow_from_the_events() {
    const DAY: i64 = 24 * 3_600_000;
    let earned = "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, at_ms, recorded_at_ms)
        VALUES ('event:a:p', 'a', 'u', 'learning', 1000, 'p', 5, 5)";
    let events = "INSERT INTO rewards_point_events (activity_id, event_id, user_id, kind, points, at_ms, path,
            recorded_at_ms)
        VALUES ('a', 'p', 'u', 'learning', 1000, 5, 'http', 5)";
    let settlement = |n: i64, fen: i64, at_ms: i64, period: &str| {
        format!(
            "INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, period, n, tells, at_ms, state,
                created_at_ms)
            VALUES ('{period}-{n}', 'settle:a:{period}:u:{n}', 'a', 'u', 'settlement', {fen}, '{period}', {n}, 0, {at_ms},
                'waiting', 5)"
        )
    };
    // The period that has the first events: Monday to Sunday.
    let (period, ends_ms) = ("1969-12-29", 4 * DAY - 8 * 3_600_000);
    let settle: Vec<String> = (1..=5).map(|n| settlement(n, 2_000, ends_ms, period)).collect();
    let of_another_worth = settlement(5, 5_000, ends_ms, period);
    let sixth = settlement(6, 2_000, ends_ms, period);
    let without_points = settlement(1, 2_000, ends_ms + 7 * DAY, "1970-01-05");
    let early = settlement(9, 2_000, 400 * DAY, "1971-01-04");
    let cases: Vec<(&str, Vec<&str>, &[&str])> = vec![
        ("nothing is wrong", vec![], &[]),
        (
            "a claim lost its card",
            vec!["UPDATE rewards_claims SET card_no = NULL WHERE key LIKE 'invite%'"],
            &["unfulfilled", "orphan_card"],
        ),
        (
            "a claim is gone",
            vec!["DELETE FROM rewards_claims WHERE key LIKE 'invite%'"],
            &["unfulfilled", "orphan_card"],
        ),
        (
            "a card is gone",
            vec!["DELETE FROM rewards_cards WHERE claim_id IS NOT NULL AND card_no = 'card-0'"],
            &["orphan_card"],
        ),
        (
            "a card is of another worth",
            vec!["UPDATE rewards_cards SET fen = 5000 WHERE card_no = 'card-0'"],
            &["orphan_card"],
        ),
        (
            "a card was given to another claim",
            vec!["UPDATE rewards_cards SET claim_id = 'clm_x' WHERE card_no = 'card-0'"],
            &["double_issued", "orphan_card"],
        ),
        (
            "a claim waits, and its card does not know",
            vec!["UPDATE rewards_claims SET state = 'waiting', card_no = NULL WHERE key LIKE 'invite%'"],
            &["unfulfilled", "orphan_card"],
        ),
        ("nobody invited them", vec!["DELETE FROM rewards_invitations"], &["points_mismatch", "over_issued"]),
        ("points are gone", vec!["DELETE FROM rewards_points WHERE kind = 'invite'"], &["points_mismatch"]),
        (
            "points are another's",
            vec!["UPDATE rewards_points SET user_id = 'x' WHERE kind = 'invite'"],
            &["points_mismatch"],
        ),
        (
            "points are of another time",
            vec!["UPDATE rewards_points SET at_ms = 6 WHERE kind = 'invite'"],
            &["points_mismatch"],
        ),
        (
            "points come from nowhere",
            vec!["UPDATE rewards_points SET key = 'x' WHERE kind = 'learning'"],
            &["points_mismatch", "points_mismatch"],
        ),
        (
            "an event's points are more",
            vec!["UPDATE rewards_points SET points = 1001 WHERE kind = 'learning'"],
            &["points_mismatch"],
        ),
        ("a period was settled twice", vec![&sixth], &["over_issued"]),
        (
            "a settlement is not whole",
            vec![
                "DELETE FROM rewards_claims WHERE id LIKE '%-5'",
                "DELETE FROM rewards_cards WHERE claim_id LIKE '%-5'",
            ],
            &["unfulfilled"],
        ),
        (
            "a settlement's card is of another worth",
            vec![
                "DELETE FROM rewards_claims WHERE id LIKE '%-5'",
                "DELETE FROM rewards_cards WHERE claim_id LIKE '%-5'",
                &of_another_worth,
            ],
            &["over_issued", "unfulfilled"],
        ),
        ("a period without points was settled", vec![&without_points], &["over_issued"]),
        ("a period was settled before its end", vec![&early], &["over_issued"]),
        (
            "one was found false while `register` is off",
            vec!["UPDATE rewards_activities SET register_on = 0", "DELETE FROM rewards_points WHERE kind = 'invite'"],
            &[],
        ),
        ("`register` is off, and a card was given before", vec!["UPDATE rewards_activities SET register_on = 0"], &[]),
        (
            "`register` is on again, and nobody paid",
            vec![
                "UPDATE rewards_registrations SET held = 1",
                "DELETE FROM rewards_points WHERE kind = 'invite'",
                "DELETE FROM rewards_claims WHERE key LIKE 'invite%'",
                "DELETE FROM rewards_cards WHERE card_no = 'card-0'",
            ],
            &["unfulfilled", "points_mismatch"],
        ),
    ];
    for (what, mistakes, findings) in cases {
        let db = campaign(8, 0).await;
        for sql in [ACTIVITY, TERMS, INVITATION, REGISTRATION, events, earned] {
            db.execute(sql, []).await.unwrap();
        }
        for sql in &settle {
            db.execute(sql, []).await.unwrap();
        }
        // As a careless repair does it.
        for trigger in ["rewards_claimed", "rewards_given"] {
            db.execute(&format!("DROP TRIGGER {trigger}"), []).await.unwrap();
        }
        for sql in mistakes {
            db.execute(sql, []).await.unwrap();
        }
        let found = audited(&db, 30 * DAY).await;
        let mut kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
        kinds.sort_unstable();
        let mut expected = findings.to_vec();
        expected.sort_unstable();
        assert_eq!(kinds, expected, "{what}: {found:?}");
    }
}

#[tokio::test]
async fn a_card_recalled_as_not_earned_is_replaced_once_it_is_earned_and_one_recalled_by_wish_is_not() {
    for (why, cards) in [(claims::Recall::NotEarned("over_issued"), 2), (claims::Recall::Asked("fraud"), 1)] {
        let db = campaign(2, 0).await;
        for sql in [ACTIVITY, TERMS, INVITATION, REGISTRATION] {
            db.execute(sql, []).await.unwrap();
        }
        let claim = claims::of_invitee(&db, "a", "f").await.unwrap().unwrap();
        assert_eq!(claim.state, "issued");
        assert_eq!(claims::recall(&db, &[claim.id], why, 9).await.unwrap().len(), 1);
        for _ in 0..2 {
            claims::claim_invites(&db, "a", &["f"], 10).await.unwrap();
        }
        let rows =
            db.query("SELECT recalled_at_ms FROM rewards_cards WHERE claim_id IS NOT NULL ORDER BY seq", []).await;
        let recalled: Vec<_> = rows.unwrap().iter().map(|row| row.optional_integer(0).unwrap()).collect();
        assert_eq!(recalled, [Some(9), None][..cards]);
        assert!(audited(&db, 10).await.is_empty());
    }
}

#[tokio::test]
async fn new_terms_are_not_for_what_was_paid_while_they_were_on_their_way() {
    let db = campaign(0, 0).await;
    for sql in [ACTIVITY, TERMS, INVITATION, REGISTRATION] {
        db.execute(sql, []).await.unwrap();
    }
    let terms = TermsChange { invite_points: Some(30), ..TermsChange::default() };
    let change = Change { terms, ..Change::default() };
    // Asked for at 4, and written after the account of 5 was paid.
    assert!(activities::change(&db, "a", &change, 4).await.unwrap());
    assert!(audited(&db, 10).await.iter().all(|(finding, _)| *finding == "unfulfilled"));
    let before = activities::terms_before(&db, "a", 6).await.unwrap().unwrap();
    let after = activities::terms_before(&db, "a", 7).await.unwrap().unwrap();
    assert_eq!((before.invite_points, after.invite_points), (20, 30));
}

#[tokio::test]
async fn among_equals_is_first_who_got_there_first_whatever_was_taken_back_since() {
    let db = campaign(0, 0).await;
    let entry = async |key: &str, user: &str, points: i64, at_ms: i64| {
        let sql =
            "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, at_ms, recorded_at_ms)
            VALUES ($1, 'a', $2, 'invite', $3, 'e', $4, 0)";
        db.execute(sql, [key.into(), user.into(), points.into(), at_ms.into()]).await.unwrap();
    };
    entry("1", "u1", 20, 100).await;
    entry("2", "u2", 20, 150).await;
    entry("3", "u1", 20, 200).await;
    let of = |up_to| points::Scope { activity_id: "a", from_ms: 0, to_ms: i64::MAX, up_to };
    let places = async |up_to, offset| {
        let ranks = points::ranking(&db, of(up_to), offset, 10).await.unwrap();
        ranks.into_iter().map(|rank| (rank.rank, rank.user_id, rank.points)).collect::<Vec<_>>()
    };
    let place = |rank, user: &str, points| (rank, user.to_owned(), points);
    let before = points::last(&db).await.unwrap();
    assert_eq!(places(before, 0).await, [place(1, "u1", 40), place(2, "u2", 20)]);
    entry("4", "u1", -20, 200).await;
    let now = points::last(&db).await.unwrap();
    assert_eq!(places(now, 0).await, [place(1, "u1", 20), place(2, "u2", 20)]);
    assert_eq!(points::rank(&db, of(now), "u2").await.unwrap(), (20, Some(2)));
    // A page that was begun before stays of that time.
    entry("5", "u2", 500, 300).await;
    assert_eq!(places(before, 1).await, [place(2, "u2", 20)]);
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
    claims::recall(&db, &["clm_0".to_owned()], claims::Recall::Asked("r"), 0).await.unwrap();
    let slow = slow.lock().unwrap();
    assert!(slow.is_empty(), "{slow:#?}");
}
