//! An input as a whole: one event, an array of events, or an event a line, told apart by shape. Every entry path reads
//! its input here.

use shared::{
    json::{self, Value},
    ndjson::{LINE_LIMIT, Line},
    problem::Fault,
};

/// A whole input.
pub(crate) enum Input<'a> {
    /// One event.
    One(Value<'a>),
    /// An array's events.
    Many(Vec<Value<'a>>),
    /// An event a line.
    Lines,
}

/// The most events of an array: more come as lines, which are answered as they come.
pub(crate) const EVENTS_MAX: usize = 10_000;

/// Where an event stands in its input.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// It is the input.
    Whole,
    /// In the array, counted from 0.
    Index(usize),
    /// In the lines, counted from 1.
    Line(u64),
}

impl Place {
    /// A fault of the event as a fault of the input. A line has the pointer that it would have in an array.
    pub(crate) fn of(self, fault: &Fault) -> Fault {
        let at = match self {
            Self::Whole => return fault.clone(),
            Self::Index(index) => format!("/{index}"),
            Self::Line(number) => format!("/{}", number.saturating_sub(1)),
        };
        Fault::at(at + &fault.pointer, fault.detail.clone())
    }
}

/// Tells one event, an array and lines apart.
///
/// # Errors
/// What is wrong with a text that is none of the three.
pub(crate) fn read(bytes: &[u8]) -> Result<Input<'_>, Fault> {
    match json::parse(bytes) {
        Ok(Value::Array(events)) if events.is_empty() => Err(Fault::at("", "has no event")),
        Ok(Value::Array(events)) if events.len() > EVENTS_MAX => {
            Err(Fault::at("", format!("an array may have {EVENTS_MAX} events; send them as NDJSON")))
        }
        Ok(Value::Array(events)) => Ok(Input::Many(events)),
        Ok(event) => Ok(Input::One(event)),
        Err(error) => {
            // Several lines of which the first is a whole value are lines, whatever the others are.
            let mut parts = bytes.trim_ascii_start().splitn(2, |&byte| byte == b'\n');
            let first = parts.next().is_some_and(|line| json::parse(line).is_ok());
            let more = parts.next().is_some_and(|rest| !rest.trim_ascii().is_empty());
            if first && more { Ok(Input::Lines) } else { Err(Fault::at("", format!("not JSON: {error}"))) }
        }
    }
}

/// As [`read`], where nobody can be asked to send the input again: what is no JSON as a whole is lines also if the first
/// is none, as long as another is an object.
///
/// # Errors
/// As [`read`].
pub(crate) fn salvage(bytes: &[u8]) -> Result<Input<'_>, Fault> {
    let fault = match read(bytes) {
        Err(fault) => fault,
        input => return input,
    };
    let mut lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let several = lines.clone().nth(1).is_some();
    let is_object = |line: &[u8]| line.trim_ascii_start().starts_with(b"{") && json::parse(line).is_ok();
    if several && json::parse(bytes).is_err() && lines.any(is_object) { Ok(Input::Lines) } else { Err(fault) }
}

/// The events of one line, which may hold an array as well.
///
/// # Errors
/// What is wrong with the line.
pub(crate) fn read_line(line: &Line) -> Result<Vec<Value<'_>>, Fault> {
    let fault = |detail: String| Fault::at("", format!("line {}: {detail}", line.number));
    let Some(bytes) = &line.bytes else {
        return Err(fault(format!("may have {LINE_LIMIT} bytes")));
    };
    match json::parse(bytes) {
        Ok(Value::Array(events)) => Ok(events),
        Ok(event) => Ok(vec![event]),
        Err(error) => Err(fault(format!("not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> String {
        shape_of(read(text.as_bytes()))
    }

    fn shape_of(input: Result<Input<'_>, Fault>) -> String {
        match input {
            Ok(Input::One(_)) => "one".into(),
            Ok(Input::Many(events)) => format!("many {}", events.len()),
            Ok(Input::Lines) => "lines".into(),
            Err(fault) => fault.detail,
        }
    }

    #[test]
    fn an_input_is_told_by_its_shape() {
        assert_eq!(shape("{\n \"a\": 1\n}\n"), "one");
        assert_eq!(shape("[{},\n{}]"), "many 2");
        assert_eq!(shape("{}\n{}"), "lines");
        assert_eq!(shape("\n{}\nnonsense"), "lines");
        assert_eq!(shape("[]"), "has no event");
        assert_eq!(shape(&format!("[{}0]", "0,".repeat(9_999))), "many 10000");
        assert!(shape(&format!("[{}0]", "0,".repeat(10_000))).contains("NDJSON"));
        assert!(shape("{\"a\":\n").starts_with("not JSON"));
        assert!(shape("").starts_with("not JSON"));
    }

    #[test]
    fn a_bad_first_line_is_no_reason_to_lose_the_others() {
        let shape = |text: &str| shape_of(salvage(text.as_bytes()));
        assert_eq!(shape("nonsense\n{}"), "lines");
        assert_eq!(shape("\n{\"a\":\n\n {} \n"), "lines");
        assert_eq!(shape("{}\nnonsense"), "lines");
        assert_eq!(shape("{\n \"a\": 1\n}\n"), "one");
        assert_eq!(shape("[{},\n{}]"), "many 2");
        assert_eq!(shape("[\n]"), "has no event");
        assert!(shape(&format!("[\n{{}}\n{}]", ",0".repeat(10_000))).contains("NDJSON"));
        for text in ["nonsense\n1", "nonsense", "nonsense {}\n", "{\"a\":\n1\n"] {
            assert!(shape(text).starts_with("not JSON"), "{text}");
        }
    }

    #[test]
    fn a_fault_is_placed_in_the_input() {
        let fault = Fault::at("/from", "is missing");
        let pointer = |place: Place| place.of(&fault).pointer;
        assert_eq!(pointer(Place::Whole), "/from");
        assert_eq!(pointer(Place::Index(2)), "/2/from");
        assert_eq!(pointer(Place::Line(3)), "/2/from");
    }
}
