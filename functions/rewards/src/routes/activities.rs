//! Campaigns, their terms and switches.

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Request},
    http::StatusCode,
};
use shared::{
    auth::Role,
    clock,
    fields::unacceptable,
    http::{JSON_LIMIT, read_whole},
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
};

use super::{SPEND, activity, allowed, deliver_soon, log, more_time, not_found, parsed, rewards};
use crate::{
    activity::{Change, NewActivity},
    config::db,
    store::activities,
};

pub(super) async fn create(request: Request) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let new = NewActivity::read(&parsed(&body)?).map_err(unacceptable)?;
    let db = db().await?;
    let created = activities::create(db, &new, clock::now_ms()).await?;
    let activity = activity(db, new.id.as_str()).await?;
    if created {
        log("activity", &activity.id, "created", None, started);
        return Ok((StatusCode::CREATED, Json(activity.json())));
    }
    if new.is(&activity) {
        return Ok((StatusCode::OK, Json(activity.json())));
    }
    Err(Problem::new(Kind::Conflict, format!("there is another activity `{}`", activity.id)))
}

pub(super) async fn list(request: Request) -> Result<Json<Page<serde_json::Value>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    query.finish()?;
    let found = activities::list(db().await?, cursor, limit + 1).await?;
    let page = Page::of(found, limit, |activity| activity.seq);
    let items = page.items.iter().map(crate::activity::Activity::json).collect();
    Ok(Json(Page { items, next_cursor: page.next_cursor }))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<serde_json::Value>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    Ok(Json(activity(db().await?, &id).await?.json()))
}

pub(super) async fn change(Path(id): Path<String>, request: Request) -> Result<Json<serde_json::Value>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let body = parsed(&body)?;
    let db = db().await?;
    let now = activity(db, &id).await?;
    let change = Change::read(&body, &now).map_err(unacceptable)?;
    if !activities::change(db, &id, &change, clock::now_ms()).await? {
        let fault = Fault::at("/ends_at", "ends_at must be after starts_at");
        return Err(unacceptable(vec![fault]));
    }
    log("activity", &id, "changed", None, started);
    // Paid now, as far as there is time; `POST …/fulfil` goes on.
    if change.register == Some(true) {
        rewards().await?.release(&id, more_time(SPEND)).await?;
        deliver_soon();
    }
    let changed = activities::get(db, &id).await?.ok_or_else(|| not_found("activity", &id))?;
    Ok(Json(changed.json()))
}
