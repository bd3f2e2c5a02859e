//! What happened: who opened an account, who earned points elsewhere, what was found false.

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Request},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    fields::{Fields, unacceptable},
    http::{JSON_LIMIT, read_whole},
    json::Value,
    log::EntryPath,
    problem::{Fault, Kind, Problem},
    query::Query,
};

use super::{activity, activity_id, allowed, deliver_soon, log as log_call, not_found, parsed, rewards};
use crate::{
    config::db,
    drain::log,
    event::{PointsEvent, Registration, one_or_many},
    rewards::{Answer, Outcome, outcome},
    store::{
        claims::{self, Claim},
        events,
    },
};

/// The answers to an array.
#[derive(Serialize)]
struct Answers {
    results: Vec<Answer>,
}

/// Events of an array that are committed together.
const TOGETHER: usize = 200;
/// The longest reason.
const REASON_MAX: usize = 200;

pub(super) async fn registrations(Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let id = activity_id(&id)?;
    let read = |value: &Value<'_>, base| Registration::read(value, base, Some(&id));
    let (events, many) = one_or_many(&parsed(&body)?, read)?;
    let rewards = rewards().await?;
    let mut answers = Vec::with_capacity(events.len());
    for events in events.chunks(TOGETHER) {
        answers.extend(rewards.register(events).await?);
    }
    deliver_soon();
    answered(answers, many, started)
}

pub(super) async fn points(Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let id = activity_id(&id)?;
    let read = |value: &Value<'_>, base| PointsEvent::read(value, base, Some(&id));
    let (events, many) = one_or_many(&parsed(&body)?, read)?;
    let rewards = rewards().await?;
    let mut answers = Vec::with_capacity(events.len());
    for events in events.chunks(TOGETHER) {
        answers.extend(rewards.earn(events).await?);
    }
    answered(answers, many, started)
}

/// One answer with its own status, or those of an array: 202 where something is held.
fn answered(mut answers: Vec<Answer>, many: bool, started: Instant) -> Result<Response, Problem> {
    for answer in &answers {
        log(answer, started, EntryPath::Http);
    }
    if answers.iter().any(|answer| answer.outcome == Outcome::UnknownActivity) {
        return Err(Problem::new(Kind::NotFound, "there is no such activity"));
    }
    let held = answers.iter().any(|answer| answer.outcome == Outcome::Held);
    let status = if held { StatusCode::ACCEPTED } else { StatusCode::OK };
    if many {
        return Ok((status, Json(Answers { results: answers })).into_response());
    }
    let Some(answer) = answers.pop() else { return Err(Problem::new(Kind::Internal, "there is no answer")) };
    if answer.outcome == Outcome::Conflict {
        let detail = answer.detail.unwrap_or_default();
        return Err(Problem::new(Kind::Conflict, detail).with(Fault::at("/event_id", "is taken")));
    }
    Ok((status, Json(answer)).into_response())
}

/// A registration as it is kept, with what came of it.
#[derive(Serialize)]
pub(super) struct Kept {
    activity_id: String,
    invitee: String,
    event_id: String,
    opened_at: String,
    new_customer: bool,
    held: bool,
    voided: bool,
    inviter: Option<String>,
    /// When they were invited, as far as somebody said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    invited_at: Option<String>,
    /// Whether it earns anything.
    due: bool,
    /// Why it does not, or why it is not paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    claim: Option<Claim>,
}

pub(super) async fn one(Path((id, invitee)): Path<(String, String)>, request: Request) -> Result<Json<Kept>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    activity(db, &id).await?;
    let row = events::of_invitee(db, &id, &invitee).await?.ok_or_else(|| not_found("registration", &invitee))?;
    let invited = events::inviter(db, &id, &invitee).await?;
    let (_, detail) = outcome(&row);
    Ok(Json(Kept {
        invited_at: invited.and_then(|invited| invited.invited_at_ms).map(clock::rfc3339),
        detail,
        claim: claims::of_invitee(db, &id, &invitee).await?,
        activity_id: id,
        invitee: row.invitee,
        event_id: row.event_id,
        opened_at: clock::rfc3339(row.opened_at_ms),
        new_customer: row.new_customer,
        held: row.held,
        voided: row.voided,
        inviter: row.inviter,
        due: row.due,
    }))
}

/// What became of a registration that was found false.
#[derive(Serialize)]
pub(super) struct Voided {
    activity_id: String,
    invitee: String,
    voided_at: String,
    reason: String,
    /// `recalled`; `over_issued` if it was activated before; `none` if there was none.
    card: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_id: Option<String>,
    /// How many points were taken back.
    points_taken_back: i64,
}

pub(super) async fn void(
    Path((id, invitee)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Voided>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let started = Instant::now();
    let (head, body) = request.into_parts();
    let mut query = Query::of(&head.uri);
    let must = format!("must be a text of 1 to {REASON_MAX} characters");
    let asked = query.parsed("reason", &must, |text| reason(text).map(str::to_owned));
    query.finish()?;
    let body = read_whole(body, JSON_LIMIT).await?;
    let given = if body.trim_ascii().is_empty() { None } else { Some(read_reason(&body)?) };
    let Some(reason) = given.or(asked) else {
        return Err(unacceptable(vec![Fault::at("/reason", "is missing")]));
    };
    let rewards = rewards().await?;
    activity(rewards.db, &id).await?;
    let voided = rewards.void(&id, &invitee, &reason).await?.ok_or_else(|| not_found("registration", &invitee))?;
    log_call("registration", &invitee, "voided", Some(&voided.reason), started);
    let card = match voided.claim.as_ref().map(|claim| claim.state.as_str()) {
        Some("recalled") => "recalled",
        Some("activated") => "over_issued",
        _ => "none",
    };
    Ok(Json(Voided {
        activity_id: id,
        invitee,
        voided_at: clock::rfc3339(voided.voided_at_ms),
        reason: voided.reason,
        card,
        claim_id: voided.claim.map(|claim| claim.id),
        points_taken_back: voided.points,
    }))
}

fn reason(text: &str) -> Option<&str> {
    let text = text.trim();
    let fits = (1..=REASON_MAX).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fits.then_some(text)
}

fn read_reason(body: &[u8]) -> Result<String, Problem> {
    let value = parsed(body)?;
    let mut fields = Fields::of(&value, "");
    let reason = fields.text("reason", REASON_MAX);
    fields.finish(reason).map_err(unacceptable)
}
