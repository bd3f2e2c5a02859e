//! Debezium's change events: <https://debezium.io/documentation/reference/stable/connectors/mysql.html#mysql-events>.
//!
//! With or without the `schema`/`payload` envelope (`schemas.enable`). `before` is `null` on Postgres unless the
//! table has `REPLICA IDENTITY FULL`. `source` has the position: file, offset and row of MySQL's binlog, its GTID, or
//! Postgres's LSN.

use shared::{
    json::{Object, Value},
    problem::Fault,
};

use super::{Identity, instant_ms};
use crate::event::{Before, Reading, RowUpdate};

pub(super) fn is(event: &Object<'_>) -> bool {
    let known = |event: &Object<'_>| is_row_change(event) || is_schema_change(event) || is_transaction_boundary(event);
    known(event)
        || match event.get("payload") {
            Some(Value::Null) => event.get("schema").is_some(),
            Some(Value::Object(payload)) => known(payload),
            _ => false,
        }
}

fn is_row_change(event: &Object<'_>) -> bool {
    event.text("op").is_some() && ["source", "before", "after"].iter().any(|key| event.get(key).is_some())
}

fn is_schema_change(event: &Object<'_>) -> bool {
    event.object("source").is_some() && ["ddl", "tableChanges"].iter().any(|key| event.get(key).is_some())
}

/// With `provide.transaction.metadata`. Where one begins, `event_count` is `null`.
fn is_transaction_boundary(event: &Object<'_>) -> bool {
    matches!(event.text("status"), Some("BEGIN" | "END"))
        && ["id", "event_count"].iter().all(|key| event.get(key).is_some())
}

pub(super) fn read<'v>(event: &'v Object<'v>, id_column: &str) -> Reading<'v> {
    let (event, at) = match event.get("payload") {
        Some(Value::Object(payload)) => (payload, "/payload"),
        Some(Value::Null) => return Reading::Nothing { event_id: None, detail: "an empty record".into() },
        _ => (event, ""),
    };
    let Some(op) = event.text("op") else {
        let boundary = is_transaction_boundary(event);
        let detail = if boundary { "a transaction's begin or end" } else { "a change of the schema" };
        let event_id = Identity::of("debezium:").parts(event, &["source", "ddl", "status", "id"]).id();
        return Reading::Nothing { event_id, detail: detail.into() };
    };
    let mut faults = Vec::new();
    let source = event.object("source").unwrap_or_else(|| {
        faults.push(Fault::at(format!("{at}/source"), "must be an object"));
        Object::EMPTY
    });
    let before = event.object("before");
    let after = event.object("after");
    let key = after.or(before).and_then(|row| row.get(id_column));
    let identity = Identity::of("debezium:").parts(source, &["name", "db", "schema", "table"]).part(key);
    let has = |key: &str| source.present(key).is_some_and(|value| value.as_str() != Some(""));
    let event_id = if has("file") {
        identity.parts(source, &["file", "pos", "row"]).id()
    } else if has("lsn") {
        identity.parts(source, &["lsn", "txId"]).id()
    } else {
        // A GTID names a whole transaction, which may change a row twice.
        identity.parts(source, &["gtid", "ts_ms"]).object(before).object(after).id()
    };
    if op != "u" {
        return if faults.is_empty() {
            Reading::Nothing { event_id, detail: format!("`{op}` is no update of a row") }
        } else {
            Reading::Unreadable(faults)
        };
    }
    let table = source.text("table");
    if faults.is_empty() && table.is_none() {
        faults.push(Fault::at(format!("{at}/source/table"), "must be a string"));
    }
    if after.is_none() {
        faults.push(Fault::at(format!("{at}/after"), "must be an object"));
    }
    match (table, after, event_id) {
        (Some(table), Some(after), Some(event_id)) => Reading::Row(RowUpdate {
            event_id,
            database: source.text("db"),
            table,
            after,
            before: before.map_or(Before::Unknown, Before::Whole),
            occurred_at_ms: instant_ms(source.get("ts_ms")).or_else(|| instant_ms(event.get("ts_ms"))),
        }),
        _ => Reading::Unreadable(faults),
    }
}
