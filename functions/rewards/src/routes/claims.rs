//! Who gets a card, takes it, or has to give it back.

use std::{collections::HashMap, time::Instant};

use axum::{
    Json,
    extract::{Path, Request},
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    fields::{Fields, unacceptable},
    http::{JSON_LIMIT, read_whole},
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
};

use super::{SPEND, activity, allowed, log, more_time, not_found, parsed, rewards};
use crate::{
    activity::Switch,
    audit::{Audit, note, over_issued},
    config::{db, vault},
    store::{
        cards,
        claims::{self, Claim, Filter, Recall, STATES},
    },
};

/// Claims that one call names.
const IDS_MAX: usize = 1_000;

pub(super) async fn list(request: Request) -> Result<Json<Page<Claim>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let state = |text: &str| STATES.into_iter().find(|state| *state == text);
    let filter = Filter {
        user_id: query.text("user_id"),
        activity_id: query.text("activity_id"),
        state: query.parsed("state", "must be waiting, issued, activated or recalled", state),
        cursor: None,
    };
    let (cursor, limit) = query.page();
    query.finish()?;
    let db = db().await?;
    // Without an activity, those of all in which `query` is on.
    if let Some(id) = &filter.activity_id {
        activity(db, id).await?.require(Switch::Query)?;
    }
    let found = claims::list(db, &Filter { cursor, ..filter }, limit + 1).await?;
    Ok(Json(Page::of(found, limit, |claim| claim.seq)))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<Claim>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    let claim = claims::get(db, &id).await?.ok_or_else(|| not_found("claim", &id))?;
    activity(db, &claim.activity_id).await?.require(Switch::Query)?;
    Ok(Json(claim))
}

/// A card in its owner's hands.
#[derive(Serialize)]
pub(super) struct Activated {
    claim_id: String,
    card_no: String,
    secret: String,
    fen: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    activated_at: String,
}

pub(super) async fn activate(Path(id): Path<String>, request: Request) -> Result<Json<Activated>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let value = parsed(&body)?;
    let mut fields = Fields::of(&value, "");
    let user_id = fields.id("user_id");
    let user_id = fields.finish(user_id).map_err(unacceptable)?;
    let (db, vault) = (db().await?, vault().await?);
    let claim = claims::get(db, &id).await?.ok_or_else(|| not_found("claim", &id))?;
    if claim.user_id != user_id.as_str() {
        return Err(Problem::new(Kind::Forbidden, "the claim is another user's"));
    }
    let card = cards::of_claim(db, &id).await?;
    let Some(card) = card else {
        let recalled = claim.state == "recalled";
        let detail = if recalled { "the claim was recalled" } else { "the claim waits for a card" };
        return Err(Problem::new(Kind::WrongState, detail));
    };
    // Before it is marked: a secret that cannot be shown is not activated.
    let secret = vault.open(&card.card_no, &card.secret).map_err(|locked| {
        let fault = Fault::at("/variables/card_key", format!("the card's secret does not open: {locked}"));
        shared::config::misconfigured(vec![fault])
    })?;
    claims::activate(db, &id, user_id.as_str(), clock::now_ms()).await?;
    let before = claim.state;
    let claim = claims::get(db, &id).await?.ok_or_else(|| not_found("claim", &id))?;
    if before != "activated" {
        log("claim", &id, &claim.state, None, started);
    }
    match (claim.state.as_str(), claim.activated_at) {
        ("activated", Some(activated_at)) => Ok(Json(Activated {
            claim_id: id,
            card_no: card.card_no,
            secret,
            fen: claim.fen,
            expires_at: card.expires_at_ms.map(clock::rfc3339),
            activated_at,
        })),
        _ => Err(Problem::new(Kind::WrongState, "the card was recalled")),
    }
}

/// What became of a recall.
#[derive(Serialize)]
pub(super) struct Recalled {
    recalled: Vec<String>,
    not_recalled: Vec<NotRecalled>,
    /// Whether all was looked at; if not, call again.
    complete: bool,
}

#[derive(Serialize)]
struct NotRecalled {
    claim_id: String,
    reason: &'static str,
}

/// Which claims are recalled, and why.
struct Asked {
    claim_ids: Option<Vec<String>>,
    reason: String,
}

fn read(body: &[u8]) -> Result<Asked, Problem> {
    let value = parsed(body)?;
    let mut fields = Fields::of(&value, "");
    let must = format!("must be 1 to {IDS_MAX} ids of claims");
    let claim_ids = fields.optional("claim_ids", &must, |value| {
        let ids = value.as_array().filter(|ids| (1..=IDS_MAX).contains(&ids.len()))?;
        ids.iter().map(|id| id.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    let over_issued = fields.optional_flag("over_issued");
    let reason = fields.optional_text("reason", 200);
    let named = value.as_object().is_some_and(|object| object.present("claim_ids").is_some());
    if named == (over_issued == Some(true)) {
        fields.fault("claim_ids", "must be there, or `over_issued` be true, and not both");
    }
    let reason = reason.unwrap_or_else(|| if named { "recalled".into() } else { "over_issued".into() });
    fields.finish(Some(Asked { claim_ids, reason })).map_err(unacceptable)
}

pub(super) async fn recall(Path(id): Path<String>, request: Request) -> Result<Json<Recalled>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let started = Instant::now();
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let Asked { claim_ids, reason } = read(&body)?;
    let rewards = rewards().await?;
    let activity = activity(rewards.db, &id).await?;
    let mut answer = Recalled { recalled: Vec::new(), not_recalled: Vec::new(), complete: true };
    let more_time = more_time(SPEND);
    if let Some(ids) = claim_ids {
        answer.take(&rewards, &id, ids, Recall::Asked(&reason)).await?;
    } else {
        let mut audit = Audit::of_claims(rewards.db.clone(), activity, clock::now_ms()).await?;
        while let Some(ids) = over_issued(&mut audit).await? {
            if !ids.is_empty() {
                answer.take(&rewards, &id, ids, Recall::NotEarned(&reason)).await?;
            }
            answer.complete = more_time();
            if !answer.complete {
                break;
            }
        }
        note(&audit).await?;
    }
    for claim_id in &answer.recalled {
        log("claim", claim_id, "recalled", Some(&reason), started);
    }
    Ok(Json(answer))
}

impl Recalled {
    async fn take<C: shared::outbox::Courier>(
        &mut self,
        rewards: &crate::rewards::Rewards<'_, C>,
        activity_id: &str,
        ids: Vec<String>,
        why: Recall<'_>,
    ) -> Result<(), Problem> {
        let known: HashMap<String, String> = claims::states(rewards.db, activity_id, &ids).await?.into_iter().collect();
        let (ours, others): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| known.contains_key(id));
        let recalled = rewards.recall(&ours, why).await?;
        let after: HashMap<String, String> =
            claims::states(rewards.db, activity_id, &ours).await?.into_iter().collect();
        let not = |claim_id: String, reason| NotRecalled { claim_id, reason };
        for id in ours {
            if recalled.contains(&id) {
                continue;
            }
            let activated = after.get(&id).is_some_and(|state| state == "activated");
            self.not_recalled.push(not(id, if activated { "it is activated" } else { "it was recalled before" }));
        }
        self.not_recalled.extend(others.into_iter().map(|id| not(id, "there is no such claim")));
        self.recalled.extend(recalled);
        Ok(())
    }
}
