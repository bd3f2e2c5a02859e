//! Where an entry has its event.
//!
//! - Maxwell with `redis_type=xadd`: one field, `redis_stream_json_key`, by default `message`
//!   (<https://maxwells-daemon.io/config/>);
//! - Debezium Server, `debezium.sink.redis.message.format=compact` (the default): one field, named by the event's key,
//!   its value the event; `extended`: the fields `key` and `value`
//!   (<https://debezium.io/documentation/reference/stable/operations/debezium-server.html#_redis_stream>). Where an
//!   event has no key or no value, it writes `redis.null.key` and `redis.null.value`, by default `default`.

use super::Entry;

/// What Debezium Server writes for an event without a value: a tombstone.
const NO_VALUE: &str = "default";

/// The event's JSON: in `field`, or where Debezium Server puts it; `None` for a tombstone.
///
/// # Errors
/// Says what the entry has instead.
pub fn payload<'e>(entry: &'e Entry, field: &str) -> Result<Option<&'e str>, String> {
    if !entry.valid_utf8 {
        return Err("the entry is not UTF-8".into());
    }
    let named = |name: &str| entry.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let extended = || named("key").and_then(|_| named("value"));
    let compact = || match entry.fields.as_slice() {
        [(_, value)] => Some(value.as_str()),
        _ => None,
    };
    match named(field).or_else(extended).or_else(compact) {
        Some(NO_VALUE) => Ok(None),
        Some(event) => Ok(Some(event)),
        None => {
            let names: Vec<_> = entry.fields.iter().take(8).map(|(name, _)| name.as_str()).collect();
            Err(format!("the entry has no field `{field}`, nor `key` and `value`, but {}", names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Entry { id: "1-0".into(), fields, valid_utf8: true }
    }

    #[test]
    fn every_feed_has_its_place() {
        let found = |fields: &[(&str, &str)]| payload(&entry(fields), "message").map(|found| found.map(str::to_owned));
        assert_eq!(found(&[("message", "{}")]), Ok(Some("{}".into())));
        assert_eq!(found(&[("{\"id\":1}", "{\"op\":\"u\"}")]), Ok(Some("{\"op\":\"u\"}".into())));
        assert_eq!(found(&[("key", "{\"id\":1}"), ("value", "{\"op\":\"u\"}")]), Ok(Some("{\"op\":\"u\"}".into())));
        assert_eq!(found(&[("other", "1"), ("message", "{}")]), Ok(Some("{}".into())));
        assert_eq!(found(&[("key", "{\"id\":1}"), ("value", "default")]), Ok(None));
        assert_eq!(found(&[("{\"id\":1}", "default")]), Ok(None));
        assert!(found(&[("a", "1"), ("b", "2")]).unwrap_err().ends_with("but a, b"));
    }

    #[test]
    fn what_is_not_utf_8_is_no_event() {
        let broken = Entry { valid_utf8: false, ..entry(&[("message", "\u{fffd}")]) };
        assert!(payload(&broken, "message").unwrap_err().contains("UTF-8"));
    }
}
