//! The events that nobody could act on, kept until an operator says what they meant. The messages of the others are
//! in the outbox.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    clock,
    db::{Db, DbError, Migration, Row, Select},
    digest,
    id::Id,
};

/// This function's tables.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    statements: &[
        // The id is the event's, so that a replay meets the row that is there. `event` is its JSON, or the text that
        // is none; it is what a resolution formats again. `operation` is claimed before the message is enqueued: two
        // operators cannot give the same event two meanings.
        "CREATE TABLE push_events (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            outcome TEXT NOT NULL CHECK (outcome IN ('ambiguous', 'rejected')),
            order_id TEXT,
            detail TEXT NOT NULL,
            event TEXT NOT NULL,
            path TEXT NOT NULL,
            received_at_ms INTEGER NOT NULL,
            operation TEXT,
            scenario TEXT,
            resolved_at_ms INTEGER
        )",
        "CREATE INDEX push_events_open ON push_events (outcome, seq) WHERE resolved_at_ms IS NULL",
        "CREATE INDEX push_events_order ON push_events (order_id) WHERE order_id IS NOT NULL",
    ],
}];

/// An event to keep.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kept {
    id: String,
    outcome: &'static str,
    order_id: Option<Id>,
    detail: String,
    event: String,
}

impl Kept {
    pub(crate) fn new(
        id: Option<&Id>,
        outcome: &'static str,
        order_id: Option<Id>,
        detail: &str,
        event: String,
    ) -> Self {
        // What has no identity of its own is known by what it says.
        let id = id.map_or_else(|| digest::hex("unreadable:", event.as_bytes()), |id| id.as_str().to_owned());
        Self { id, outcome, order_id, detail: detail.to_owned(), event }
    }
}

/// Keeps the events whose ids are not there.
pub(crate) async fn keep(db: &Db, events: &[Kept], path: &str, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO push_events (id, outcome, order_id, detail, event, path, received_at_ms)
        SELECT e.value ->> 'id', e.value ->> 'outcome', e.value ->> 'order_id', e.value ->> 'detail',
            e.value ->> 'event', $1, $2
        FROM json_each($3) AS e
        WHERE true
        ORDER BY e.key
        ON CONFLICT (id) DO NOTHING";
    if events.is_empty() {
        return Ok(());
    }
    let events = serde_json::to_string(events).map_err(|error| DbError::Other(error.to_string()))?;
    db.execute(SQL, [path.into(), now_ms.into(), events.into()]).await
}

/// A kept event in a list.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    pub(crate) id: String,
    /// `ambiguous` or `rejected`.
    pub(crate) outcome: String,
    pub(crate) order_id: Option<String>,
    /// Why.
    pub(crate) detail: String,
    /// By which entry path it came.
    pub(crate) path: String,
    pub(crate) received_at: String,
    /// What an operator said that it meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    /// What it became by that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scenario: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resolved_at: Option<String>,
    #[serde(skip)]
    pub(crate) seq: i64,
}

/// A kept event with its text.
#[derive(Debug, Serialize)]
pub(crate) struct Whole {
    #[serde(flatten)]
    pub(crate) entry: Entry,
    /// The event's JSON, or its text where that is none.
    pub(crate) event: Box<RawValue>,
    #[serde(skip)]
    pub(crate) text: String,
}

/// Which kept events are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) outcome: Option<&'static str>,
    pub(crate) order_id: Option<String>,
    /// Whether those that are resolved, or those that are not.
    pub(crate) resolved: Option<bool>,
    /// Older than the row with this cursor.
    pub(crate) cursor: Option<i64>,
}

const COLUMNS: &str =
    "seq, id, outcome, order_id, detail, path, received_at_ms, operation, scenario, resolved_at_ms, event";

fn entry(row: &Row) -> Result<Entry, DbError> {
    let optional = |column| Ok::<_, DbError>(row.optional_text(column)?.map(str::to_owned));
    Ok(Entry {
        seq: row.integer(0)?,
        id: row.text(1)?.to_owned(),
        outcome: row.text(2)?.to_owned(),
        order_id: optional(3)?,
        detail: row.text(4)?.to_owned(),
        path: row.text(5)?.to_owned(),
        received_at: clock::rfc3339(row.integer(6)?),
        // Claimed without one.
        operation: optional(7)?.filter(|operation| !operation.is_empty()),
        scenario: optional(8)?,
        resolved_at: row.optional_integer(9)?.map(clock::rfc3339),
    })
}

/// The newest first, at most `limit`.
pub(crate) async fn list(db: &Db, filter: &Filter, limit: usize) -> Result<Vec<Entry>, DbError> {
    let select = Select::new(format!("SELECT {COLUMNS} FROM push_events WHERE true"), [])
        .and("outcome =", filter.outcome)
        .and("order_id =", filter.order_id.as_deref())
        .and("seq <", filter.cursor);
    let select = match filter.resolved {
        Some(true) => select.only("resolved_at_ms IS NOT NULL"),
        Some(false) => select.only("resolved_at_ms IS NULL"),
        None => select,
    };
    select.newest(limit).rows(db).await?.iter().map(entry).collect()
}

/// One kept event.
pub(crate) async fn get(db: &Db, id: &str) -> Result<Option<Whole>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM push_events WHERE id = $1");
    let Some(row) = db.query_one(&sql, [id.into()]).await? else { return Ok(None) };
    let text = row.text(10)?.to_owned();
    let quoted = || serde_json::value::to_raw_value(&text);
    let event = RawValue::from_string(text.clone()).or_else(|_| quoted());
    let event = event.map_err(|error| DbError::Other(error.to_string()))?;
    Ok(Some(Whole { entry: entry(&row)?, event, text }))
}

/// Claims the event for one meaning; `false` if it has another already, or is closed without one. `""` stands for no
/// operation: the event is only formatted again.
pub(crate) async fn claim(db: &Db, id: &str, operation: &str) -> Result<bool, DbError> {
    const SQL: &str = "UPDATE push_events SET operation = $1
        WHERE id = $2 AND (operation = $1 OR (operation IS NULL AND resolved_at_ms IS NULL))
        RETURNING 1";
    Ok(!db.query(SQL, [operation.into(), id.into()]).await?.is_empty())
}

/// Takes this claim back: what it said led to nothing.
pub(crate) async fn disclaim(db: &Db, id: &str, operation: &str) -> Result<(), DbError> {
    const SQL: &str = "UPDATE push_events SET operation = NULL
        WHERE id = $1 AND operation = $2 AND resolved_at_ms IS NULL";
    db.execute(SQL, [id.into(), operation.into()]).await
}

/// Marks the event as dealt with: it became this scenario's message, or nothing.
pub(crate) async fn resolve(db: &Db, id: &str, scenario: Option<&str>, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "UPDATE push_events SET scenario = $1, resolved_at_ms = $2
        WHERE id = $3 AND resolved_at_ms IS NULL";
    db.execute(SQL, [scenario.into(), now_ms.into(), id.into()]).await
}

/// Closes the event without a meaning; `false` if it has one already.
pub(crate) async fn dismiss(db: &Db, id: &str, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "UPDATE push_events SET resolved_at_ms = coalesce(resolved_at_ms, $1)
        WHERE id = $2 AND operation IS NULL AND scenario IS NULL
        RETURNING 1";
    Ok(!db.query(SQL, [now_ms.into(), id.into()]).await?.is_empty())
}

/// Closes those of the events that wait for somebody, as they became these scenarios' messages after all.
pub(crate) async fn close(db: &Db, became: &BTreeMap<&str, &str>, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "UPDATE push_events SET scenario = r.value, resolved_at_ms = $1
        FROM json_each($2) AS r
        WHERE push_events.id = r.key AND push_events.resolved_at_ms IS NULL";
    if became.is_empty() {
        return Ok(());
    }
    let became = serde_json::to_string(became).map_err(|error| DbError::Other(error.to_string()))?;
    db.execute(SQL, [now_ms.into(), became.into()]).await
}

/// How many events of each outcome wait for somebody.
pub(crate) async fn open(db: &Db) -> Result<BTreeMap<String, i64>, DbError> {
    const SQL: &str = "SELECT outcome, count(*) FROM push_events WHERE resolved_at_ms IS NULL GROUP BY outcome";
    let mut open = ["ambiguous", "rejected"].map(|outcome| (outcome.to_owned(), 0)).into_iter().collect();
    let add = |open: &mut BTreeMap<String, i64>, row: &Row| {
        open.insert(row.text(0)?.to_owned(), row.integer(1)?);
        Ok::<_, DbError>(())
    };
    db.query(SQL, []).await?.iter().try_for_each(|row| add(&mut open, row))?;
    Ok(open)
}

/// Why events wait for somebody.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    pub(crate) outcome: String,
    pub(crate) detail: String,
    /// How many events wait for it.
    pub(crate) count: i64,
}

/// Why events wait for somebody: the most frequent reasons first, at most `limit`.
pub(crate) async fn reasons(db: &Db, limit: i64) -> Result<Vec<Reason>, DbError> {
    const SQL: &str = "SELECT outcome, detail, count(*) FROM push_events WHERE resolved_at_ms IS NULL
        GROUP BY outcome, detail ORDER BY count(*) DESC, max(seq) DESC LIMIT $1";
    let reason = |row: &Row| {
        Ok(Reason { outcome: row.text(0)?.to_owned(), detail: row.text(1)?.to_owned(), count: row.integer(2)? })
    };
    db.query(SQL, [limit.into()]).await?.iter().map(reason).collect()
}
