//! Strict JSON. What other parsers let pass quietly is a fault here: a key that stands twice, a number out of range,
//! nesting over 127 levels, bytes that are not UTF-8. A number of more digits than `u64` or `f64` holds is kept as the
//! nearest [`Value::Float`], which nothing takes for an id: a row may well have such a column that nobody reads.
//!
//! [`Value`] borrows from the text, and keeps an object's fields in their order.

use std::{borrow::Cow, collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};

/// One JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number without fraction, within the range of `i64`.
    Integer(i64),
    /// One above that range, within `u64`'s, as databases' unsigned keys may be.
    Unsigned(u64),
    /// Any other number; an id or a time is never one.
    Float(f64),
    /// A string.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object, in the order of its text.
    Object(Object<'a>),
}

/// An object's fields, in the order of their text; each key stands once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    /// The object without fields.
    pub const EMPTY: &'static Object<'static> = &Object(Vec::new());

    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The value under `key`, unless it is `null`.
    pub fn present(&self, key: &str) -> Option<&Value<'a>> {
        self.get(key).filter(|value| !value.is_null())
    }

    /// The string under `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// The object under `key`.
    pub fn object(&self, key: &str) -> Option<&Object<'a>> {
        self.get(key)?.as_object()
    }

    /// As [`Value::canonical`].
    pub fn canonical(&self, bytes: &mut Vec<u8>) {
        let mut fields: Vec<&(Cow<'a, str>, Value<'a>)> = self.0.iter().collect();
        // Any order will do that is always the same: lengths decide most pairs at once.
        fields.sort_unstable_by(|(a, _), (b, _)| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
        bytes.push(b'o');
        canonical_length(fields.len(), bytes);
        for (key, value) in fields {
            canonical_text(key, bytes);
            value.canonical(bytes);
        }
    }

    /// All fields.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value))
    }
}

impl<'a> Value<'a> {
    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The string it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer it is.
    pub fn as_integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    /// The array it is.
    pub fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The object it is.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Appends the value in one spelling, whatever its text was. Equal values append equal bytes, and different ones
    /// different, so a digest of them is the value's identity.
    ///
    /// Each value is a byte for its kind and then its content: a number's eight bytes, a text or a list after its
    /// length, an object's fields in one order.
    pub fn canonical(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Null => bytes.push(b'z'),
            Self::Bool(value) => bytes.push(if *value { b't' } else { b'f' }),
            Self::Integer(number) => {
                bytes.push(b'i');
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Self::Unsigned(number) => {
                bytes.push(b'u');
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Self::Float(number) => {
                bytes.push(b'd');
                bytes.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Self::String(text) => {
                bytes.push(b's');
                canonical_text(text, bytes);
            }
            Self::Array(items) => {
                bytes.push(b'a');
                canonical_length(items.len(), bytes);
                items.iter().for_each(|item| item.canonical(bytes));
            }
            Self::Object(object) => object.canonical(bytes),
        }
    }
}

fn canonical_text(text: &str, bytes: &mut Vec<u8>) {
    canonical_length(text.len(), bytes);
    bytes.extend_from_slice(text.as_bytes());
}

fn canonical_length(length: usize, bytes: &mut Vec<u8>) {
    // A JSON text has at most a few MiB.
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

/// Why a text is not the JSON that is asked for, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads one value, which must be the whole of `bytes`.
///
/// ```
/// use shared::json;
/// assert!(json::parse(br#"{"a":1}"#).is_ok());
/// assert!(json::parse(br#"{"a":1,"a":2}"#).unwrap_err().to_string().contains("twice"));
/// ```
///
/// # Errors
/// Says what is wrong and where.
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, Malformed> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| Malformed(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
    serde_json::from_str(text).map_err(|error| Malformed(error.to_string()))
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value<'de>, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value<'de>, A::Error> {
        // A row has about a dozen columns.
        let mut object: Vec<(Cow<'de, str>, Value<'de>)> = Vec::with_capacity(16);
        // Small objects are searched, large ones hashed: a hostile body must not cost the square of its size.
        const SEARCHED: usize = 32;
        let mut seen = HashSet::new();
        while let Some(Key(key)) = fields.next_key()? {
            let twice = if object.len() < SEARCHED {
                object.iter().any(|(name, _)| *name == key)
            } else {
                if seen.is_empty() {
                    seen.extend(object.iter().map(|(name, _)| name.clone()));
                }
                !seen.insert(key.clone())
            };
            if twice {
                return Err(de::Error::custom(format_args!("the key `{key}` stands twice")));
            }
            object.push((key, fields.next_value()?));
        }
        Ok(Value::Object(Object(object)))
    }
}

/// A key, borrowed where it can be (`Cow` by itself always owns).
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }
            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(number) => serializer.serialize_i64(*number),
            Self::Unsigned(number) => serializer.serialize_u64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => {
                let mut array = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    array.serialize_element(item)?;
                }
                array.end()
            }
            Self::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.0.len()))?;
                for (key, value) in object.iter() {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        parse(text.as_bytes()).unwrap().canonical(&mut bytes);
        bytes
    }

    #[test]
    fn a_key_that_stands_twice_is_a_fault_in_small_and_large_objects() {
        for others in [0, 31, 32, 33, 500] {
            let mut fields: Vec<String> = (0..others).map(|n| format!("\"k{n}\":{n}")).collect();
            fields.insert(0, "\"id\":1".into());
            assert!(parse(format!("{{{}}}", fields.join(",")).as_bytes()).is_ok());
            fields.push("\"\\u0069d\":2".into());
            let error = parse(format!("{{{}}}", fields.join(",")).as_bytes()).unwrap_err();
            assert!(error.to_string().contains("`id` stands twice"), "{others}: {error}");
        }
    }

    #[test]
    fn what_is_not_json_is_said_with_its_place() {
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        for (text, says) in [
            (&b"{"[..], "line 1"),
            (b"\"\xff\"", "not UTF-8 at byte 1"),
            (deep.as_bytes(), "recursion limit"),
            (b"1e999", "out of range"),
            (b"{} x", "trailing"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_number_too_long_for_an_integer_is_no_integer() {
        assert_eq!(parse(b"18446744073709551615").unwrap(), Value::Unsigned(u64::MAX));
        assert_eq!(parse(b"9223372036854775807").unwrap(), Value::Integer(i64::MAX));
        assert!(matches!(parse(b"123456789012345678901234567890").unwrap(), Value::Float(_)));
    }

    #[test]
    fn canonical_bytes_do_not_depend_on_order_or_space() {
        assert_eq!(canonical(r#"{"a":1,"b":[true,null]}"#), canonical(r#"{ "b" : [true, null], "a":1}"#));
        assert_ne!(canonical(r#"{"a":"1"}"#), canonical(r#"{"a":1}"#));
        assert_ne!(canonical(r#"["a","b"]"#), canonical(r#"["ab"]"#));
        assert_ne!(canonical(r#"[["a"],"b"]"#), canonical(r#"[["a","b"]]"#));
        assert_ne!(canonical(r#"{"a":"bc"}"#), canonical(r#"{"ab":"c"}"#));
        assert_ne!(canonical("0"), canonical("0.0"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_read_is_written_back(text in r#"(\[|\{"a":)?("[a-z\\u]{0,4}"|[0-9]{1,5}|null|true)(\]|\})?"#) {
            if let Ok(value) = parse(text.as_bytes()) {
                let again = serde_json::to_vec(&value).unwrap();
                prop_assert_eq!(parse(&again).unwrap(), value);
            }
        }
    }
}
