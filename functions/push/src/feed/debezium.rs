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
    let change = |event: &Object<'_>| {
        event.text("op").is_some() && ["source", "before", "after"].iter().any(|key| event.get(key).is_some())
    };
    change(event)
        || match event.get("payload") {
            Some(Value::Null) => event.get("schema").is_some(),
            Some(Value::Object(payload)) => change(payload),
            _ => false,
        }
}

pub(super) fn read<'v>(event: &'v Object<'v>, id_column: &str) -> Reading<'v> {
    let (event, at) = match event.get("payload") {
        Some(Value::Object(payload)) => (payload, "/payload"),
        Some(Value::Null) => return Reading::Nothing { event_id: None, detail: "an empty record".into() },
        _ => (event, ""),
    };
    let before = event.object("before");
    let after = event.object("after");
    let Some(source) = event.object("source") else {
        return super::unreadable(&format!("{at}/source"), "must be an object");
    };
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
    let op = event.text("op").unwrap_or_default();
    if op != "u" {
        return Reading::Nothing { event_id, detail: format!("`{op}` is no update of a row") };
    }
    let mut faults = Vec::new();
    let table = source.text("table").unwrap_or_else(|| {
        faults.push(Fault::at(format!("{at}/source/table"), "must be a string"));
        ""
    });
    if after.is_none() {
        faults.push(Fault::at(format!("{at}/after"), "must be an object"));
    }
    match (after, event_id) {
        (Some(after), Some(event_id)) if faults.is_empty() => Reading::Row(RowUpdate {
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
