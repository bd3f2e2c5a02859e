//! HTTP in, domain call, HTTP out.

use std::sync::OnceLock;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::Bytes;
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
    intake::{self, Budget, Input, VERSION, read, read_line},
};

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        shared::http::router("/push", "push", VERSION)
            .route("/push/format", post(format))
            .route("/push/events", post(events))
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

async fn format(headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    answer(Action::Format, &headers, body).await
}

async fn events(headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    answer(Action::Deliver, &headers, body).await
}

async fn answer(action: Action, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    tokens().await?.require(Role::Service, headers)?;
    let mut call =
        Call { action, config: config().await?, budget: Budget::patient(), faults: Vec::new(), readable: false };
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if ndjson::is_ndjson(content_type) {
        return call.stream(Lines::new(body)).await;
    }
    let bytes = read_whole(body, JSON_LIMIT).await?;
    let events = match read(&bytes) {
        Ok(Input::Values(events)) => events,
        Ok(Input::Lines) => return call.stream(Lines::new(Body::from(bytes))).await,
        Err(fault) => return Err(Problem::bad_input("the body is no event").with(fault)),
    };
    let mut results = b"{\"results\":[".to_vec();
    for (index, event) in events.iter().enumerate() {
        // A lone event's faults are pointed at in the body itself.
        let at = if bytes.trim_ascii_start().starts_with(b"[") { format!("/{index}") } else { String::new() };
        call.take(Ok(event), &at, b",", &mut results).await;
    }
    call.require_readable()?;
    results.pop_if(|last| *last == b',');
    results.extend_from_slice(b"]}");
    Ok((call.status(), json_type("application/json"), results).into_response())
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
    async fn take(&mut self, event: Result<&Value<'_>, Fault>, at: &str, end: &[u8], out: &mut Vec<u8>) {
        let event = event.map_err(|fault| vec![fault]);
        if self.action == Action::Deliver {
            if let Ok(event) = event {
                // Readable or not is the formatter's to say; it has no effects.
                let results = self.config.formatter.format(event);
                self.note(&results, at);
            } else if let Err(faults) = &event {
                self.note_faults(faults, at);
            }
            for answer in intake::take(self.config, event, EntryPath::Http, &mut self.budget).await {
                write(&answer, end, out);
            }
            return;
        }
        let results = match event {
            Ok(event) => self.config.formatter.format(event),
            Err(faults) => vec![Formatted::unreadable(faults)],
        };
        self.note(&results, at);
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

    fn note(&mut self, results: &[Formatted], at: &str) {
        for formatted in results {
            match &formatted.outcome {
                Outcome::Unreadable(faults) => self.note_faults(faults, at),
                _ => self.readable = true,
            }
        }
    }

    fn note_faults(&mut self, faults: &[Fault], at: &str) {
        if !self.readable && self.faults.len() < FAULTS_MAX {
            let placed = |fault: &Fault| Fault::at(format!("{at}{}", fault.pointer), fault.detail.clone());
            self.faults.extend(faults.iter().map(placed));
        }
    }

    fn require_readable(&mut self) -> Result<(), Problem> {
        if self.readable {
            return Ok(());
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
        let rest = futures::stream::unfold((self, Some(lines), head), async |(mut call, lines, head)| {
            if !head.is_empty() {
                return Some((
                    Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(head))),
                    (call, lines, Vec::new()),
                ));
            }
            let mut lines = lines?;
            let mut out = Vec::new();
            let next = match lines.next().await {
                Ok(Some(batch)) => {
                    call.take_lines(&batch, &mut out).await;
                    Some(lines)
                }
                Ok(None) => return None,
                Err(_) => {
                    let broken = Fault::at("", "the body ended early");
                    call.take(Err(broken), "", b"\n", &mut out).await;
                    None
                }
            };
            Some((Ok(Frame::data(Bytes::from(out))), (call, next, Vec::new())))
        });
        Ok((status, json_type(ndjson::MEDIA_TYPE), Body::new(StreamBody::new(rest))).into_response())
    }

    async fn take_lines(&mut self, batch: &[ndjson::Line], out: &mut Vec<u8>) {
        for line in batch {
            match read_line(line) {
                // A line may hold an array as well.
                Ok(Value::Array(events)) => {
                    for event in &events {
                        self.take(Ok(event), "", b"\n", out).await;
                    }
                }
                Ok(event) => self.take(Ok(&event), "", b"\n", out).await,
                Err(fault) => self.take(Err(fault), "", b"\n", out).await,
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
