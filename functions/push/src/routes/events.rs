//! Events in: shown as messages, or committed and delivered.

use std::convert::Infallible;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::FutureExt;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    gateway::Deliveries,
    http::{JSON_LIMIT, read_whole},
    json::Value,
    ndjson::{self, Lines},
    problem::{Fault, Problem},
};

use super::{allowed, intake};
use crate::{
    config::Config,
    format::{Answer, Formatted, Outcome},
    input::{self, Input, Place},
    intake::{Batches, Intake, written},
};

/// What a call may spend on delivering; what it leaves is delivered later.
pub(super) const SPEND_MS: i64 = 10_000;

/// Shows the messages of events.
pub(super) async fn format(request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let config = allowed(Role::Service, &head.headers).await?;
    Call::new(config, None).answer(&head.headers, body).await
}

/// Commits events and delivers their messages.
pub(super) async fn events(request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let config = allowed(Role::Service, &head.headers).await?;
    Call::new(config, Some(intake(config).await?)).answer(&head.headers, body).await
}

/// The most bytes of a streamed answer that are gathered before they are sent. A piece below a network segment's
/// size waits for the peer's acknowledgement of the piece before.
const CHUNK: usize = 64 * 1024;

fn frame(bytes: Vec<u8>) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(Bytes::from(bytes)))
}

fn json_type(name: &'static str) -> [(header::HeaderName, HeaderValue); 1] {
    [(header::CONTENT_TYPE, HeaderValue::from_static(name))]
}

/// One call of a route.
struct Call {
    config: &'static Config,
    /// Where events are committed; `None` where they are only shown.
    intake: Option<Intake<'static, Deliveries<'static>>>,
    /// Not committed yet: nothing is, before the first readable event.
    batches: Batches,
    /// When its time for delivering is over, once it has begun to.
    until_ms: Option<i64>,
    /// Of the events that cannot be read, while none was readable.
    faults: Faults,
    /// Whether an event was.
    readable: bool,
}

/// The most faults that an answer names. With so many at its start, a stream is answered line by line all the same.
const FAULTS_MAX: usize = 1000;

/// The faults of a body, of which the first are named and the others counted.
#[derive(Default)]
struct Faults {
    named: Vec<Fault>,
    more: usize,
}

impl Faults {
    fn add(&mut self, faults: &[Fault], place: Place) {
        let room = FAULTS_MAX - self.named.len();
        self.named.extend(faults.iter().take(room).map(|fault| place.of(fault)));
        self.more += faults.len().saturating_sub(room);
    }

    /// All of them, as an answer lists them.
    fn listed(mut self) -> Vec<Fault> {
        if self.named.is_empty() {
            self.named.push(Fault::at("", "has no event"));
        }
        if self.more > 0 {
            let detail = format!("and {} more: only the first {FAULTS_MAX} faults are named", self.more);
            self.named.push(Fault::at("", detail));
        }
        self.named
    }
}

impl Call {
    fn new(config: &'static Config, intake: Option<Intake<'static, Deliveries<'static>>>) -> Self {
        Self { config, intake, batches: Batches::default(), until_ms: None, faults: Faults::default(), readable: false }
    }

    async fn answer(mut self, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if ndjson::is_ndjson(content_type.unwrap_or_default()) {
            return self.stream(Lines::new(body)).await;
        }
        let bytes = read_whole(body, JSON_LIMIT).await?;
        let mut results = Vec::with_capacity(1024);
        results.extend_from_slice(b"{\"results\":[");
        match input::read(&bytes) {
            Ok(Input::One(event)) => self.take(&event, Place::Whole, b",", &mut results),
            Ok(Input::Many(events)) => {
                for (index, event) in events.iter().enumerate() {
                    self.take(event, Place::Index(index), b",", &mut results);
                }
            }
            Ok(Input::Lines) => return self.stream(Lines::new(Body::from(bytes))).await,
            Err(fault) => return Err(Problem::bad_input("the body is no event").with(fault)),
        }
        self.require_readable()?;
        self.commit(b",", &mut results).await?;
        results.pop_if(|last| *last == b',');
        results.extend_from_slice(b"]}");
        Ok((self.status(), json_type("application/json"), results).into_response())
    }

    fn status(&self) -> StatusCode {
        if self.intake.is_none() { StatusCode::OK } else { StatusCode::ACCEPTED }
    }

    /// Takes one event: shows its results, each followed by `end`, or adds them to what is committed next.
    fn take(&mut self, event: &Value<'_>, place: Place, end: &[u8], out: &mut Vec<u8>) {
        let results = self.config.formatter.format(event);
        self.note(&results, place);
        if self.intake.is_some() {
            self.batches.next().add(results, || written(event));
        } else {
            show(results, end, out);
        }
    }

    /// Takes what could not be read as an event, whose text this is.
    fn take_unreadable(&mut self, fault: Fault, text: &[u8], place: Place, end: &[u8], out: &mut Vec<u8>) {
        let results = vec![Formatted::unreadable(vec![fault.clone()])];
        self.note(&results, place);
        if self.intake.is_some() {
            self.batches.next().add_unreadable(fault, text);
        } else {
            show(results, end, out);
        }
    }

    /// Commits what was taken, delivers it while there is time, and writes what became of each event.
    async fn commit(&mut self, end: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        let Some(intake) = &self.intake else { return Ok(()) };
        for batch in std::mem::take(&mut self.batches).all() {
            let committed = intake.commit(&batch).await;
            if let (Err(_), true) = (&committed, self.until_ms.is_some()) {
                // Some are answered already: these are to be sent again.
                for answer in batch.failed("the database is busy: send it again") {
                    write(&answer, end, out);
                }
                continue;
            }
            committed?;
            let until_ms = *self.until_ms.get_or_insert_with(|| clock::now_ms() + SPEND_MS);
            // What cannot be delivered now is in the outbox: it is the caller's no more.
            let _ = intake.deliver(&batch.ids(), until_ms).await;
            // It is kept, whether or not one can read now how far it is.
            let states = intake.states(&batch).await.unwrap_or_default();
            for answer in batch.answers(&states) {
                write(&answer, end, out);
            }
        }
        Ok(())
    }

    /// Keeps whether anything was readable, and the faults until something is.
    fn note(&mut self, results: &[Formatted], place: Place) {
        for formatted in results {
            match &formatted.outcome {
                Outcome::Unreadable(faults) if !self.readable => self.faults.add(faults, place),
                Outcome::Unreadable(_) => {}
                _ => self.readable = true,
            }
        }
    }

    fn require_readable(&mut self) -> Result<(), Problem> {
        if self.readable {
            return Ok(());
        }
        Err(Problem::bad_input("the body has no readable event").with_all(std::mem::take(&mut self.faults).listed()))
    }

    /// Takes lines as they come and answers each by lines of its own.
    ///
    /// The status is held back until the first readable event, so that a body without one is 400.
    async fn stream(mut self, mut lines: Lines) -> Result<Response, Problem> {
        let mut head = Vec::new();
        while !self.readable && self.faults.named.len() < FAULTS_MAX {
            match lines.next().await? {
                Some(batch) => self.take_lines(&batch, &mut head),
                None => self.require_readable().map(|()| self.readable = true)?,
            }
        }
        self.readable = true;
        self.faults = Faults::default();
        self.commit(b"\n", &mut head).await?;
        let status = self.status();
        let rest = futures::stream::unfold((self, Some(lines), head), async |(mut call, lines, mut out)| {
            let mut lines = lines?;
            loop {
                // What is there already is answered in one piece; nobody waits for more while an answer is at hand.
                let next = if out.is_empty() {
                    lines.next().await
                } else if out.len() < CHUNK
                    && let Some(next) = lines.next().now_or_never()
                {
                    next
                } else {
                    return Some((frame(out), (call, Some(lines), Vec::new())));
                };
                let more = match next {
                    Ok(Some(batch)) => {
                        call.take_lines(&batch, &mut out);
                        true
                    }
                    Ok(None) => false,
                    Err(_) => {
                        let fault = Fault::at("", "the body ended early");
                        show(vec![Formatted::unreadable(vec![fault])], b"\n", &mut out);
                        false
                    }
                };
                if let Err(problem) = call.commit(b"\n", &mut out).await {
                    show(vec![Formatted::unreadable(vec![Fault::at("", problem.detail())])], b"\n", &mut out);
                }
                match (more, out.is_empty()) {
                    (true, _) => {}
                    (false, true) => return None,
                    (false, false) => return Some((frame(out), (call, None, Vec::new()))),
                }
            }
        });
        Ok((status, json_type(ndjson::MEDIA_TYPE), Body::new(StreamBody::new(rest))).into_response())
    }

    fn take_lines(&mut self, batch: &[ndjson::Line], out: &mut Vec<u8>) {
        for line in batch {
            let place = Place::Line(line.number);
            match input::read_line(line) {
                Ok(events) => {
                    for event in &events {
                        self.take(event, place, b"\n", out);
                    }
                }
                Err(fault) => {
                    let text = line.bytes.as_deref().unwrap_or_default();
                    self.take_unreadable(fault, text, place, b"\n", out);
                }
            }
        }
    }
}

/// Writes results without effects.
fn show(results: Vec<Formatted>, end: &[u8], out: &mut Vec<u8>) {
    for formatted in results {
        match Answer::of(formatted) {
            Ok((event_id, message)) => {
                let scenario = Some(message.scenario);
                let answer = Answer { event_id, outcome: "formatted", scenario, messages: vec![message], detail: None };
                write(&answer, end, out);
            }
            Err(answer) => write::<()>(&answer, end, out),
        }
    }
}

fn write<M: Serialize>(answer: &Answer<M>, end: &[u8], out: &mut Vec<u8>) {
    // Writing into memory does not fail, and every key is a string.
    if serde_json::to_writer(&mut *out, answer).is_ok() {
        out.extend_from_slice(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_over_the_most_are_counted() {
        let listed = |events: usize| {
            let mut faults = Faults::default();
            for index in 0..events {
                faults.add(&[Fault::at("/from", "is missing"), Fault::at("/to", "is missing")], Place::Index(index));
            }
            faults.listed()
        };
        assert_eq!(listed(0)[0].detail, "has no event");
        let all = listed(500);
        assert_eq!((all.len(), all[999].pointer.as_str()), (1000, "/499/to"));
        let first = listed(502);
        assert_eq!((first.len(), &first[..1000]), (1001, &all[..]));
        assert_eq!(first[1000], Fault::at("", "and 4 more: only the first 1000 faults are named"));
    }
}
