//! The pool: import cards, see how many there are.

use std::{
    collections::{BTreeSet, HashSet},
    time::Instant,
};

use axum::{
    Json,
    extract::{Path, Request},
    http::{HeaderMap, header},
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    ndjson::{self, Lines},
    outbox::Courier,
    problem::{Fault, Kind, Problem},
};
use spin_sdk::wasip3::random::random;

use super::{SPEND, activity, allowed, deliver_soon, log, more_time, rewards};
use crate::{
    card::Pool,
    config::{db, vault},
    import::{Card, Format, WrongColumns},
    store::cards::{self, NewCard, PoolCount},
    vault::{NONCE, Vault},
};

/// Cards that one statement adds.
const BATCH: usize = 500;
/// Lines that are no cards and that the answer names.
const REJECTED_MAX: usize = 1_000;

/// What became of an import.
#[derive(Default, Serialize)]
pub(super) struct Imported {
    imported: u64,
    duplicates: u64,
    rejected: Vec<Rejected>,
    /// Lines that are no cards, beside those that are named.
    #[serde(skip_serializing_if = "is_zero")]
    rejected_more: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A line that is no card, or not this activity's.
#[derive(Serialize)]
struct Rejected {
    line: u64,
    reason: String,
}

impl Imported {
    fn reject(&mut self, line: u64, reason: String) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.push(Rejected { line, reason });
        } else {
            self.rejected_more += 1;
        }
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if ndjson::is_ndjson(content_type) {
        Ok(Format::Ndjson)
    } else if essence.eq_ignore_ascii_case("text/csv") {
        Ok(Format::csv())
    } else {
        Err(Problem::new(Kind::UnsupportedMediaType, "send text/csv or application/x-ndjson"))
    }
}

pub(super) async fn import(Path(id): Path<String>, request: Request) -> Result<Json<Imported>, Problem> {
    let started = Instant::now();
    let (head, body) = request.into_parts();
    allowed(Role::Admin, &head.headers).await?;
    let mut format = format(&head.headers)?;
    let rewards = rewards().await?;
    activity(rewards.db, &id).await?;
    let vault = vault().await?;
    let mut lines = Lines::new(body);
    let mut imported = Imported::default();
    let mut batch: Vec<(u64, Card)> = Vec::new();
    let mut fens = BTreeSet::new();
    // Whatever breaks an import off, what was committed stays, and the whole file again adds the rest.
    while let Some(some) = lines.next().await? {
        for line in some {
            let read = format.read(&line).map_err(|WrongColumns(detail)| {
                Problem::bad_input("the cards cannot be read").with(Fault::at("", detail))
            })?;
            match read {
                None => {}
                Some(Ok(card)) => batch.push((line.number, card)),
                Some(Err(reason)) => imported.reject(line.number, reason),
            }
            if batch.len() >= BATCH {
                commit(&id, vault, std::mem::take(&mut batch), &mut imported, &mut fens).await?;
            }
        }
    }
    commit(&id, vault, batch, &mut imported, &mut fens).await?;
    let more_time = more_time(SPEND);
    for fen in fens {
        rewards.fulfil_pool(Pool { activity_id: &id, fen }, more_time).await?;
    }
    let detail = format!(
        "{} imported, {} duplicates, {} rejected",
        imported.imported,
        imported.duplicates,
        imported.rejected.len() as u64 + imported.rejected_more
    );
    log("import", &id, "imported", Some(&detail), started);
    deliver_soon();
    Ok(Json(imported))
}

async fn commit(
    activity_id: &str,
    vault: &Vault,
    batch: Vec<(u64, Card)>,
    imported: &mut Imported,
    fens: &mut BTreeSet<i64>,
) -> Result<(), Problem> {
    let mut seen = HashSet::new();
    let mut numbers = Vec::with_capacity(batch.len());
    let mut new = Vec::with_capacity(batch.len());
    let nonces = random::get_random_bytes((batch.len() * NONCE) as u64);
    for ((line, card), nonce) in batch.into_iter().zip(nonces.as_chunks::<NONCE>().0) {
        let card_no = card.card_no.as_str().to_owned();
        if !seen.insert(card_no.clone()) {
            imported.duplicates += 1;
            continue;
        }
        let secret = vault
            .seal(&card_no, &card.secret, *nonce)
            .ok_or_else(|| Problem::new(Kind::Internal, "a card could not be sealed"))?;
        fens.insert(card.fen);
        numbers.push(line);
        new.push(NewCard { card_no, fen: card.fen, secret, expires_at_ms: card.expires_at_ms });
    }
    if new.is_empty() {
        return Ok(());
    }
    // Of this statement alone, so that it knows its own cards from those that were there.
    let import_id = super::courier().await?.token();
    let there = cards::import(db().await?, activity_id, &new, &import_id, clock::now_ms()).await?;
    imported.imported += (new.len() - there.len()) as u64;
    for (card_no, same) in there {
        if same {
            imported.duplicates += 1;
            continue;
        }
        let line = new.iter().zip(&numbers).find(|(card, _)| card.card_no == card_no).map_or(0, |(_, line)| *line);
        imported
            .reject(line, format!("the card {card_no} is there with another worth or expiry, or of another activity"));
    }
    Ok(())
}

/// The pools of an activity.
#[derive(Serialize)]
pub(super) struct Pools {
    pools: Vec<PoolCount>,
}

pub(super) async fn stock(Path(id): Path<String>, request: Request) -> Result<Json<Pools>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    activity(db, &id).await?;
    Ok(Json(Pools { pools: cards::count(db, &id, clock::now_ms()).await? }))
}
