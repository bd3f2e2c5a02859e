//! The events that nobody could act on: read them, and say what they meant.

use axum::{Json, extract::Path, extract::Request};
use serde::{Deserialize, Serialize};
use shared::{
    auth::Role,
    clock,
    http::{JSON_LIMIT, read_whole},
    json,
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
};

use super::{allowed, events::SPEND_MS, intake, not_found};
use crate::{
    config::db,
    format::{Answer, Formatted, Outcome},
    intake::{Batch, Delivered},
    store::{self, Entry, Filter, Whole},
};

pub(super) async fn list(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let outcome = |text: &str| ["ambiguous", "rejected"].into_iter().find(|outcome| *outcome == text);
    let filter = Filter {
        outcome: query.parsed("outcome", "must be ambiguous or rejected", outcome),
        order_id: query.text("order_id"),
        resolved: query.parsed("resolved", "must be true or false", |text| text.parse().ok()),
        cursor: None,
    };
    let (cursor, limit) = query.page();
    query.finish()?;
    let events = store::list(db().await?, &Filter { cursor, ..filter }, limit + 1).await?;
    Ok(Json(Page::of(events, limit, |event| event.seq)))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<Whole>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    store::get(db().await?, &id).await?.map(Json).ok_or_else(|| not_found("event", &id))
}

/// What an operator says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Meaning {
    /// The operation that the event's rows are read with; without it, as they are.
    #[serde(default)]
    operation: Option<String>,
}

/// What the event became.
#[derive(Serialize)]
pub(super) struct Resolved {
    results: Vec<Answer<Delivered>>,
}

pub(super) async fn resolve(Path(id): Path<String>, request: Request) -> Result<Json<Resolved>, Problem> {
    let config = allowed(Role::Admin, request.headers()).await?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let meaning = meaning(&body)?;
    let db = db().await?;
    let kept = store::get(db, &id).await?.ok_or_else(|| not_found("event", &id))?;
    // As a row's would be read: by the names that the mapping knows.
    let operation = meaning.operation.as_deref().map(|name| config.formatter.mapping.operation_named(name));
    let operation = operation.as_deref();
    // The claim is told apart from `no operation` by a text that no operation is.
    if !store::claim(db, &id, operation.unwrap_or_default()).await? {
        let taken = store::get(db, &id).await?.and_then(|kept| kept.entry.operation).unwrap_or_default();
        let taken = if taken.is_empty() { "without one".to_owned() } else { format!("with `{taken}`") };
        let detail = format!("the event is being resolved, or was, with another operation: {taken}");
        return Err(Problem::new(Kind::WrongState, detail));
    }
    let unclaimed = async |problem: Problem| match store::disclaim(db, &id, operation.unwrap_or_default()).await {
        Ok(()) => problem,
        Err(error) => error.into(),
    };
    let event = match json::parse(kept.text.as_bytes()) {
        Ok(event) => event,
        Err(error) => {
            let problem = Problem::bad_input("the event cannot be resolved").with(Fault::at("", error.to_string()));
            return Err(unclaimed(problem).await);
        }
    };
    let results = config.formatter.format_kept(&event, &id, operation);
    if results.is_empty() {
        let why = "the event has no row with this id any more; publish it again";
        let problem = Problem::bad_input("the event cannot be resolved").with(Fault::at("", why));
        return Err(unclaimed(problem).await);
    }
    if let Some(why) = results.iter().find_map(still_unclear) {
        let problem = Problem::bad_input("the event still cannot be acted on").with(Fault::at("/operation", why));
        return Err(unclaimed(problem).await);
    }
    let scenario = results.iter().find_map(|formatted| match &formatted.outcome {
        Outcome::Formatted(message) => Some(message.scenario),
        _ => None,
    });
    let mut batch = Batch::default();
    batch.add(results, String::new);
    let intake = intake(config).await?;
    intake.commit(&batch).await?;
    store::resolve(db, &id, scenario, clock::now_ms()).await?;
    // What cannot be delivered now is in the outbox.
    let _ = intake.deliver(&batch.ids(), clock::now_ms() + SPEND_MS).await;
    Ok(Json(Resolved { results: intake.answers(batch).await? }))
}

/// The body: an object, or nothing.
fn meaning(body: &[u8]) -> Result<Meaning, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(Meaning { operation: None });
    }
    let meaning: Meaning = serde_json::from_slice(body).map_err(|error| {
        let detail = format!("must be {{\"operation\": \"…\"}}: {error}");
        Problem::bad_input("the body is not acceptable").with(Fault::at("", detail))
    })?;
    if meaning.operation.as_deref().is_some_and(|operation| operation.trim().is_empty()) {
        let fault = Fault::at("/operation", "must not be empty");
        return Err(Problem::bad_input("the body is not acceptable").with(fault));
    }
    Ok(meaning)
}

/// Why a result still needs somebody.
fn still_unclear(formatted: &Formatted) -> Option<String> {
    match &formatted.outcome {
        Outcome::Formatted(_) | Outcome::Ignored(_) => None,
        Outcome::Ambiguous(why) | Outcome::Rejected(why) => Some(why.clone()),
        Outcome::Unreadable(_) => formatted.unreadable_because(),
    }
}
