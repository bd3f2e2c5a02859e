//! A request's query: parameters read by name, every fault of them named together.

use axum::http::Uri;
use serde::Serialize;

use crate::{
    clock,
    problem::{Fault, Problem, escaped},
};

/// Items on a page, if the caller does not say, and at most.
pub const PAGE: (usize, usize) = (50, 500);

/// A page of a list.
#[derive(Debug, Serialize)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// What to ask the next page with; `null` on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Of rows of which one more than `limit` was asked for, to know whether there are more; `place` is a row's cursor.
    pub fn of<C: ToString>(mut items: Vec<T>, limit: usize, place: impl Fn(&T) -> C) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| place(last).to_string());
        Self { items, next_cursor }
    }
}

/// The parameters of one request.
#[derive(Debug)]
pub struct Query {
    pairs: Vec<(String, String)>,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl Query {
    /// Those of `uri`.
    pub fn of(uri: &Uri) -> Self {
        let query = uri.query().unwrap_or_default().as_bytes();
        let pairs = form_urlencoded::parse(query).map(|(name, value)| (name.into_owned(), value.into_owned()));
        Self { pairs: pairs.collect(), known: Vec::new(), faults: Vec::new() }
    }

    /// The value of `name`, unless it is missing or empty.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let mut values = self.pairs.iter().filter(|(found, _)| found == name);
        let value = values.next()?.1.clone();
        if values.next().is_some() {
            self.fault(name, "stands twice");
        }
        (!value.is_empty()).then_some(value)
    }

    /// The value of `name` as `parse` reads it; what it cannot read is a fault: it `must` be something else.
    pub fn parsed<T>(&mut self, name: &'static str, must: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = parse(&self.text(name)?);
        if value.is_none() {
            self.fault(name, must);
        }
        value
    }

    /// The instant of `name`, RFC 3339 with offset, as Unix ms.
    pub fn instant(&mut self, name: &'static str) -> Option<i64> {
        // A `+` that was not escaped arrives as a space.
        let parse = |text: &str| clock::parse_rfc3339(&text.replace(' ', "+"));
        self.parsed(name, "must be an RFC 3339 time with offset", parse)
    }

    /// How many are asked for by `limit`, 1 to `max`; `default` if it does not say.
    pub fn limit(&mut self, default: usize, max: usize) -> usize {
        let parse = |text: &str| text.parse().ok().filter(|limit| (1..=max).contains(limit));
        self.parsed("limit", &format!("must be a number from 1 to {max}"), parse).unwrap_or(default)
    }

    /// The page that is asked for: the `cursor`, which is a row's number, and the `limit`.
    pub fn page(&mut self) -> (Option<i64>, usize) {
        let cursor = self.parsed("cursor", "must be a `next_cursor` of this list", |text| text.parse().ok());
        (cursor, self.limit(PAGE.0, PAGE.1))
    }

    fn fault(&mut self, name: &str, detail: &str) {
        self.faults.push(Fault::at(format!("/query/{}", escaped(name)), detail));
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// 400 with every fault, a parameter that nobody asked for among them.
    pub fn finish(mut self) -> Result<(), Problem> {
        let unknown: Vec<_> = self
            .pairs
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| !self.known.contains(&name.as_str()))
            .collect();
        for name in unknown {
            let known = if self.known.is_empty() { "none is".into() } else { self.known.join(", ") };
            self.fault(&name, &format!("is unknown; known: {known}"));
        }
        if self.faults.is_empty() {
            return Ok(());
        }
        Err(Problem::bad_input("the query is not acceptable").with_all(self.faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&format!("/x?{text}").parse().unwrap())
    }

    #[test]
    fn parameters_are_read_by_name() {
        let mut read = query("state=dead&limit=5&from=2016-12-10T17:12:46%2B08:00&empty=");
        assert_eq!(read.text("state").as_deref(), Some("dead"));
        assert_eq!(read.limit(50, 200), 5);
        assert_eq!(read.instant("from"), Some(1_481_361_166_000));
        assert_eq!(read.text("empty"), None);
        read.finish().unwrap();
        assert_eq!(query("from=2016-12-10T17:12:46+08:00").instant("from"), Some(1_481_361_166_000));
    }

    #[test]
    fn every_fault_is_named() {
        let mut read = query("limit=0&from=yesterday&a=1&a=2&b%2Fc=3");
        read.limit(50, 200);
        read.instant("from");
        read.text("a");
        let problem = read.finish().unwrap_err();
        let pointers: Vec<_> = problem.errors().iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/query/limit", "/query/from", "/query/a", "/query/b~1c"]);
    }
}
