//! Maxwell's daemon: <https://maxwells-daemon.io/dataformat/>.
//!
//! `old` holds the changed columns alone, and is left out where it would be empty, as with `binlog_row_image=MINIMAL`.
//! `position`, `gtid` and `xoffset` are there only where `output_binlog_position`, `output_gtid_position` and
//! `output_xoffset` are set.

use shared::{
    json::{Object, Value},
    problem::Fault,
};

use super::{Identity, instant_ms, text};
use crate::event::{Before, Reading, RowUpdate};

pub(super) fn is(event: &Object<'_>) -> bool {
    event.text("type").is_some() && event.text("database").is_some()
}

pub(super) fn read<'v>(event: &'v Object<'v>, id_column: &str) -> Reading<'v> {
    let data = event.object("data");
    let key = data.and_then(|data| data.get(id_column)).or_else(|| event.get("primary_key"));
    let identity = Identity::of("maxwell:").parts(event, &["database", "table"]).part(key);
    let event_id = if event.present("position").is_some() {
        // A file and offset say which statement, `xoffset` and the key which row.
        identity.parts(event, &["position", "xoffset"]).id()
    } else {
        identity.parts(event, &["gtid", "xid", "ts", "xoffset", "old", "data"]).id()
    };
    let kind = event.text("type").unwrap_or_default();
    if kind != "update" {
        return Reading::Nothing { event_id, detail: format!("`{kind}` is no update of a row") };
    }
    let mut faults = Vec::new();
    let table = text(event, "table", &mut faults);
    if data.is_none() {
        faults.push(Fault::at("/data", "must be an object"));
    }
    let old = event.present("old").map(Value::as_object);
    if old == Some(None) {
        faults.push(Fault::at("/old", "must be an object"));
    }
    match (data, event_id) {
        (Some(after), Some(event_id)) if faults.is_empty() => Reading::Row(RowUpdate {
            event_id,
            database: event.text("database"),
            table,
            after,
            before: old.flatten().map_or(Before::Unknown, Before::Changed),
            occurred_at_ms: instant_ms(event.get("ts")),
        }),
        _ => Reading::Unreadable(faults),
    }
}
