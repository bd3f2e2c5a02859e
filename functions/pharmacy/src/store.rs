//! This function's SQL, all of it.
//!
//! An order's status and its history are one row and change in one statement, so that neither is ever without the
//! other. `told` says how many of its steps have had their effects, messages and submissions, which are enqueued under
//! ids that a repetition meets: after a crash between any two statements, [`untold`] finds what is left to do.

use serde::Serialize;
use shared::{
    db::{Db, DbError, Migration, Row, Select, Value},
    id::Id,
};

use crate::{
    history::Step,
    order::Order,
    partner::Callback,
    rules::Fired,
    status::{Event, Status},
};

/// This function's tables.
pub(crate) const MIGRATIONS: &[Migration] = &[TABLES, SETTLED];

const SETTLED: Migration = Migration {
    version: 2,
    // Which callbacks are old enough to be forgotten.
    statements: &["CREATE INDEX pharmacy_callbacks_settled ON pharmacy_callbacks (received_at_ms) WHERE settled = 1"],
};

const TABLES: Migration = Migration {
    version: 1,
    statements: &[
        // `placed_as` is the status of the first answer, which a repetition gets again. `body` is the order as it came
        // in, `reasons` and `hidden` what the rules of `rules_version` said. `payment` and `review` are set by the
        // statement that moves the order: of two, the second finds the status changed. `sent_at_ms` is when the
        // partner was first given the order, set before the post: until then a cancellation is nobody else's affair,
        // and the partner has nothing to say.
        "CREATE TABLE pharmacy_orders (
            seq INTEGER PRIMARY KEY,
            order_no TEXT NOT NULL UNIQUE,
            pharmacy TEXT NOT NULL,
            status TEXT NOT NULL,
            placed_as TEXT NOT NULL,
            rules_version INTEGER NOT NULL,
            reasons TEXT NOT NULL,
            hidden TEXT NOT NULL,
            body TEXT NOT NULL,
            amount_fen INTEGER NOT NULL,
            payment TEXT,
            review TEXT,
            sent_at_ms INTEGER,
            refund_due INTEGER NOT NULL DEFAULT 0,
            history TEXT NOT NULL,
            steps INTEGER NOT NULL,
            told INTEGER NOT NULL DEFAULT 0,
            created_at_ms INTEGER NOT NULL,
            updated_at_ms INTEGER NOT NULL
        )",
        "CREATE INDEX pharmacy_orders_status ON pharmacy_orders (status, seq)",
        "CREATE INDEX pharmacy_orders_pharmacy ON pharmacy_orders (pharmacy, seq)",
        "CREATE INDEX pharmacy_orders_created ON pharmacy_orders (created_at_ms)",
        // What a crash left to do: nearly always nothing.
        "CREATE INDEX pharmacy_orders_untold ON pharmacy_orders (seq) WHERE told < steps",
        // A callback is kept under its replay-proof id before it is applied. `settled` says that it was.
        "CREATE TABLE pharmacy_callbacks (
            pharmacy TEXT NOT NULL,
            replay_id TEXT NOT NULL,
            order_no TEXT NOT NULL,
            report TEXT NOT NULL,
            reason TEXT,
            received_at_ms INTEGER NOT NULL,
            settled INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (pharmacy, replay_id)
        )",
        "CREATE INDEX pharmacy_callbacks_open ON pharmacy_callbacks (received_at_ms) WHERE settled = 0",
        // Every set of rules that ever was in force; the newest is. `source` is the set as JSON.
        "CREATE TABLE pharmacy_rules (
            version INTEGER PRIMARY KEY,
            source TEXT NOT NULL,
            samples TEXT NOT NULL,
            operator TEXT NOT NULL,
            rolled_back_to INTEGER,
            at_ms INTEGER NOT NULL
        )",
    ],
};

/// An order to be kept.
#[derive(Serialize)]
pub(crate) struct NewOrder {
    pub(crate) order_no: String,
    pub(crate) pharmacy: &'static str,
    pub(crate) status: &'static str,
    pub(crate) rules_version: i64,
    pub(crate) reasons: String,
    pub(crate) hidden: String,
    pub(crate) body: String,
    pub(crate) amount_fen: i64,
    pub(crate) history: String,
    pub(crate) steps: i64,
}

/// An order as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) seq: i64,
    pub(crate) pharmacy: String,
    pub(crate) status: Status,
    pub(crate) placed_as: Status,
    pub(crate) rules_version: i64,
    pub(crate) reasons: Vec<Fired>,
    pub(crate) hidden: Vec<usize>,
    pub(crate) order: Order,
    /// The body as it is kept: what a repetition is compared with.
    pub(crate) body: String,
    pub(crate) payment: Option<Payment>,
    pub(crate) review: Option<Review>,
    pub(crate) sent_at_ms: Option<i64>,
    pub(crate) refund_due: bool,
    pub(crate) history: Vec<Step>,
    pub(crate) told: usize,
    pub(crate) created_at_ms: i64,
    pub(crate) updated_at_ms: i64,
}

/// A payment, as the payment service tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Payment {
    pub(crate) payment_id: Id,
    pub(crate) paid_at: String,
    pub(crate) amount_fen: i64,
}

/// A pharmacist's decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Review {
    pub(crate) pharmacist_id: Id,
    /// `approve` or `reject`.
    pub(crate) decision: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
    pub(crate) decided_at: String,
}

const COLUMNS: &str = "seq, pharmacy, status, placed_as, rules_version, reasons, hidden, body, payment, review,
    sent_at_ms, refund_due, history, told, created_at_ms, updated_at_ms";

fn parsed<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> Result<T, DbError> {
    serde_json::from_str(row.text(column)?).map_err(|_| DbError::Column(column))
}

fn optional<T: serde::de::DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, DbError> {
    row.optional_text(column)?.map(|text| serde_json::from_str(text).map_err(|_| DbError::Column(column))).transpose()
}

fn status(row: &Row, column: usize) -> Result<Status, DbError> {
    Status::parse(row.text(column)?).ok_or(DbError::Column(column))
}

fn kept(row: &Row) -> Result<Kept, DbError> {
    Ok(Kept {
        seq: row.integer(0)?,
        pharmacy: row.text(1)?.to_owned(),
        status: status(row, 2)?,
        placed_as: status(row, 3)?,
        rules_version: row.integer(4)?,
        reasons: parsed(row, 5)?,
        hidden: parsed(row, 6)?,
        order: parsed(row, 7)?,
        body: row.text(7)?.to_owned(),
        payment: optional(row, 8)?,
        review: optional(row, 9)?,
        sent_at_ms: row.optional_integer(10)?,
        refund_due: row.integer(11)? != 0,
        history: Step::lines(row.text(12)?),
        told: usize::try_from(row.integer(13)?).unwrap_or_default(),
        created_at_ms: row.integer(14)?,
        updated_at_ms: row.integer(15)?,
    })
}

fn json(value: &impl Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Other(error.to_string()))
}

/// Keeps the orders whose numbers are not there, all in one statement, and returns the numbers of those that it kept.
pub(crate) async fn insert(db: &Db, orders: &[NewOrder], now_ms: i64) -> Result<Vec<String>, DbError> {
    const SQL: &str = "INSERT INTO pharmacy_orders (order_no, pharmacy, status, placed_as, rules_version, reasons,
            hidden, body, amount_fen, history, steps, created_at_ms, updated_at_ms)
        SELECT o.value ->> 'order_no', o.value ->> 'pharmacy', o.value ->> 'status', o.value ->> 'status',
            o.value ->> 'rules_version', o.value ->> 'reasons', o.value ->> 'hidden', o.value ->> 'body',
            o.value ->> 'amount_fen', o.value ->> 'history', o.value ->> 'steps', $1, $1
        FROM json_each($2) AS o
        WHERE true
        ORDER BY o.key
        ON CONFLICT (order_no) DO NOTHING
        RETURNING order_no";
    let rows = db.query(SQL, [now_ms.into(), json(&orders)?.into()]).await?;
    rows.iter().map(|row| row.text(0).map(str::to_owned)).collect()
}

/// What belongs to a move, and is kept by its statement.
#[derive(Clone, Debug, Default)]
pub(crate) struct With {
    pub(crate) payment: Option<Payment>,
    pub(crate) review: Option<Review>,
}

/// Moves an order as `step` says, if it is where the event may find it, and returns it as it is then. What a partner says
/// counts once it has been given the order: one that moves before would never be given.
pub(crate) async fn advance(
    db: &Db,
    order_no: &str,
    event: Event,
    step: &Step,
    with: &With,
) -> Result<Option<Kept>, DbError> {
    const SQL: &str = "UPDATE pharmacy_orders SET status = $1, history = history || $2, steps = steps + 1,
            updated_at_ms = $3, payment = coalesce(payment, $4), review = coalesce(review, $5),
            refund_due = max(refund_due, $6 AND payment IS NOT NULL)
        WHERE order_no = $7 AND status IN (SELECT value FROM json_each($8)) AND (NOT $9 OR sent_at_ms IS NOT NULL)
        RETURNING ";
    let row = event.row();
    let from: Vec<_> = row.from.iter().map(|status| status.as_str()).collect();
    let values: [Value; 9] = [
        row.to.as_str().into(),
        step.line().into(),
        step.at_ms.into(),
        with.payment.as_ref().map(json).transpose()?.into(),
        with.review.as_ref().map(json).transpose()?.into(),
        i64::from(row.to.owes_refund()).into(),
        order_no.into(),
        json(&from)?.into(),
        i64::from(event.is_partners()).into(),
    ];
    db.query_one(&[SQL, COLUMNS].concat(), values).await?.as_ref().map(kept).transpose()
}

/// Adds a step that moves nothing to an order that is at `status`, and returns the order; `None` if it has a step of that
/// name.
pub(crate) async fn note(db: &Db, order_no: &str, status: Status, step: &Step) -> Result<Option<Kept>, DbError> {
    const SQL: &str = "UPDATE pharmacy_orders SET history = history || $1, steps = steps + 1, updated_at_ms = $2
        WHERE order_no = $3 AND status = $4 AND instr(history, $5) = 0
        RETURNING ";
    // As it stands in the history; within a text, the quotation marks are escaped.
    let name = format!("\"event\":{}", json(&step.event)?);
    let values: [Value; 5] =
        [step.line().into(), step.at_ms.into(), order_no.into(), status.as_str().into(), name.into()];
    db.query_one(&[SQL, COLUMNS].concat(), values).await?.as_ref().map(kept).transpose()
}

/// Notes that the partner is given the order now, and returns it; `None` if it is not for the partner any more.
pub(crate) async fn give(db: &Db, order_no: &str, now_ms: i64) -> Result<Option<Kept>, DbError> {
    const SQL: &str = "UPDATE pharmacy_orders SET sent_at_ms = coalesce(sent_at_ms, $1)
        WHERE order_no = $2 AND status = 'submitted'
        RETURNING ";
    let row = db.query_one(&[SQL, COLUMNS].concat(), [now_ms.into(), order_no.into()]).await?;
    row.as_ref().map(kept).transpose()
}

/// Notes that the first `steps` steps of these orders have had their effects.
pub(crate) async fn told(db: &Db, orders: &[(&str, usize)]) -> Result<(), DbError> {
    const SQL: &str = "UPDATE pharmacy_orders SET told = max(told, o.steps)
        FROM (SELECT value ->> 0 AS order_no, value ->> 1 AS steps FROM json_each($1)) AS o
        WHERE pharmacy_orders.order_no = o.order_no";
    db.execute(SQL, [json(&orders)?.into()]).await
}

/// Orders of which some step has not had its effects, the oldest first.
pub(crate) async fn untold(db: &Db, limit: i64) -> Result<Vec<Kept>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM pharmacy_orders WHERE told < steps ORDER BY seq LIMIT $1");
    db.query(&sql, [limit.into()]).await?.iter().map(kept).collect()
}

/// One order.
pub(crate) async fn get(db: &Db, order_no: &str) -> Result<Option<Kept>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM pharmacy_orders WHERE order_no = $1");
    db.query_one(&sql, [order_no.into()]).await?.as_ref().map(kept).transpose()
}

/// These orders.
pub(crate) async fn get_all(db: &Db, order_nos: &[&str]) -> Result<Vec<Kept>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM pharmacy_orders WHERE order_no IN (SELECT value FROM json_each($1))");
    db.query(&sql, [json(&order_nos)?.into()]).await?.iter().map(kept).collect()
}

/// Which orders are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) status: Option<Status>,
    pub(crate) pharmacy: Option<String>,
    /// Placed at or after it, Unix ms.
    pub(crate) from_ms: Option<i64>,
    /// Placed before it, Unix ms.
    pub(crate) to_ms: Option<i64>,
    /// Past the row with this cursor.
    pub(crate) cursor: Option<i64>,
}

/// At most `limit` orders, the newest first, or the oldest where they stand in a queue.
fn select(columns: &str, filter: &Filter, queue: bool, limit: usize) -> Select {
    let select = Select::new(format!("SELECT {columns} FROM pharmacy_orders WHERE true"), [])
        .and("status =", filter.status.map(Status::as_str))
        .and("pharmacy =", filter.pharmacy.as_deref())
        .and("created_at_ms >=", filter.from_ms)
        .and("created_at_ms <", filter.to_ms)
        .and(if queue { "seq >" } else { "seq <" }, filter.cursor);
    if queue { select.oldest(limit) } else { select.newest(limit) }
}

/// At most `limit` orders, the newest first, or the oldest where they stand in a queue.
pub(crate) async fn list(db: &Db, filter: &Filter, queue: bool, limit: usize) -> Result<Vec<Kept>, DbError> {
    select(COLUMNS, filter, queue, limit).rows(db).await?.iter().map(kept).collect()
}

/// What a list tells of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) seq: i64,
    pub(crate) order_no: String,
    pub(crate) pharmacy: String,
    pub(crate) status: Status,
    pub(crate) doctor_id: String,
    pub(crate) patient_id: String,
    pub(crate) amount_fen: i64,
    pub(crate) refund_due: bool,
    pub(crate) created_at_ms: i64,
    pub(crate) updated_at_ms: i64,
}

/// [`list`] without the bodies, of which a page may have many megabytes.
pub(crate) async fn summaries(db: &Db, filter: &Filter, limit: usize) -> Result<Vec<Summary>, DbError> {
    const SUMMARY: &str =
        "seq, order_no, pharmacy, status, body ->> '$.doctor_id', body ->> '$.patient.id', amount_fen,
        refund_due, created_at_ms, updated_at_ms";
    let summary = |row: &Row| {
        Ok(Summary {
            seq: row.integer(0)?,
            order_no: row.text(1)?.to_owned(),
            pharmacy: row.text(2)?.to_owned(),
            status: status(row, 3)?,
            doctor_id: row.text(4)?.to_owned(),
            patient_id: row.text(5)?.to_owned(),
            amount_fen: row.integer(6)?,
            refund_due: row.integer(7)? != 0,
            created_at_ms: row.integer(8)?,
            updated_at_ms: row.integer(9)?,
        })
    };
    select(SUMMARY, filter, false, limit).rows(db).await?.iter().map(summary).collect()
}

impl From<&Kept> for Summary {
    fn from(kept: &Kept) -> Self {
        Self {
            seq: kept.seq,
            order_no: kept.order.order_no.as_str().to_owned(),
            pharmacy: kept.pharmacy.clone(),
            status: kept.status,
            doctor_id: kept.order.doctor_id.as_str().to_owned(),
            patient_id: kept.order.patient.id.as_str().to_owned(),
            amount_fen: kept.order.amount_fen,
            refund_due: kept.refund_due,
            created_at_ms: kept.created_at_ms,
            updated_at_ms: kept.updated_at_ms,
        }
    }
}

/// How many orders are in each status.
pub(crate) async fn count(db: &Db) -> Result<Vec<(String, i64)>, DbError> {
    let rows = db.query("SELECT status, count(*) FROM pharmacy_orders GROUP BY status", []).await?;
    rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.integer(1)?))).collect()
}

/// A callback as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptCallback {
    pub(crate) pharmacy: String,
    pub(crate) callback: Callback,
    pub(crate) settled: bool,
}

const CALLBACK: &str = "pharmacy, replay_id, order_no, report, reason, settled";

fn kept_callback(row: &Row) -> Result<KeptCallback, DbError> {
    Ok(KeptCallback {
        pharmacy: row.text(0)?.to_owned(),
        callback: Callback {
            replay_id: row.text(1)?.to_owned(),
            order_no: Id::parse(row.text(2)?).ok_or(DbError::Column(2))?,
            report: Event::parse(row.text(3)?).ok_or(DbError::Column(3))?,
            reason: row.optional_text(4)?.map(str::to_owned),
        },
        settled: row.integer(5)? != 0,
    })
}

/// Keeps a callback, and returns the one that is there under its replay-proof id: this one, or an earlier one.
pub(crate) async fn keep_callback(
    db: &Db,
    pharmacy: &str,
    callback: &Callback,
    now_ms: i64,
) -> Result<KeptCallback, DbError> {
    const SQL: &str = "INSERT INTO pharmacy_callbacks (pharmacy, replay_id, order_no, report, reason, received_at_ms)
        VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (pharmacy, replay_id) DO UPDATE SET settled = settled
        RETURNING ";
    let values: [Value; 6] = [
        pharmacy.into(),
        callback.replay_id.as_str().into(),
        callback.order_no.as_str().into(),
        callback.report.as_str().into(),
        callback.reason.as_deref().into(),
        now_ms.into(),
    ];
    let row = db.query_one(&[SQL, CALLBACK].concat(), values).await?.ok_or(DbError::Column(0))?;
    kept_callback(&row)
}

/// Notes that a callback was applied.
pub(crate) async fn settle_callback(db: &Db, pharmacy: &str, replay_id: &str) -> Result<(), DbError> {
    const SQL: &str = "UPDATE pharmacy_callbacks SET settled = 1 WHERE pharmacy = $1 AND replay_id = $2";
    db.execute(SQL, [pharmacy.into(), replay_id.into()]).await
}

/// Forgets a callback that was refused: its partner may send it again.
pub(crate) async fn forget_callback(db: &Db, pharmacy: &str, replay_id: &str) -> Result<(), DbError> {
    const SQL: &str = "DELETE FROM pharmacy_callbacks WHERE pharmacy = $1 AND replay_id = $2 AND settled = 0";
    db.execute(SQL, [pharmacy.into(), replay_id.into()]).await
}

/// Forgets applied callbacks that came before `before_ms`, at most `rows` of them, and returns how many. One that comes
/// again under its id after that finds an order that does not go back.
pub(crate) async fn forget_callbacks(db: &Db, before_ms: i64, rows: i64) -> Result<u64, DbError> {
    const SQL: &str = "DELETE FROM pharmacy_callbacks
        WHERE rowid IN (SELECT rowid FROM pharmacy_callbacks
            WHERE settled = 1 AND received_at_ms < $1 ORDER BY received_at_ms LIMIT $2)
        RETURNING 1";
    Ok(db.query(SQL, [before_ms.into(), rows.into()]).await?.len() as u64)
}

/// Callbacks that were kept and not applied, the oldest first.
pub(crate) async fn open_callbacks(db: &Db, limit: i64) -> Result<Vec<KeptCallback>, DbError> {
    let sql = format!("SELECT {CALLBACK} FROM pharmacy_callbacks WHERE settled = 0 ORDER BY received_at_ms LIMIT $1");
    db.query(&sql, [limit.into()]).await?.iter().map(kept_callback).collect()
}

/// A set of rules as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct KeptRules {
    pub(crate) version: i64,
    pub(crate) source: String,
    pub(crate) samples: String,
    pub(crate) operator: String,
    pub(crate) rolled_back_to: Option<i64>,
    pub(crate) at_ms: i64,
}

const RULES: &str = "version, source, samples, operator, rolled_back_to, at_ms";

fn kept_rules(row: &Row) -> Result<KeptRules, DbError> {
    Ok(KeptRules {
        version: row.integer(0)?,
        source: row.text(1)?.to_owned(),
        samples: row.text(2)?.to_owned(),
        operator: row.text(3)?.to_owned(),
        rolled_back_to: row.optional_integer(4)?,
        at_ms: row.integer(5)?,
    })
}

/// The set in force, if it is newer than `version`.
pub(crate) async fn newer_rules(db: &Db, version: i64) -> Result<Option<KeptRules>, DbError> {
    let sql = format!("SELECT {RULES} FROM pharmacy_rules WHERE version > $1 ORDER BY version DESC LIMIT 1");
    db.query_one(&sql, [version.into()]).await?.as_ref().map(kept_rules).transpose()
}

/// One set.
pub(crate) async fn rules(db: &Db, version: i64) -> Result<Option<KeptRules>, DbError> {
    let sql = format!("SELECT {RULES} FROM pharmacy_rules WHERE version = $1");
    db.query_one(&sql, [version.into()]).await?.as_ref().map(kept_rules).transpose()
}

/// The sets, the newest first, at most `limit`, older than the one with this version.
pub(crate) async fn rules_history(db: &Db, before: Option<i64>, limit: usize) -> Result<Vec<KeptRules>, DbError> {
    let sql = format!("SELECT {RULES} FROM pharmacy_rules WHERE version < $1 ORDER BY version DESC LIMIT $2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.query(&sql, [before.unwrap_or(i64::MAX).into(), limit.into()]).await?.iter().map(kept_rules).collect()
}

/// Puts a set in force, under the next version, and returns it.
pub(crate) async fn add_rules(
    db: &Db,
    (source, samples): (&str, &str),
    operator: &str,
    rolled_back_to: Option<i64>,
    now_ms: i64,
) -> Result<KeptRules, DbError> {
    const SQL: &str = "INSERT INTO pharmacy_rules (version, source, samples, operator, rolled_back_to, at_ms)
        SELECT coalesce(max(version), 0) + 1, $1, $2, $3, $4, $5 FROM pharmacy_rules
        RETURNING ";
    let values: [Value; 5] = [source.into(), samples.into(), operator.into(), rolled_back_to.into(), now_ms.into()];
    let row = db.query_one(&[SQL, RULES].concat(), values).await?.ok_or(DbError::Column(0))?;
    kept_rules(&row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{order::tests::order, status::tests::LIFE};
    use shared::db::{migration::migrate, native::Native};

    const NOW: i64 = 1_481_361_166_000;

    async fn database() -> Db {
        let db = Native::in_memory();
        migrate(&db, "pharmacy", MIGRATIONS).await.unwrap();
        db
    }

    fn new_order(order_no: &str) -> NewOrder {
        NewOrder {
            order_no: order_no.to_owned(),
            pharmacy: "standard",
            status: "received",
            rules_version: 0,
            reasons: "[]".into(),
            hidden: "[]".into(),
            body: serde_json::to_string(&order(order_no)).unwrap(),
            amount_fen: 12_800,
            history: Step::received(NOW, "doctor:17".into()).line(),
            steps: 1,
        }
    }

    /// All that is kept of an order.
    async fn row(db: &Db, order_no: &str) -> Row {
        db.query_one("SELECT * FROM pharmacy_orders WHERE order_no = $1", [order_no.into()]).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn an_illegal_move_is_refused_and_changes_nothing_and_a_legal_one_is_one_step() {
        let db = database().await;
        let mut illegal = 0;
        for from in Status::ALL {
            for event in Event::ALL {
                for given in [false, true] {
                    let order_no = format!("ST-{}-{}-{given}", from.as_str(), event.as_str());
                    insert(&db, &[new_order(&order_no)], NOW).await.unwrap();
                    let put = "UPDATE pharmacy_orders SET status = $1, sent_at_ms = $2 WHERE order_no = $3";
                    let values = [from.as_str().into(), given.then_some(NOW).into(), order_no.as_str().into()];
                    db.execute(put, values).await.unwrap();
                    let before = row(&db, &order_no).await;
                    let step = Step::new(*event, NOW + 1, Some("who".into()), None);
                    let moved = advance(&db, &order_no, *event, &step, &With::default()).await.unwrap();
                    let legal = LIFE.iter().find(|way| (way.0, way.1) == (from.as_str(), event.as_str()));
                    match legal.filter(|_| given || !event.is_partners()) {
                        Some((.., to)) => {
                            let moved = moved.unwrap_or_else(|| panic!("{order_no} is refused"));
                            assert_eq!((moved.status.as_str(), moved.history.last()), (*to, Some(&step)));
                            assert_eq!((moved.history.len(), moved.updated_at_ms), (2, NOW + 1));
                        }
                        None => {
                            assert!(moved.is_none(), "{order_no} is moved");
                            assert_eq!(row(&db, &order_no).await, before, "{order_no}");
                            illegal += 1;
                        }
                    }
                }
            }
        }
        // Of both kinds; and of those that are not given, what a partner says.
        let says = LIFE.iter().filter(|(_, event, _)| event.starts_with("partner_")).count();
        assert_eq!(illegal, 2 * (Status::ALL.len() * Event::ALL.len() - LIFE.len()) + says);
    }

    #[tokio::test]
    async fn a_summary_says_of_an_order_what_the_order_does() {
        let db = database().await;
        insert(&db, &["ST-1", "ST-2", "ST-3"].map(new_order), NOW).await.unwrap();
        let whole = list(&db, &Filter::default(), false, 2).await.unwrap();
        let summaries = summaries(&db, &Filter::default(), 2).await.unwrap();
        assert_eq!(summaries, whole.iter().map(Summary::from).collect::<Vec<_>>());
        assert_eq!(summaries[0].order_no, "ST-3");
    }

    #[tokio::test]
    async fn old_callbacks_are_forgotten_bite_by_bite_unless_they_are_still_to_be_applied() {
        let db = database().await;
        for number in 0..5 {
            let replay_id = format!("cb-{number}");
            let order_no = Id::parse("ST-1").unwrap();
            let callback = Callback { replay_id, order_no, report: Event::PartnerShipped, reason: None };
            keep_callback(&db, "standard", &callback, NOW + number).await.unwrap();
            if number > 0 {
                settle_callback(&db, "standard", &callback.replay_id).await.unwrap();
            }
        }
        let mut forgotten = Vec::new();
        for _ in 0..3 {
            forgotten.push(forget_callbacks(&db, NOW + 4, 2).await.unwrap());
        }
        assert_eq!(forgotten, [2, 1, 0]);
        let left = db.query("SELECT replay_id FROM pharmacy_callbacks ORDER BY replay_id", []).await.unwrap();
        assert_eq!(left.iter().map(|row| row.text(0).unwrap()).collect::<Vec<_>>(), ["cb-0", "cb-4"]);
    }

    #[tokio::test]
    async fn a_step_that_moves_nothing_is_noted_once_and_where_it_belongs() {
        let db = database().await;
        insert(&db, &[new_order("ST-1")], NOW).await.unwrap();
        let refused = |reason: &str| Step::cancel_refused(NOW, "pharmacy:standard".into(), reason.into());
        assert!(note(&db, "ST-1", Status::Cancelled, &refused("packed")).await.unwrap().is_none(), "it is received");
        db.execute("UPDATE pharmacy_orders SET status = 'cancelled'", []).await.unwrap();
        // What it says of itself in its words is no step.
        let quoted = refused(r#""event":"cancel_refused""#);
        let noted = note(&db, "ST-1", Status::Cancelled, &quoted).await.unwrap().unwrap();
        assert_eq!((noted.status, noted.history.last()), (Status::Cancelled, Some(&quoted)));
        assert!(note(&db, "ST-1", Status::Cancelled, &refused("packed")).await.unwrap().is_none());
    }
}
