//! HTTP in, domain call, HTTP out.

use std::{convert::Infallible, sync::OnceLock};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
use futures::FutureExt;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Serialize;
use shared::{
    auth::Role,
    http::{JSON_LIMIT, read_whole},
    json::Value,
    log::EntryPath,
    ndjson::{self, Lines},
    problem::{Fault, Problem},
};

use crate::{
    config::{Config, config, tokens},
    format::{Answer, Formatted, Outcome},
    input::{self, Input, Place},
    intake::{self, Budget, VERSION},
};

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let routes = Router::new().route("/push/format", post(format)).route("/push/events", post(events));
        shared::http::router("/push", "push", VERSION, routes)
    })
}

/// What is done with an event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Its messages are shown.
    Format,
    /// They are delivered.
    Deliver,
}

async fn format(request: Request) -> Result<Response, Problem> {
    answer(Action::Format, request).await
}

async fn events(request: Request) -> Result<Response, Problem> {
    answer(Action::Deliver, request).await
}

async fn answer(action: Action, request: Request) -> Result<Response, Problem> {
    // The request whole: axum's `HeaderMap` would copy every header.
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    tokens().await?.require(Role::Service, headers)?;
    let mut call =
        Call { action, config: config().await?, budget: Budget::patient(), faults: Vec::new(), readable: false };
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if ndjson::is_ndjson(content_type) {
        return call.stream(Lines::new(body)).await;
    }
    let bytes = read_whole(body, JSON_LIMIT).await?;
    let mut results = Vec::with_capacity(1024);
    results.extend_from_slice(b"{\"results\":[");
    match input::read(&bytes) {
        Ok(Input::One(event)) => call.take(Ok(&event), Place::Whole, b",", &mut results).await,
        Ok(Input::Many(events)) => {
            for (index, event) in events.iter().enumerate() {
                call.take(Ok(event), Place::Index(index), b",", &mut results).await;
            }
        }
        Ok(Input::Lines) => return call.stream(Lines::new(Body::from(bytes))).await,
        Err(fault) => return Err(Problem::bad_input("the body is no event").with(fault)),
    }
    call.require_readable()?;
    results.pop_if(|last| *last == b',');
    results.extend_from_slice(b"]}");
    Ok((call.status(), json_type("application/json"), results).into_response())
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
    action: Action,
    config: &'static Config,
    budget: Budget,
    /// Of the events that cannot be read, while none was readable.
    faults: Vec<Fault>,
    /// Whether an event was.
    readable: bool,
}

/// With so many unreadable lines at its start, a stream is answered line by line all the same.
const FAULTS_MAX: usize = 1000;

impl Call {
    fn status(&self) -> StatusCode {
        if self.action == Action::Format { StatusCode::OK } else { StatusCode::ACCEPTED }
    }

    /// Takes one event and writes its results, each followed by `end`.
    async fn take(&mut self, event: Result<&Value<'_>, Fault>, place: Place, end: &[u8], out: &mut Vec<u8>) {
        let results = self.config.formatter.results(event);
        self.note(&results, place);
        if self.action == Action::Deliver {
            for answer in intake::take(self.config, results, EntryPath::Http, &mut self.budget).await {
                write(&answer, end, out);
            }
            return;
        }
        for formatted in results {
            match Answer::of(formatted) {
                Ok((event_id, message)) => {
                    let scenario = Some(message.scenario);
                    let answer =
                        Answer { event_id, outcome: "formatted", scenario, messages: vec![message], detail: None };
                    write(&answer, end, out);
                }
                Err(answer) => write::<()>(&answer, end, out),
            }
        }
    }

    /// Keeps whether anything was readable, and the faults until something is.
    fn note(&mut self, results: &[Formatted], place: Place) {
        for formatted in results {
            match &formatted.outcome {
                Outcome::Unreadable(faults) if !self.readable && self.faults.len() < FAULTS_MAX => {
                    self.faults.extend(faults.iter().map(|fault| place.of(fault)));
                }
                Outcome::Unreadable(_) => {}
                _ => self.readable = true,
            }
        }
    }

    fn require_readable(&mut self) -> Result<(), Problem> {
        if self.readable {
            return Ok(());
        }
        if self.faults.is_empty() {
            self.faults.push(Fault::at("", "has no event"));
        }
        Err(Problem::bad_input("the body has no readable event").with_all(std::mem::take(&mut self.faults)))
    }

    /// Takes lines as they come and answers each by lines of its own.
    ///
    /// The status is held back until the first readable event, so that a body without one is 400.
    async fn stream(mut self, mut lines: Lines) -> Result<Response, Problem> {
        let mut head = Vec::new();
        while !self.readable && self.faults.len() < FAULTS_MAX {
            match lines.next().await? {
                Some(batch) => self.take_lines(&batch, &mut head).await,
                None => self.require_readable().map(|()| self.readable = true)?,
            }
        }
        self.readable = true;
        self.faults = Vec::new();
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
                match next {
                    Ok(Some(batch)) => call.take_lines(&batch, &mut out).await,
                    Ok(None) if out.is_empty() => return None,
                    Ok(None) => return Some((frame(out), (call, None, Vec::new()))),
                    Err(_) => {
                        call.take(Err(Fault::at("", "the body ended early")), Place::Whole, b"\n", &mut out).await;
                        return Some((frame(out), (call, None, Vec::new())));
                    }
                }
            }
        });
        Ok((status, json_type(ndjson::MEDIA_TYPE), Body::new(StreamBody::new(rest))).into_response())
    }

    async fn take_lines(&mut self, batch: &[ndjson::Line], out: &mut Vec<u8>) {
        for line in batch {
            let place = Place::Line(line.number);
            match input::read_line(line) {
                Ok(events) => {
                    for event in &events {
                        self.take(Ok(event), place, b"\n", out).await;
                    }
                }
                Err(fault) => self.take(Err(fault), place, b"\n", out).await,
            }
        }
    }
}

fn write<M: Serialize>(answer: &Answer<M>, end: &[u8], out: &mut Vec<u8>) {
    // Writing into memory does not fail, and every key is a string.
    if serde_json::to_writer(&mut *out, answer).is_ok() {
        out.extend_from_slice(end);
    }
}
