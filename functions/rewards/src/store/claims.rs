//! Claims: which cards are due, and what became of each.

use serde::Serialize;
use shared::{
    clock,
    db::{Db, DbError, Row, Select},
};

use super::json;

/// Adds the claims that registrations of `invitees` earn, those that are due and not there.
pub(crate) async fn claim_invites(db: &Db, activity_id: &str, invitees: &[&str], now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, event_id, invitee, tells,
            at_ms, state, created_at_ms)
        SELECT 'clm_' || lower(hex(randomblob(12))), e.key, e.activity_id, e.inviter, 'invite', e.card_fen, e.event_id,
            e.invitee, 1, e.opened_at_ms, 'waiting', $1
        FROM json_each($2) AS i
        JOIN rewards_earnings AS e ON e.activity_id = $3 AND e.invitee = i.value
        WHERE e.due AND e.register_on = 1 AND e.card_fen > 0
        ORDER BY i.key
        ON CONFLICT (key) DO NOTHING";
    db.execute(SQL, [now_ms.into(), json(&invitees)?.into(), activity_id.into()]).await
}

/// Something that a registration earns and that is not given yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) invitee: String,
    pub(crate) card_fen: i64,
    pub(crate) register_on: bool,
}

/// What the registrations of `invitees` earn, as far as it is not given.
pub(crate) async fn due(db: &Db, activity_id: &str, invitees: &[&str]) -> Result<Vec<Due>, DbError> {
    const SQL: &str = "SELECT e.invitee, e.card_fen, e.register_on
        FROM json_each($1) AS i
        JOIN rewards_earnings AS e ON e.activity_id = $2 AND e.invitee = i.value
        LEFT JOIN rewards_claims AS c ON c.key = e.key
        LEFT JOIN rewards_points AS p ON p.key = e.key
        WHERE e.due AND ((e.card_fen > 0 AND (c.seq IS NULL OR c.state = 'waiting'))
            OR (e.points > 0 AND p.seq IS NULL))";
    let due = |row: &Row| {
        Ok(Due { invitee: row.text(0)?.to_owned(), card_fen: row.integer(1)?, register_on: row.integer(2)? == 1 })
    };
    db.query(SQL, [json(&invitees)?.into(), activity_id.into()]).await?.iter().map(due).collect()
}

/// A claim as callers see it. A card's secret is never here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    pub(crate) id: String,
    pub(crate) activity_id: String,
    pub(crate) user_id: String,
    /// `invite` or `settlement`.
    pub(crate) kind: String,
    pub(crate) fen: i64,
    /// `waiting` for a card, `issued`, `activated` or `recalled`.
    pub(crate) state: String,
    /// What earned it: the registration's event, or the period and which card of it.
    pub(crate) earned_by: EarnedBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) card_no: Option<String>,
    pub(crate) created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) activated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recalled_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) recall_reason: Option<String>,
    #[serde(skip)]
    pub(crate) seq: i64,
}

/// What earned a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum EarnedBy {
    /// A friend's registration.
    Registration { event_id: Option<String>, invitee: Option<String> },
    /// A period's points; `n` counts its cards from 1.
    Period { period: String, n: i64 },
}

const COLUMNS: &str = "seq, id, activity_id, user_id, kind, fen, state, event_id, invitee, period, n, card_no,
    created_at_ms, issued_at_ms, activated_at_ms, recalled_at_ms, recall_reason";

fn claim(row: &Row) -> Result<Claim, DbError> {
    let text = |column| row.text(column).map(str::to_owned);
    let optional = |column| Ok::<_, DbError>(row.optional_text(column)?.map(str::to_owned));
    let at = |column| Ok::<_, DbError>(row.optional_integer(column)?.map(clock::rfc3339));
    let earned_by = match (optional(9)?, row.optional_integer(10)?) {
        (Some(period), Some(n)) => EarnedBy::Period { period, n },
        _ => EarnedBy::Registration { event_id: optional(7)?, invitee: optional(8)? },
    };
    Ok(Claim {
        seq: row.integer(0)?,
        id: text(1)?,
        activity_id: text(2)?,
        user_id: text(3)?,
        kind: text(4)?,
        fen: row.integer(5)?,
        state: text(6)?,
        earned_by,
        card_no: optional(11)?,
        created_at: clock::rfc3339(row.integer(12)?),
        issued_at: at(13)?,
        activated_at: at(14)?,
        recalled_at: at(15)?,
        recall_reason: optional(16)?,
    })
}

/// Which claims are asked for; `None` for all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) user_id: Option<String>,
    pub(crate) activity_id: Option<String>,
    pub(crate) state: Option<&'static str>,
    /// Older than the row with this cursor.
    pub(crate) cursor: Option<i64>,
}

/// The states of a claim.
pub(crate) const STATES: [&str; 4] = ["waiting", "issued", "activated", "recalled"];

/// The newest first, at most `limit`.
pub(crate) async fn list(db: &Db, filter: &Filter, limit: usize) -> Result<Vec<Claim>, DbError> {
    let shown = if filter.activity_id.is_some() {
        "true"
    } else {
        "activity_id IN (SELECT id FROM rewards_activities WHERE query_on = 1)"
    };
    let select = Select::new(format!("SELECT {COLUMNS} FROM rewards_claims WHERE {shown}"), [])
        .and("user_id =", filter.user_id.as_deref())
        .and("activity_id =", filter.activity_id.as_deref())
        .and("state =", filter.state)
        .and("seq <", filter.cursor);
    select.newest(limit).rows(db).await?.iter().map(claim).collect()
}

/// One claim.
pub(crate) async fn get(db: &Db, id: &str) -> Result<Option<Claim>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM rewards_claims WHERE id = $1");
    db.query_one(&sql, [id.into()]).await?.as_ref().map(claim).transpose()
}

/// The claim of a registration.
pub(crate) async fn of_invitee(db: &Db, activity_id: &str, invitee: &str) -> Result<Option<Claim>, DbError> {
    let sql = format!("SELECT {COLUMNS} FROM rewards_claims WHERE key = 'invite:' || $1 || ':' || $2");
    db.query_one(&sql, [activity_id.into(), invitee.into()]).await?.as_ref().map(claim).transpose()
}

/// Activates the card of `user_id`; the first time counts. Nothing happens unless it is issued to them.
pub(crate) async fn activate(db: &Db, id: &str, user_id: &str, now_ms: i64) -> Result<(), DbError> {
    // From here on it is not recalled: both ask for the same state, and one statement is first.
    const SQL: &str = "UPDATE rewards_claims SET state = 'activated', activated_at_ms = $1
        WHERE id = $2 AND user_id = $3 AND state = 'issued'";
    db.execute(SQL, [now_ms.into(), id.into(), user_id.into()]).await
}

/// Why claims are recalled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Recall<'a> {
    /// Somebody wants it so: there is no other card for the same.
    Asked(&'a str),
    /// Nothing earns them, as far as is known today.
    NotEarned(&'a str),
}

/// Closes claims whose cards are not activated, marks the cards, and returns which claims those were.
pub(crate) async fn recall(db: &Db, ids: &[String], why: Recall<'_>, now_ms: i64) -> Result<Vec<String>, DbError> {
    const SQL: &str = "UPDATE rewards_claims SET state = 'recalled', recalled_at_ms = $1, recall_reason = $2,
            key = CASE WHEN $3 THEN key END
        WHERE id IN (SELECT value FROM json_each($4)) AND state IN ('waiting', 'issued') RETURNING id";
    let (keeps_key, reason) = match why {
        Recall::Asked(reason) => (1, reason),
        Recall::NotEarned(reason) => (0, reason),
    };
    let rows = db.query(SQL, [now_ms.into(), reason.into(), keeps_key.into(), json(&ids)?.into()]).await?;
    rows.iter().map(|row| row.text(0).map(str::to_owned)).collect()
}

/// The states of these claims, of those that are an activity's.
pub(crate) async fn states(db: &Db, activity_id: &str, ids: &[String]) -> Result<Vec<(String, String)>, DbError> {
    const SQL: &str = "SELECT id, state FROM rewards_claims
        WHERE id IN (SELECT value FROM json_each($1)) AND activity_id = $2";
    let rows = db.query(SQL, [json(&ids)?.into(), activity_id.into()]).await?;
    rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned()))).collect()
}

/// How many claims wait for a card of each worth, as `(fen, waiting)`.
pub(crate) async fn waiting(db: &Db, activity_id: &str) -> Result<Vec<(i64, i64)>, DbError> {
    const SQL: &str = "SELECT fen, count(*) FROM rewards_claims WHERE activity_id = $1 AND state = 'waiting'
        GROUP BY fen ORDER BY fen";
    let rows = db.query(SQL, [activity_id.into()]).await?;
    rows.iter().map(|row| Ok((row.integer(0)?, row.integer(1)?))).collect()
}
