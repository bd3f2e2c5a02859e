//! What goes out, as operators read it, and their hand on it.

use axum::{Json, extract::Path, extract::Request, http::StatusCode};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    db::Db,
    outbox::ledger::{self, Entry, Filter, State, Stats, Whole},
    problem::{Kind, Problem},
    query::{Page, Query},
};

use super::{allowed, not_found};
use crate::{
    config::db,
    store::{self, Reason},
};

/// Messages that one statement makes due again.
const RETRIED: i64 = 1_000;
/// Reasons that are told of the events that wait for somebody.
const REASONS: i64 = 20;

pub(super) async fn list(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let state = |text: &str| State::parse(text);
    let filter = Filter {
        order_id: query.text("order_id"),
        recipient: query.text("recipient"),
        scenario: query.text("scenario"),
        state: query.parsed("state", "must be pending, sending, sent, logged or dead", state),
        from_ms: query.instant("from"),
        to_ms: query.instant("to"),
        ..Filter::default()
    };
    let (cursor, limit) = query.page();
    query.finish()?;
    let messages = ledger::list(db().await?, &Filter { cursor, ..filter }, limit + 1).await?;
    Ok(Json(Page::of(messages, limit, |message| message.seq)))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<Whole>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    ledger::get(db().await?, &id).await?.map(Json).ok_or_else(|| not_found("message", &id))
}

pub(super) async fn retry(Path(id): Path<String>, request: Request) -> Result<(StatusCode, Json<Whole>), Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let message = made_due(db().await?, &id).await?;
    Ok((StatusCode::ACCEPTED, Json(message)))
}

async fn made_due(db: &Db, id: &str) -> Result<Whole, Problem> {
    let retried = ledger::retry(db, id, clock::now_ms()).await?;
    let message = ledger::get(db, id).await?.ok_or_else(|| not_found("message", id))?;
    if retried {
        return Ok(message);
    }
    let why = match message.entry.state {
        State::Sent => "the gateway has it already",
        State::Sending => "it is being sent at this moment",
        _ => "its body is gone",
    };
    Err(Problem::new(Kind::WrongState, why))
}

/// How many messages are tried again.
#[derive(Serialize)]
pub(super) struct Retried {
    retried: u64,
}

pub(super) async fn retry_all(request: Request) -> Result<(StatusCode, Json<Retried>), Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let retriable =
        |text: &str| State::parse(text).filter(|state| matches!(state, State::Pending | State::Logged | State::Dead));
    let state = query.parsed("state", "must be dead, logged or pending", retriable);
    query.finish()?;
    let state = state.unwrap_or(State::Dead);
    let (db, now_ms) = (db().await?, clock::now_ms());
    let mut retried = 0;
    loop {
        let some = ledger::retry_some(db, state, RETRIED, now_ms).await?;
        retried += some;
        if some < RETRIED.unsigned_abs() {
            return Ok((StatusCode::ACCEPTED, Json(Retried { retried })));
        }
    }
}

/// How push is doing.
#[derive(Serialize)]
pub(super) struct Doing {
    messages: Stats,
    /// Events that wait for somebody, by outcome.
    events: std::collections::BTreeMap<String, i64>,
    /// Why they wait, the most frequent reasons first.
    reasons: Vec<Reason>,
}

pub(super) async fn stats(request: Request) -> Result<Json<Doing>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let db = db().await?;
    Ok(Json(Doing {
        messages: ledger::stats(db, clock::now_ms()).await?,
        events: store::open(db).await?,
        reasons: store::reasons(db, REASONS).await?,
    }))
}

#[cfg(test)]
mod tests {
    use shared::{
        db::{migration::migrate, native::Native},
        outbox,
    };

    use super::*;

    #[tokio::test]
    async fn what_the_gateway_has_is_not_made_due() {
        let db = Native::in_memory();
        migrate(&db, "outbox", outbox::MIGRATIONS).await.unwrap();
        let sql = "INSERT INTO outbox (id, function, event_id, order_id, scenario, label, recipient, channel,
                occurred_at_ms, body, state, created_at_ms, due_at_ms)
            VALUES ('m', 'push', 'e', 'o', 's', 'l', 'patient:98', 'app', 0, '{}', $1, 0, 0)
            ON CONFLICT (id) DO UPDATE SET state = $1";
        for (state, expected) in [
            ("dead", None),
            ("sent", Some("the gateway has it already")),
            ("sending", Some("it is being sent at this moment")),
        ] {
            db.execute(sql, [state.into()]).await.unwrap();
            let problem = made_due(&db, "m").await.err();
            assert_eq!(problem, expected.map(|detail| Problem::new(Kind::WrongState, detail)), "{state}");
        }
        assert_eq!(made_due(&db, "none").await.unwrap_err().status(), 404);
    }
}
