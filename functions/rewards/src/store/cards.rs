//! Cards: the pool, who gets which, and what was recalled. A card belongs to a claim when it names it: `claim_id` is
//! unique and never changes, and the claim's own column is written with it.

use serde::Serialize;
use shared::db::{Db, DbError, Row};

use super::json;
use crate::card::{Issued, Pool, Stock};

/// A card as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NewCard {
    pub(crate) card_no: String,
    pub(crate) fen: i64,
    /// Sealed.
    pub(crate) secret: String,
    pub(crate) expires_at_ms: Option<i64>,
}

/// Adds cards that are not there, and returns which were, with whether they are the same but for the secret.
pub(crate) async fn import(
    db: &Db,
    activity_id: &str,
    cards: &[NewCard],
    import_id: &str,
    now_ms: i64,
) -> Result<Vec<(String, bool)>, DbError> {
    const SQL: &str = "INSERT INTO rewards_cards (card_no, activity_id, fen, secret, expires_at_ms, import_id,
            imported_at_ms)
        SELECT c.value ->> 'card_no', $1, c.value ->> 'fen', c.value ->> 'secret', c.value ->> 'expires_at_ms', $2, $3
        FROM json_each($4) AS c WHERE true ORDER BY c.key
        ON CONFLICT (card_no) DO NOTHING";
    const THERE: &str = "SELECT k.card_no, k.activity_id = $1 AND k.fen = c.value ->> 'fen'
            AND k.expires_at_ms IS c.value ->> 'expires_at_ms'
        FROM json_each($2) AS c JOIN rewards_cards AS k ON k.card_no = c.value ->> 'card_no'
        WHERE k.import_id <> $3";
    let batch = json(&cards)?;
    db.execute(SQL, [activity_id.into(), import_id.into(), now_ms.into(), batch.clone().into()]).await?;
    let rows = db.query(THERE, [activity_id.into(), batch.into(), import_id.into()]).await?;
    rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.integer(1)? == 1))).collect()
}

/// Gives free cards to the `claims` oldest claims that wait, one to each, and returns how many that were.
///
/// The pairing is made and written by one statement; that two which run at once choose the same card is forbidden by
/// the engine's write lock and, whatever the engine, by the unique `claim_id`.
pub(crate) async fn assign(db: &Db, pool: Pool<'_>, claims: i64, now_ms: i64) -> Result<i64, DbError> {
    const SQL: &str = "UPDATE rewards_cards SET claim_id = pair.claim_id, issued_at_ms = $1
        FROM (SELECT w.id AS claim_id, f.card_no
            FROM (SELECT id, row_number() OVER (ORDER BY seq) AS place
                FROM (SELECT id, seq FROM rewards_claims
                    WHERE state = 'waiting' AND activity_id = $2 AND fen = $3 ORDER BY seq LIMIT $4)) AS w
            JOIN (SELECT card_no, row_number() OVER (ORDER BY seq) AS place
                FROM (SELECT card_no, seq FROM rewards_cards
                    WHERE claim_id IS NULL AND activity_id = $2 AND fen = $3
                        AND (expires_at_ms IS NULL OR expires_at_ms > $1)
                    ORDER BY seq LIMIT $4)) AS f ON f.place = w.place) AS pair
        WHERE rewards_cards.card_no = pair.card_no AND rewards_cards.claim_id IS NULL
        RETURNING 1";
    const WAITS: &str =
        "SELECT 1 FROM rewards_claims WHERE state = 'waiting' AND activity_id = $1 AND fen = $2 LIMIT 1";
    // Mostly nobody waits, and a read takes nobody's lock.
    if db.query(WAITS, [pool.activity_id.into(), pool.fen.into()]).await?.is_empty() {
        return Ok(0);
    }
    let values = [now_ms.into(), pool.activity_id.into(), pool.fen.into(), claims.into()];
    Ok(i64::try_from(db.query(SQL, values).await?.len()).unwrap_or_default())
}

/// Cards of which nobody was told yet, at most `limit`.
pub(crate) async fn untold(db: &Db, limit: i64) -> Result<Vec<Issued>, DbError> {
    const SQL: &str = "SELECT c.id, c.user_id, c.kind, c.issued_at_ms, p.channel, c.activity_id, c.fen
        FROM (SELECT id, activity_id, fen, user_id, kind, issued_at_ms FROM rewards_claims
            WHERE state = 'issued' AND tells = 1 AND told = 0 ORDER BY seq LIMIT $1) AS c
        LEFT JOIN rewards_participants AS p ON p.activity_id = c.activity_id AND p.user_id = c.user_id";
    let issued = |row: &Row| {
        Ok(Issued {
            claim_id: row.text(0)?.to_owned(),
            user_id: row.text(1)?.to_owned(),
            kind: row.text(2)?.to_owned(),
            at_ms: row.integer(3)?,
            channel: row.optional_text(4)?.map(str::to_owned),
            activity_id: row.text(5)?.to_owned(),
            fen: row.integer(6)?,
        })
    };
    db.query(SQL, [limit.into()]).await?.iter().map(issued).collect()
}

/// Notes that the owners of these claims are told: the messages are in the outbox.
pub(crate) async fn told(db: &Db, claim_ids: &[&str]) -> Result<(), DbError> {
    const SQL: &str = "UPDATE rewards_claims SET told = 1 WHERE id IN (SELECT value FROM json_each($1))";
    db.execute(SQL, [json(&claim_ids)?.into()]).await
}

/// A card's sealed secret, and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) card_no: String,
    pub(crate) secret: String,
    pub(crate) expires_at_ms: Option<i64>,
}

/// The card of a claim.
pub(crate) async fn of_claim(db: &Db, claim_id: &str) -> Result<Option<Sealed>, DbError> {
    const SQL: &str = "SELECT card_no, secret, expires_at_ms FROM rewards_cards WHERE claim_id = $1";
    let Some(row) = db.query_one(SQL, [claim_id.into()]).await? else { return Ok(None) };
    let (card_no, secret) = (row.text(0)?.to_owned(), row.text(1)?.to_owned());
    Ok(Some(Sealed { card_no, secret, expires_at_ms: row.optional_integer(2)? }))
}

/// The worths that cards of a campaign wait for or lie in: every pool there is.
pub(crate) async fn pools(db: &Db, activity_id: &str) -> Result<Vec<i64>, DbError> {
    // From worth to worth by the index, however many cards each has.
    const SQL: &str = "WITH RECURSIVE free(fen) AS (
            SELECT (SELECT min(fen) FROM rewards_cards WHERE claim_id IS NULL AND activity_id = $1)
            UNION ALL SELECT (SELECT min(c.fen) FROM rewards_cards AS c
                WHERE c.claim_id IS NULL AND c.activity_id = $1 AND c.fen > free.fen)
            FROM free WHERE free.fen IS NOT NULL),
        waiting(fen) AS (
            SELECT (SELECT min(fen) FROM rewards_claims WHERE state = 'waiting' AND activity_id = $1)
            UNION ALL SELECT (SELECT min(c.fen) FROM rewards_claims AS c
                WHERE c.state = 'waiting' AND c.activity_id = $1 AND c.fen > waiting.fen)
            FROM waiting WHERE waiting.fen IS NOT NULL)
        SELECT fen FROM free WHERE fen IS NOT NULL UNION SELECT fen FROM waiting WHERE fen IS NOT NULL";
    db.query(SQL, [activity_id.into()]).await?.iter().map(|row| row.integer(0)).collect()
}

/// How a pool stands, without counting further than `enough`.
pub(crate) async fn stock(db: &Db, pool: Pool<'_>, enough: i64, now_ms: i64) -> Result<Stock, DbError> {
    const SQL: &str = "SELECT
        (SELECT count(*) FROM (SELECT 1 FROM rewards_cards WHERE claim_id IS NULL AND activity_id = $1 AND fen = $2
            AND (expires_at_ms IS NULL OR expires_at_ms > $3) LIMIT $4)),
        (SELECT count(*) FROM (SELECT 1 FROM rewards_claims WHERE state = 'waiting' AND activity_id = $1 AND fen = $2
            LIMIT $4))";
    let values = [pool.activity_id.into(), pool.fen.into(), now_ms.into(), enough.max(1).into()];
    let row = db.query_one(SQL, values).await?.ok_or(DbError::Column(0))?;
    Ok(Stock { free: row.integer(0)?, waiting: row.integer(1)? })
}

/// A pool's cards, counted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PoolCount {
    pub(crate) fen: i64,
    pub(crate) free: i64,
    pub(crate) expired: i64,
    pub(crate) issued: i64,
    pub(crate) recalled: i64,
    /// Claims that wait for a card of it.
    pub(crate) waiting: i64,
}

/// Every pool of an activity, by worth.
pub(crate) async fn count(db: &Db, activity_id: &str, now_ms: i64) -> Result<Vec<PoolCount>, DbError> {
    const SQL: &str = "SELECT fen, coalesce(sum(free), 0), coalesce(sum(expired), 0), coalesce(sum(issued), 0),
            coalesce(sum(recalled), 0), coalesce(sum(waiting), 0)
        FROM (SELECT fen, claim_id IS NULL AND coalesce(expires_at_ms > $1, true) AS free,
                claim_id IS NULL AND coalesce(expires_at_ms <= $1, false) AS expired,
                claim_id IS NOT NULL AND recalled_at_ms IS NULL AS issued, recalled_at_ms IS NOT NULL AS recalled,
                0 AS waiting
            FROM rewards_cards WHERE activity_id = $2
            UNION ALL SELECT fen, 0, 0, 0, 0, 1 FROM rewards_claims WHERE activity_id = $2 AND state = 'waiting')
        GROUP BY fen ORDER BY fen";
    let count = |row: &Row| {
        Ok(PoolCount {
            fen: row.integer(0)?,
            free: row.integer(1)?,
            expired: row.integer(2)?,
            issued: row.integer(3)?,
            recalled: row.integer(4)?,
            waiting: row.integer(5)?,
        })
    };
    db.query(SQL, [now_ms.into(), activity_id.into()]).await?.iter().map(count).collect()
}

/// Which matters of a pool operators know of, and how often each was raised.
pub(crate) async fn alerts(db: &Db, pool: Pool<'_>) -> Result<Vec<(String, bool, i64)>, DbError> {
    const SQL: &str = "SELECT what, raised, episode FROM rewards_alerts WHERE activity_id = $1 AND fen = $2";
    let rows = db.query(SQL, [pool.activity_id.into(), pool.fen.into()]).await?;
    rows.iter().map(|row| Ok((row.text(0)?.to_owned(), row.integer(1)? == 1, row.integer(2)?))).collect()
}

/// Notes that operators were told of a matter for the `episode`th time, or that it is over.
pub(crate) async fn note(db: &Db, pool: Pool<'_>, what: &str, raised: bool, episode: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_alerts (activity_id, fen, what, raised, episode)
        VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (activity_id, fen, what) DO UPDATE SET raised = $4, episode = $5
            WHERE episode < $5 OR (episode = $5 AND raised > $4)";
    let values = [pool.activity_id.into(), pool.fen.into(), what.into(), i64::from(raised).into(), episode.into()];
    db.execute(SQL, values).await
}
