//! Identifiers: `[A-Za-z0-9._:-]{1,64}`, safe in a URL, a log line, a Redis key and a signature's header.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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
            Value::Integer(number) => Some(Self::of(number.is_negative(), number.unsigned_abs())),
            Value::Unsigned(number) => Some(Self::of(false, *number)),
            _ => None,
        }
    }

    /// A number's decimal digits, written in place: every row has three of them.
    fn of(negative: bool, mut number: u64) -> Self {
        let mut digits = [0; 20];
        let mut start = digits.len();
        for (place, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
            number /= 10;
            start = place;
            if number == 0 {
                break;
            }
        }
        let digits = std::str::from_utf8(digits.get(start..).unwrap_or_default()).unwrap_or_default();
        if negative { Self(["-", digits].concat().into()) } else { Self(digits.into()) }
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

/// As it was written.
impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("not an id"))
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
    fn an_integer_makes_the_id_that_its_digits_make() {
        for number in [0, 7, 10, 98, -1, i64::MAX, i64::MIN] {
            assert_eq!(Id::from_json(&Value::Integer(number)), Id::parse(&number.to_string()));
        }
        assert_eq!(Id::from_json(&Value::Unsigned(u64::MAX)), Id::parse(&u64::MAX.to_string()));
    }

    #[test]
    fn an_integer_is_known_by_its_own_spelling_only() {
        assert_eq!(Id::parse("98").unwrap().as_integer(), Some(98));
        for other in ["098", "-0", "9a", "99999999999999999999"] {
            assert_eq!(Id::parse(other).unwrap().as_integer(), None, "{other}");
        }
    }
}
