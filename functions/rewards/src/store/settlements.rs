//! A period's points into cards: every full sum of them, each card by a key of its own.

use shared::db::{Db, DbError};

use super::json;
use crate::{activity::Terms, period::Period};

/// Of whom, and what is due to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settled<'a> {
    pub(crate) activity_id: &'a str,
    pub(crate) period: Period,
    /// Those that held when the period ended.
    pub(crate) terms: Terms,
}

/// Users past `after` with at least one full sum, at most `limit`, in the order of their ids.
pub(crate) async fn users(db: &Db, of: Settled<'_>, after: &str, limit: i64) -> Result<Vec<String>, DbError> {
    const SQL: &str = "SELECT json_group_array(user_id) FROM (SELECT user_id FROM rewards_points
        WHERE activity_id = $1 AND user_id > $2 AND at_ms >= $3 AND at_ms < $4
        GROUP BY user_id HAVING sum(points) >= $5 ORDER BY user_id LIMIT $6)";
    let values = [
        of.activity_id.into(),
        after.into(),
        of.period.first_ms().into(),
        of.period.to_ms().into(),
        of.terms.settlement_points.into(),
        limit.into(),
    ];
    let row = db.query_one(SQL, values).await?.ok_or(DbError::Column(0))?;
    serde_json::from_str(row.text(0)?).map_err(|error| DbError::Other(error.to_string()))
}

/// Adds these users' claims, as many as their points are due at this moment; those that are there stay as they are.
pub(crate) async fn claim(db: &Db, of: Settled<'_>, users: &[String], now_ms: i64) -> Result<(), DbError> {
    // One claim of a full sum's cards tells of it: the first.
    const SQL: &str = "WITH RECURSIVE due(user_id, n, last) AS (
            SELECT p.user_id, 1, sum(p.points) / $1 * $2 FROM rewards_points AS p
            WHERE p.activity_id = $3 AND p.user_id IN (SELECT value FROM json_each($4))
                AND p.at_ms >= $5 AND p.at_ms < $6
            GROUP BY p.user_id HAVING sum(p.points) >= $1
            UNION ALL SELECT user_id, n + 1, last FROM due WHERE n < last)
        INSERT INTO rewards_claims (id, key, activity_id, user_id, kind, fen, period, n, tells, at_ms, state,
            created_at_ms)
        SELECT 'clm_' || lower(hex(randomblob(12))), 'settle:' || $3 || ':' || $7 || ':' || user_id || ':' || n, $3,
            user_id, 'settlement', $8, $7, n, (n - 1) % $2 = 0, $6, 'waiting', $9
        FROM due WHERE true ORDER BY user_id, n
        ON CONFLICT (key) DO NOTHING";
    let values = [
        of.terms.settlement_points.into(),
        of.terms.settlement_cards.into(),
        of.activity_id.into(),
        json(&users)?.into(),
        of.period.first_ms().into(),
        of.period.to_ms().into(),
        of.period.name().into(),
        of.terms.settlement_card_fen.into(),
        now_ms.into(),
    ];
    db.execute(SQL, values).await
}

/// How many of a period's cards are claimed, and how many of those wait.
pub(crate) async fn claimed(db: &Db, activity_id: &str, period: Period) -> Result<(i64, i64, i64), DbError> {
    const SQL: &str = "SELECT count(DISTINCT user_id), count(*), coalesce(sum(state = 'waiting'), 0)
        FROM rewards_claims WHERE activity_id = $1 AND period = $2 AND kind = 'settlement' AND key IS NOT NULL";
    let row = db.query_one(SQL, [activity_id.into(), period.name().into()]).await?.ok_or(DbError::Column(0))?;
    Ok((row.integer(0)?, row.integer(1)?, row.integer(2)?))
}
