//! A JSON object read field by field, every fault of it named together, unknown fields among them.

use std::ops::RangeInclusive;

use crate::{
    clock,
    id::Id,
    json::{Object, Value},
    problem::{Fault, Problem, escaped},
};

/// An object that is being read.
#[derive(Debug)]
pub struct Fields<'a> {
    object: Option<&'a Object<'a>>,
    /// The object's own pointer.
    base: String,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which stands at the pointer `base`.
    pub fn of(value: &'a Value<'a>, base: impl Into<String>) -> Self {
        let base = base.into();
        let object = value.as_object();
        let faults = match object {
            Some(_) => Vec::new(),
            None => vec![Fault::at(base.clone(), "must be an object")],
        };
        Self { object, base, known: Vec::new(), faults }
    }

    /// The value under `name`, read by `parse`; a fault if it is there and `must` does not hold.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        must: &str,
        parse: impl FnOnce(&'a Value<'a>) -> Option<T>,
    ) -> Option<T> {
        self.known.push(name);
        let parsed = parse(self.object?.present(name)?);
        if parsed.is_none() {
            self.fault(name, must);
        }
        parsed
    }

    /// Likewise; a fault also if it is not there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        must: &str,
        parse: impl FnOnce(&'a Value<'a>) -> Option<T>,
    ) -> Option<T> {
        if self.object.is_some_and(|object| object.present(name).is_none()) {
            self.known.push(name);
            self.fault(name, "is missing");
            return None;
        }
        self.optional(name, must, parse)
    }

    /// An id, `[A-Za-z0-9._:-]{1,64}`, as a string or an integer.
    pub fn id(&mut self, name: &'static str) -> Option<Id> {
        self.required(name, ID, Id::from_json)
    }

    /// An id that may be left out.
    pub fn optional_id(&mut self, name: &'static str) -> Option<Id> {
        self.optional(name, ID, Id::from_json)
    }

    /// An RFC 3339 time with offset, as Unix ms.
    pub fn instant(&mut self, name: &'static str) -> Option<i64> {
        self.required(name, INSTANT, instant)
    }

    /// A time that may be left out.
    pub fn optional_instant(&mut self, name: &'static str) -> Option<i64> {
        self.optional(name, INSTANT, instant)
    }

    /// An integer within `range`.
    pub fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        self.required(name, &must_be_in(&range), |value| value.as_integer().filter(|number| range.contains(number)))
    }

    /// An integer that may be left out.
    pub fn optional_integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        self.optional(name, &must_be_in(&range), |value| value.as_integer().filter(|number| range.contains(number)))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.required(name, FLAG, flag)
    }

    /// A flag that may be left out.
    pub fn optional_flag(&mut self, name: &'static str) -> Option<bool> {
        self.optional(name, FLAG, flag)
    }

    /// A text of 1 to `max` characters, none of them a control.
    pub fn text(&mut self, name: &'static str, max: usize) -> Option<String> {
        self.required(name, &must_have(max), |value| text(value, max))
    }

    /// A text that may be left out.
    pub fn optional_text(&mut self, name: &'static str, max: usize) -> Option<String> {
        self.optional(name, &must_have(max), |value| text(value, max))
    }

    /// An object within, read by `read`; its faults are this one's.
    pub fn object<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'a>) -> T) -> Option<T> {
        let value = self.required(name, "", Some)?;
        Some(self.within(name, value, read))
    }

    /// An object that may be left out.
    pub fn optional_object<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Fields<'a>) -> T) -> Option<T> {
        let value = self.optional(name, "", Some)?;
        Some(self.within(name, value, read))
    }

    fn within<T>(&mut self, name: &str, value: &'a Value<'a>, read: impl FnOnce(&mut Fields<'a>) -> T) -> T {
        let mut inner = Fields::of(value, format!("{}/{}", self.base, escaped(name)));
        let read = read(&mut inner);
        self.faults.extend(inner.faults());
        read
    }

    /// Adds a fault of the field `name`.
    pub fn fault(&mut self, name: &str, detail: impl Into<String>) {
        self.faults.push(Fault::at(format!("{}/{}", self.base, escaped(name)), detail));
    }

    /// Every fault, those of fields that nobody asked for among them.
    pub fn faults(mut self) -> Vec<Fault> {
        let unknown = self.object.into_iter().flat_map(Object::iter).map(|(name, _)| name);
        let unknown: Vec<_> = unknown.filter(|name| !self.known.contains(name)).collect();
        for name in unknown {
            let known = self.known.join(", ");
            self.fault(name, format!("is unknown; known: {known}"));
        }
        self.faults
    }

    /// `read`, if there is no fault.
    ///
    /// # Errors
    /// Every fault.
    pub fn finish<T>(self, read: Option<T>) -> Result<T, Vec<Fault>> {
        let base = self.base.clone();
        let faults = self.faults();
        match read {
            Some(read) if faults.is_empty() => Ok(read),
            _ if faults.is_empty() => Err(vec![Fault::at(base, "is not acceptable")]),
            _ => Err(faults),
        }
    }
}

/// 400 with these faults of the body.
pub fn unacceptable(faults: Vec<Fault>) -> Problem {
    Problem::bad_input("the body is not acceptable").with_all(faults)
}

const ID: &str = "must be an id, [A-Za-z0-9._:-]{1,64}";
const INSTANT: &str = "must be an RFC 3339 time with offset";
const FLAG: &str = "must be true or false";

fn instant(value: &Value<'_>) -> Option<i64> {
    clock::parse_rfc3339(value.as_str()?)
}

fn flag(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        _ => None,
    }
}

fn text(value: &Value<'_>, max: usize) -> Option<String> {
    let text = value.as_str()?.trim();
    let fits = (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn must_be_in(range: &RangeInclusive<i64>) -> String {
    format!("must be an integer from {} to {}", range.start(), range.end())
}

fn must_have(max: usize) -> String {
    format!("must be a text of 1 to {max} characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn every_fault_is_named_with_its_place() {
        let value = json::parse(br#"{"a":"b c","n":7,"inner":{"flag":1,"x":2},"who":1}"#).unwrap();
        let mut fields = Fields::of(&value, "/0");
        assert_eq!(fields.id("a"), None);
        assert_eq!(fields.integer("n", 0..=5), None);
        assert_eq!(fields.instant("at"), None);
        assert_eq!(fields.optional_text("text", 5), None);
        fields.object("inner", |inner| inner.flag("flag"));
        let faults = fields.finish(Some(())).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/0/a", "/0/n", "/0/at", "/0/inner/flag", "/0/inner/x", "/0/who"]);
    }

    #[test]
    fn what_is_no_object_is_one_fault() {
        let value = json::parse(b"[1]").unwrap();
        let mut fields = Fields::of(&value, "");
        fields.id("a");
        assert_eq!(fields.faults(), [Fault::at("", "must be an object")]);
    }
}
