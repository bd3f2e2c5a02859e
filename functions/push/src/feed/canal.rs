//! Canal's flat messages: <https://github.com/alibaba/canal/wiki> (`FlatMessage`).
//!
//! `data` and `old` are arrays, a row each, or `null` of a statement (`binlog_format=STATEMENT` or `MIXED`); values are
//! strings whatever the column's type; `es` is when the database did it, `ts` when Canal read it (so no part of the
//! identity, like `id`, a batch's number).

use shared::{
    json::{Object, Value},
    problem::Fault,
};

use super::{Identity, instant_ms, text};
use crate::event::{Before, Reading, RowUpdate};

pub(super) fn is(event: &Object<'_>) -> bool {
    event.text("type").is_some()
        && (event.get("isDdl").is_some() || event.get("data").is_some_and(|data| data.as_array().is_some()))
}

pub(super) fn read<'v>(event: &'v Object<'v>, id_column: &str) -> Vec<Reading<'v>> {
    let kind = event.text("type").unwrap_or_default();
    let ddl = event.get("isDdl") == Some(&Value::Bool(true));
    if ddl || !kind.eq_ignore_ascii_case("update") {
        let event_id = Identity::of("canal:").parts(event, &["database", "table", "type", "es", "sql", "data"]).id();
        return vec![Reading::Nothing { event_id, detail: format!("`{kind}` is no update of a row") }];
    }
    let mut faults = Vec::new();
    let table = text(event, "table", &mut faults);
    let mut rows = |key: &str| {
        let rows = event.present(key).map(Value::as_array);
        if rows == Some(None) {
            faults.push(Fault::at(format!("/{key}"), "must be an array of rows"));
        }
        rows.flatten()
    };
    let (data, old) = (rows("data"), rows("old"));
    if data.is_some_and(<[_]>::is_empty) {
        faults.push(Fault::at("/data", "has no row"));
    }
    if !faults.is_empty() {
        return vec![Reading::Unreadable(faults)];
    }
    let update = |event_id, after, before| match event_id {
        Some(event_id) => Reading::Row(RowUpdate {
            event_id,
            database: event.text("database"),
            table,
            after,
            before,
            occurred_at_ms: instant_ms(event.get("es")),
        }),
        None => Reading::Unreadable(Vec::new()),
    };
    let Some(data) = data else {
        // The binlog has the statement, and not the rows that it changed.
        let event_id = Identity::of("canal:").parts(event, &["database", "table", "gtid", "es", "sql"]).id();
        return vec![update(event_id, Object::EMPTY, Before::Unknown)];
    };
    let row = |(index, after): (usize, &'v Value<'v>)| {
        let Some(after) = after.as_object() else {
            return Reading::Unreadable(vec![Fault::at(format!("/data/{index}"), "must be an object")]);
        };
        let changed = old.and_then(|old| old.get(index)).and_then(Value::as_object);
        let key = after.get(id_column);
        let identity = Identity::of("canal:").parts(event, &["database", "table", "gtid", "es"]).part(key);
        let before = match changed {
            // With `binlog_row_image=MINIMAL` the row has the changed columns alone, and `old` none of them.
            Some(changed) if changed == Object::EMPTY && key.is_none() => Before::Unknown,
            Some(changed) => Before::Changed(changed),
            None => Before::Unknown,
        };
        update(identity.object(changed).object(Some(after)).id(), after, before)
    };
    data.iter().enumerate().map(row).collect()
}
