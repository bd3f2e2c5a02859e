//! Settlements and the audit.

use std::{io, time::Instant};

use axum::{
    Json,
    body::Body,
    extract::{Path, Request},
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use shared::{
    auth::Role,
    clock,
    fields::{Fields, unacceptable},
    http::{JSON_LIMIT, read_whole},
    ndjson,
    problem::{Kind, Problem},
};

use super::{SPEND, activity, allowed, deliver_soon, log, more_time, not_found, parsed, people::period, rewards};
use crate::{
    audit::Audit,
    config::db,
    rewards::{Settlement, Settling},
};

pub(super) async fn settle(Path(id): Path<String>, request: Request) -> Result<Json<Settlement>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let rewards = rewards().await?;
    let activity = activity(rewards.db, &id).await?;
    let value = parsed(&body)?;
    let mut fields = Fields::of(&value, "");
    let must = format!("must be the first day of a period, a {}", activity.weekday_start.as_str());
    let named = fields.required("period", &must, |value| period(&activity, value.as_str()?));
    let period = fields.finish(named).map_err(unacceptable)?;
    match rewards.settle(&id, period, more_time(SPEND)).await? {
        Settling::Done(settled) => {
            log("settlement", &id, "settled", Some(&format!("{}: {} cards", settled.period, settled.cards)), started);
            deliver_soon();
            Ok(Json(settled))
        }
        Settling::NotEnded => {
            let detail = format!("the period {} ends at {}", period.name(), clock::rfc3339(period.to_ms()));
            Err(Problem::new(Kind::WrongState, detail))
        }
        Settling::UnknownActivity => Err(not_found("activity", &id)),
    }
}

/// A piece of the audit's answer is sent when it has so many bytes.
const CHUNK: usize = 64 * 1024;

pub(super) async fn audit(Path(id): Path<String>, request: Request) -> Result<Response, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    let activity = activity(db, &id).await?;
    let audit = Audit::new(db.clone(), activity, clock::now_ms());
    // A step is made when the reader wants more: memory stays the same, however long the audit is.
    let lines = stream::try_unfold(audit, |mut audit| async move {
        let mut piece = Vec::new();
        while piece.len() < CHUNK {
            let Some(lines) = audit.next().await.map_err(|error| io::Error::other(error.to_string()))? else { break };
            for line in lines {
                serde_json::to_writer(&mut piece, &line).map_err(io::Error::other)?;
                piece.push(b'\n');
            }
        }
        Ok::<_, io::Error>((!piece.is_empty()).then(|| (Bytes::from(piece), audit)))
    });
    Ok(([(header::CONTENT_TYPE, ndjson::MEDIA_TYPE)], Body::from_stream(lines)).into_response())
}
