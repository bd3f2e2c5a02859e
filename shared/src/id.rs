//! Identifiers: `[A-Za-z0-9._:-]{1,64}`, safe in a URL, a log line, a Redis key and a signature's header.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use crate::json::Value;

/// The most characters an id has.
pub const MAX_LEN: usize = 64;

/// A checked identifier. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(Arc<str>);

impl Id {
    /// Reads an id; `None` if it is empty, too long or has another character.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=MAX_LEN).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'));
        fits.then(|| Self(text.into()))
    }

    /// Reads an id from JSON: a string, or an integer as databases number their rows.
    pub fn from_json(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Integer(number) => Self::parse(&number.to_string()),
            Value::Unsigned(number) => Self::parse(&number.to_string()),
            _ => None,
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number this id is, if it is written as one.
    pub fn as_integer(&self) -> Option<i64> {
        let number = self.0.parse::<i64>().ok()?;
        (number.to_string() == *self.0).then_some(number)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_characters_make_an_id() {
        for good in ["98", "a-b_c.d:e", &"x".repeat(64)] {
            assert!(Id::parse(good).is_some(), "{good}");
        }
        for bad in ["", "a b", "患者", "a/b", "a\n", &"x".repeat(65)] {
            assert!(Id::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_integer_is_known_by_its_own_spelling_only() {
        assert_eq!(Id::parse("98").unwrap().as_integer(), Some(98));
        for other in ["098", "-0", "9a", "99999999999999999999"] {
            assert_eq!(Id::parse(other).unwrap().as_integer(), None, "{other}");
        }
    }
}
