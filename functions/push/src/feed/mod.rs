//! The input shapes, told apart by their fields. A feed is one file.
//!
//! An event's identity comes from the feed's own position, so that a replay of the feed has the same ids; where the
//! feed leaves it out, it is a hash of what the event says.

mod canal;
mod debezium;
mod maxwell;
pub(crate) mod plain;

use shared::{
    clock, digest,
    id::Id,
    json::{Object, Value},
    problem::Fault,
};

use crate::event::Reading;

/// Reads one event. `id_column` is the row's key column, a part of its identity.
pub(crate) fn read<'v>(value: &'v Value<'v>, id_column: &str) -> Vec<Reading<'v>> {
    let Some(event) = value.as_object() else {
        return vec![match value {
            // Debezium follows a delete with an empty record, for the log's compaction.
            Value::Null => Reading::Nothing { event_id: None, detail: "an empty record".into() },
            _ => unreadable("", "an event must be an object"),
        }];
    };
    if debezium::is(event) {
        return vec![debezium::read(event, id_column)];
    }
    if canal::is(event) {
        return canal::read(event, id_column);
    }
    if maxwell::is(event) {
        return vec![maxwell::read(event, id_column)];
    }
    if plain::is(event) {
        return vec![plain::read(event)];
    }
    vec![unreadable("", "not an event of Maxwell, Canal or Debezium, nor one with order_id, from and to")]
}

fn unreadable<'v>(pointer: &str, detail: &str) -> Reading<'v> {
    Reading::Unreadable(vec![Fault::at(pointer, detail)])
}

/// A feed's time, in seconds, milliseconds or microseconds, as milliseconds.
pub(crate) fn instant_ms(value: Option<&Value<'_>>) -> Option<i64> {
    let number = value?.as_integer()?;
    // 10^11 seconds is the year 5138, 10^11 milliseconds 1973: no feed means either. Nor does one mean
    // the year 1978, which the latest milliseconds are as microseconds.
    const SECONDS_BELOW: i64 = 100_000_000_000;
    const MICROSECONDS_ABOVE: i64 = clock::LATEST_MS;
    match number {
        0.. if number < SECONDS_BELOW => Some(number * 1000),
        SECONDS_BELOW..=MICROSECONDS_ABOVE => Some(number),
        0.. if number / 1000 <= clock::LATEST_MS => Some(number / 1000),
        _ => None,
    }
}

/// Collects what an event is known by, and makes an id of it.
struct Identity {
    prefix: &'static str,
    bytes: Vec<u8>,
}

impl Identity {
    /// Of the feed whose ids begin with `prefix`.
    fn of(prefix: &'static str) -> Self {
        // An event seldom has more, so the buffer seldom grows.
        Self { prefix, bytes: Vec::with_capacity(1024) }
    }

    /// Adds a part. A missing one and a `null` one are told apart from every value.
    fn part(mut self, value: Option<&Value<'_>>) -> Self {
        match value {
            Some(value) => value.canonical(&mut self.bytes),
            None => self.bytes.push(b'-'),
        }
        self.bytes.push(b'\n');
        self
    }

    fn object(mut self, value: Option<&Object<'_>>) -> Self {
        match value {
            Some(object) => object.canonical(&mut self.bytes),
            None => self.bytes.push(b'-'),
        }
        self.bytes.push(b'\n');
        self
    }

    fn parts<'v>(self, event: &'v Object<'v>, keys: &[&str]) -> Self {
        keys.iter().fold(self, |identity, key| identity.part(event.get(key)))
    }

    /// `maxwell:` and 32 hexadecimal digits.
    fn id(self) -> Option<Id> {
        Id::parse(&digest::hex(self.prefix, &self.bytes))
    }
}

/// What a feed is read for, with the faults found on the way.
fn text<'v>(event: &'v Object<'v>, key: &str, faults: &mut Vec<Fault>) -> &'v str {
    event.text(key).unwrap_or_else(|| {
        faults.push(Fault::at(format!("/{key}"), "must be a string"));
        ""
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::json;

    #[test]
    fn what_is_no_event_is_said_to_be_none() {
        for text in ["1", "\"x\"", "{}", r#"{"a":1}"#, r#"{"type":"update"}"#, "true"] {
            let value = json::parse(text.as_bytes()).unwrap();
            assert!(matches!(read(&value, "id")[..], [Reading::Unreadable(_)]), "{text}");
        }
    }

    #[test]
    fn an_empty_record_is_nothing() {
        assert!(matches!(read(&Value::Null, "id")[..], [Reading::Nothing { .. }]));
    }

    #[test]
    fn seconds_milliseconds_and_microseconds_are_told_apart() {
        let ms = |number: i64| instant_ms(Some(&Value::Integer(number)));
        assert_eq!(ms(1_481_361_166), Some(1_481_361_166_000));
        assert_eq!(ms(1_481_361_166_224), Some(1_481_361_166_224));
        assert_eq!(ms(1_481_361_166_224_999), Some(1_481_361_166_224));
        assert_eq!(ms(clock::LATEST_MS), Some(clock::LATEST_MS));
        assert_eq!(ms(clock::LATEST_MS + 1), Some(clock::LATEST_MS / 1000));
        assert_eq!(ms(clock::LATEST_MS * 1000), Some(clock::LATEST_MS));
        assert_eq!(ms((clock::LATEST_MS + 1) * 1000), None);
        assert_eq!(ms(1_481_361_166_224_999_000), None, "nanoseconds");
        assert_eq!(ms(-1), None);
        assert_eq!(ms(i64::MAX), None);
    }

    proptest! {
        /// Any JSON in the known fields is read or refused, never a panic.
        #[test]
        fn no_event_makes_it_panic(
            keys in proptest::collection::vec(
                prop_oneof!["database", "table", "type", "data", "old", "ts", "es", "isDdl", "op", "before", "after",
                    "source", "payload", "order_id", "from", "to", "event_id", "occurred_at"], 0..8),
            values in proptest::collection::vec(
                prop_oneof![Just("null"), Just("1"), Just("-1"), Just("1.5"), Just("\"update\""), Just("\"UPDATE\""),
                    Just("\"u\""), Just("[]"), Just("{}"), Just("[null]"), Just("[{}]"), Just("{\"table\":\"order\"}"),
                    Just("18446744073709551615"), Just("true")], 8),
        ) {
            let mut fields: Vec<String> = Vec::new();
            for (key, value) in keys.iter().zip(&values) {
                if !fields.iter().any(|field| field.starts_with(&format!("\"{key}\""))) {
                    fields.push(format!("\"{key}\":{value}"));
                }
            }
            let text = format!("{{{}}}", fields.join(","));
            let value = json::parse(text.as_bytes()).unwrap();
            prop_assert!(!read(&value, "id").is_empty() || text.contains("[]"));
        }
    }
}
