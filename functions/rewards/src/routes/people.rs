//! Who takes part, whom they invited, and how they stand.

use axum::{
    Json,
    extract::{Path, Request},
    http::StatusCode,
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    fields::unacceptable,
    http::{JSON_LIMIT, read_whole},
    id::Id,
    problem::{Kind, Problem},
    query::{PAGE, Page, Query},
};

use super::{activity, allowed, deliver_soon, not_found, parsed, rewards};
use crate::{
    activity::{Activity, Switch},
    config::db,
    event::{Invitation, Joining},
    period::Period,
    store::{
        claims::{self, Claim},
        events::{self, Invitee},
        points::{self, Entry, Rank, Scope},
    },
};

/// How many of a participant's cards and invitees are shown with them.
const SHOWN: usize = 500;

/// Somebody who joined.
#[derive(Serialize)]
pub(super) struct Joined {
    activity_id: String,
    user_id: String,
    joined_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
}

pub(super) async fn join(Path(id): Path<String>, request: Request) -> Result<(StatusCode, Json<Joined>), Problem> {
    allowed(Role::Service, request.headers()).await?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let db = db().await?;
    let activity = activity(db, &id).await?;
    activity.require(Switch::Join)?;
    let joining = Joining::read(&parsed(&body)?).map_err(unacceptable)?;
    let user_id = joining.user_id.as_str().to_owned();
    let new = events::join(db, &id, &joining, clock::now_ms()).await?;
    let there = events::participant(db, &id, &user_id).await?.ok_or_else(|| not_found("participant", &user_id))?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let joined_at = clock::rfc3339(there.joined_at_ms);
    Ok((status, Json(Joined { activity_id: id, user_id, joined_at, channel: there.channel })))
}

/// An invitation that counts.
#[derive(Serialize)]
pub(super) struct Invited {
    activity_id: String,
    inviter: String,
    invitee: String,
    invited_at: String,
}

pub(super) async fn invite(Path(id): Path<String>, request: Request) -> Result<(StatusCode, Json<Invited>), Problem> {
    allowed(Role::Service, request.headers()).await?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let rewards = rewards().await?;
    activity(rewards.db, &id).await?.require(Switch::Invite)?;
    let invitation = Invitation::read(&parsed(&body)?).map_err(unacceptable)?;
    let invitee = invitation.invitee.as_str();
    let new = events::invite(rewards.db, &id, &invitation, clock::now_ms()).await?;
    let Some(there) = events::inviter(rewards.db, &id, invitee).await? else {
        let detail = "the invitee opened the account before this invitation";
        return Err(Problem::new(Kind::WrongState, detail));
    };
    // The same one again, and whatever is due for it, should the call before have been cut off.
    if there.inviter != invitation.inviter.as_str() {
        let detail = "the invitee was invited by somebody else first";
        return Err(Problem::new(Kind::Conflict, detail));
    }
    if invitation.invited_at_ms.is_some_and(|at_ms| there.invited_at_ms.is_some_and(|kept_ms| kept_ms != at_ms)) {
        return Err(Problem::new(Kind::Conflict, "the invitation is known with another invited_at"));
    }
    rewards.grant(&id, &[invitee]).await?;
    deliver_soon();
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    let invited_at = clock::rfc3339(there.invited_at_ms.unwrap_or(there.recorded_at_ms));
    let invited = Invited { activity_id: id, inviter: there.inviter, invitee: invitee.to_owned(), invited_at };
    Ok((status, Json(invited)))
}

/// A participant and all that is theirs.
#[derive(Serialize)]
pub(super) struct Standing {
    activity_id: String,
    user_id: String,
    /// `null` for somebody who earned without joining.
    joined_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    points: i64,
    rank: Option<i64>,
    /// The newest first; `next_cursor` asks for older ones.
    entries: Vec<Entry>,
    next_cursor: Option<String>,
    /// How many they invited, and how many of those they are paid for.
    invited_count: i64,
    paid_count: i64,
    /// The first of them, by their ids; the others are a list of their own.
    invited: Vec<Invitee>,
    /// The newest of them; the others are among the claims.
    cards: Vec<Claim>,
}

pub(super) async fn one(
    Path((id, user_id)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Standing>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    query.finish()?;
    let db = db().await?;
    activity(db, &id).await?.require(Switch::Query)?;
    let participant = events::participant(db, &id, &user_id).await?;
    let up_to = points::last(db).await?;
    let scope = Scope { activity_id: &id, from_ms: 0, to_ms: i64::MAX, up_to };
    let (_, rank) = points::rank(db, scope, &user_id).await?;
    let total = points::total(db, &id, &user_id).await?;
    let entries = Page::of(points::entries(db, &id, &user_id, cursor, limit + 1).await?, limit, |entry| entry.seq);
    let (invited_count, paid_count) = events::invited(db, &id, &user_id).await?;
    let invited = events::invitees(db, &id, &user_id, "", SHOWN).await?;
    let filter =
        claims::Filter { user_id: Some(user_id.clone()), activity_id: Some(id.clone()), ..claims::Filter::default() };
    let cards = claims::list(db, &filter, SHOWN).await?;
    if participant.is_none() && entries.items.is_empty() && cursor.is_none() && invited.is_empty() && cards.is_empty() {
        return Err(not_found("participant", &user_id));
    }
    Ok(Json(Standing {
        activity_id: id,
        user_id,
        joined_at: participant.as_ref().map(|participant| clock::rfc3339(participant.joined_at_ms)),
        channel: participant.and_then(|participant| participant.channel),
        points: total,
        rank,
        entries: entries.items,
        next_cursor: entries.next_cursor,
        invited_count,
        paid_count,
        invited,
        cards,
    }))
}

pub(super) async fn invitees(
    Path((id, user_id)): Path<(String, String)>,
    request: Request,
) -> Result<Json<Page<Invitee>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let after = query.parsed("cursor", "must be a `next_cursor` of this list", Id::parse);
    let limit = query.limit(PAGE.0, PAGE.1);
    query.finish()?;
    let db = db().await?;
    activity(db, &id).await?.require(Switch::Query)?;
    let after = after.as_ref().map_or("", Id::as_str);
    let found = events::invitees(db, &id, &user_id, after, limit + 1).await?;
    Ok(Json(Page::of(found, limit, |invitee| invitee.invitee.clone())))
}

/// Where a page of the ranking goes on: the ledger's row that all its pages are of, and how many places came before.
fn place(text: &str) -> Option<(i64, i64)> {
    let (up_to, offset) = text.split_once('.')?;
    Some((up_to.parse().ok().filter(|row| *row >= 0)?, offset.parse().ok().filter(|offset| *offset >= 0)?))
}

pub(super) async fn ranking(Path(id): Path<String>, request: Request) -> Result<Json<Page<Rank>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    let activity = activity(db, &id).await?;
    activity.require(Switch::Query)?;
    let mut query = Query::of(request.uri());
    let cursor = query.parsed("cursor", "must be a `next_cursor` of this list", place);
    let limit = query.limit(PAGE.0, PAGE.1);
    let must = format!("must be the first day of a period, a {}", activity.weekday_start.as_str());
    let period = query.parsed("period", &must, |name| period(&activity, name));
    query.finish()?;
    let (up_to, offset) = match cursor {
        Some(cursor) => cursor,
        None => (points::last(db).await?, 0),
    };
    let (from_ms, to_ms) = period.map_or((0, i64::MAX), |period| (period.first_ms(), period.to_ms()));
    let ranks = points::ranking(db, Scope { activity_id: &id, from_ms, to_ms, up_to }, offset, limit + 1).await?;
    Ok(Json(Page::of(ranks, limit, |rank| format!("{up_to}.{}", rank.rank))))
}

/// The period of an activity that is called so.
pub(super) fn period(activity: &Activity, name: &str) -> Option<Period> {
    Period::parse(name).filter(|period| period.weekday() == activity.weekday_start)
}
