//! One JSON line per outcome on stdout: what, key, outcome, duration, entry path, version.
//!
//! Never a token, a key, a card's secret, a name or an address: callers pass ids and reasons alone.

use std::{io::Write, time::Duration};

use serde::{Serialize, Serializer};

/// How an event came in. Every path runs the same code; the log tells which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryPath {
    /// An HTTP request.
    Http,
    /// A message on a Redis channel.
    Redis,
    /// An entry of a Redis stream.
    Stream,
}

/// One outcome.
#[derive(Serialize)]
pub struct Line<'a, M: Serialize = ()> {
    /// Fields that the operators know this outcome by; they stand first.
    #[serde(flatten)]
    pub known_as: M,
    /// What kind of thing it is about: `event`, `message`, `request`.
    pub what: &'a str,
    /// The thing's id.
    pub key: &'a str,
    /// What became of it.
    pub outcome: &'a str,
    /// Why, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<&'a str>,
    /// How long it took.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub took: Duration,
    /// How it came in.
    pub path: EntryPath,
    /// Of the component.
    pub version: &'static str,
}

impl<M: Serialize> Line<'_, M> {
    /// Writes the line. The functions' native tests, which have their own ways to look, write none.
    pub fn write(&self) {
        if cfg!(feature = "native") {
            return;
        }
        if let Ok(line) = serde_json::to_string(self) {
            // A log that cannot be written must not fail what it is about, as `println!` would.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

fn milliseconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    serializer.serialize_f64(f64::from(micros) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_an_operator_looks_for() {
        let line = Line {
            known_as: (),
            what: "event",
            key: "e1",
            outcome: "ambiguous",
            detail: Some("why"),
            took: Duration::from_micros(1_500),
            path: EntryPath::Redis,
            version: "0.1.0",
        };
        assert_eq!(
            serde_json::to_value(&line).unwrap(),
            serde_json::json!({"what": "event", "key": "e1", "outcome": "ambiguous", "detail": "why",
                "duration_ms": 1.5, "path": "redis", "version": "0.1.0"})
        );
    }
}
