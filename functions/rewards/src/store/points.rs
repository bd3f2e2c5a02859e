//! The ledger of points. Entries are only added; sums, ranks and settlements are derived from them.

use serde::Serialize;
use shared::{
    clock,
    db::{Db, DbError, Row, Value},
};

use super::json;

/// Adds the points that registrations of `invitees` earn, those that are due and not there.
pub(crate) async fn earn_invites(db: &Db, activity_id: &str, invitees: &[&str], now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, invitee, at_ms,
            recorded_at_ms)
        SELECT e.key, e.activity_id, e.inviter, 'invite', e.points, e.event_id, e.invitee, e.opened_at_ms, $1
        FROM json_each($2) AS i
        JOIN rewards_earnings AS e ON e.activity_id = $3 AND e.invitee = i.value
        WHERE e.due AND e.register_on = 1 AND e.points > 0
        ORDER BY i.key
        ON CONFLICT (key) DO NOTHING";
    db.execute(SQL, [now_ms.into(), json(&invitees)?.into(), activity_id.into()]).await
}

/// Adds the points of points events within the campaign's dates, those that are not there.
pub(crate) async fn earn_events(db: &Db, keys: &[(&str, &str)], now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, at_ms,
            recorded_at_ms)
        SELECT 'event:' || p.activity_id || ':' || p.event_id, p.activity_id, p.user_id, p.kind, p.points, p.event_id,
            p.at_ms, $1
        FROM json_each($2) AS k
        JOIN rewards_point_events AS p ON p.activity_id = k.value ->> 0 AND p.event_id = k.value ->> 1
        JOIN rewards_activities AS a ON a.id = p.activity_id
        WHERE p.at_ms >= a.starts_at_ms AND p.at_ms < a.ends_at_ms
        ORDER BY k.key
        ON CONFLICT (key) DO NOTHING";
    db.execute(SQL, [now_ms.into(), json(&keys)?.into()]).await
}

/// The same for the next `window` points events past the row `after` that were outside the dates; the last row looked
/// at, `None` at the end.
pub(crate) async fn earn_forgotten(
    db: &Db,
    activity_id: &str,
    after: i64,
    window: i64,
    now_ms: i64,
) -> Result<Option<i64>, DbError> {
    const LAST: &str = "SELECT max(seq) FROM (SELECT seq FROM rewards_point_events
        WHERE activity_id = $1 AND seq > $2 ORDER BY seq LIMIT $3)";
    const SQL: &str = "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, at_ms,
            recorded_at_ms)
        SELECT 'event:' || p.activity_id || ':' || p.event_id, p.activity_id, p.user_id, p.kind, p.points, p.event_id,
            p.at_ms, $1
        FROM rewards_point_events AS p JOIN rewards_activities AS a ON a.id = p.activity_id
        WHERE p.activity_id = $2 AND p.seq > $3 AND p.seq <= $4 AND p.at_ms >= a.starts_at_ms AND p.at_ms < a.ends_at_ms
        ON CONFLICT (key) DO NOTHING";
    let asked = db.query_one(LAST, [activity_id.into(), after.into(), window.into()]).await?;
    let last = asked.ok_or(DbError::Column(0))?.optional_integer(0)?;
    if let Some(last) = last {
        db.execute(SQL, [now_ms.into(), activity_id.into(), after.into(), last.into()]).await?;
    }
    Ok(last)
}

/// Takes back the points of a void registration by a counter-entry of the same time, once, and returns how many that
/// are.
pub(crate) async fn take_back(db: &Db, activity_id: &str, invitee: &str, now_ms: i64) -> Result<i64, DbError> {
    const SQL: &str = "INSERT INTO rewards_points (key, activity_id, user_id, kind, points, event_id, invitee, at_ms,
            recorded_at_ms)
        SELECT 'void:' || p.activity_id || ':' || p.invitee, p.activity_id, p.user_id, 'void', -p.points, p.event_id,
            p.invitee, p.at_ms, $1
        FROM rewards_points AS p
        JOIN rewards_registrations AS r ON r.activity_id = p.activity_id AND r.invitee = p.invitee
        WHERE p.key = 'invite:' || $2 || ':' || $3 AND r.voided_at_ms IS NOT NULL
        ON CONFLICT (key) DO NOTHING";
    const TAKEN: &str = "SELECT coalesce(sum(-points), 0) FROM rewards_points WHERE key = 'void:' || $1 || ':' || $2";
    db.execute(SQL, [now_ms.into(), activity_id.into(), invitee.into()]).await?;
    let row = db.query_one(TAKEN, [activity_id.into(), invitee.into()]).await?.ok_or(DbError::Column(0))?;
    row.integer(0)
}

/// An entry as its owner sees it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Entry {
    /// `invite`, `void`, or what another system calls it.
    pub(crate) kind: String,
    pub(crate) points: i64,
    /// The event that earned it.
    pub(crate) event_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invitee: Option<String>,
    /// When that happened.
    pub(crate) at: String,
    pub(crate) recorded_at: String,
    #[serde(skip)]
    pub(crate) seq: i64,
}

/// A user's entries, the newest first, older than the row with the cursor.
pub(crate) async fn entries(
    db: &Db,
    activity_id: &str,
    user_id: &str,
    cursor: Option<i64>,
    limit: usize,
) -> Result<Vec<Entry>, DbError> {
    const SQL: &str = "SELECT seq, kind, points, event_id, invitee, at_ms, recorded_at_ms FROM rewards_points
        WHERE activity_id = $1 AND user_id = $2 AND seq < $3 ORDER BY seq DESC LIMIT $4";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let entry = |row: &Row| {
        Ok(Entry {
            seq: row.integer(0)?,
            kind: row.text(1)?.to_owned(),
            points: row.integer(2)?,
            event_id: row.text(3)?.to_owned(),
            invitee: row.optional_text(4)?.map(str::to_owned),
            at: clock::rfc3339(row.integer(5)?),
            recorded_at: clock::rfc3339(row.integer(6)?),
        })
    };
    let values = [activity_id.into(), user_id.into(), cursor.unwrap_or(i64::MAX).into(), limit.into()];
    db.query(SQL, values).await?.iter().map(entry).collect()
}

/// Which part of the ledger is ranked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) activity_id: &'a str,
    /// Of events at or after it, Unix ms.
    pub(crate) from_ms: i64,
    /// And before it.
    pub(crate) to_ms: i64,
    /// Entries up to this row: a later one changes no page that is being read.
    pub(crate) up_to: i64,
}

/// A user's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Rank {
    pub(crate) rank: i64,
    pub(crate) user_id: String,
    pub(crate) points: i64,
    /// When they got there: the time of the last event that added to it.
    pub(crate) reached_at: String,
}

/// Everybody's sum, and when they reached it: the last event that added points. Who never had any is not ranked.
/// What was taken back, at the time of what it takes back, adds nothing.
const TOTALS: &str = "SELECT user_id, sum(points) AS points, max(CASE WHEN points > 0 THEN at_ms END) AS reached_ms
    FROM (SELECT user_id, at_ms, sum(points) AS points FROM rewards_points
        WHERE activity_id = $1 AND at_ms >= $2 AND at_ms < $3 AND seq <= $4
        GROUP BY user_id, at_ms)
    GROUP BY user_id HAVING sum(points) > 0";

/// Better first; among equals who got there first.
const ORDER: &str = "points DESC, reached_ms, user_id";

fn scope(scope: Scope<'_>) -> Vec<Value> {
    vec![scope.activity_id.into(), scope.from_ms.into(), scope.to_ms.into(), scope.up_to.into()]
}

/// The last entry's row.
pub(crate) async fn last(db: &Db) -> Result<i64, DbError> {
    let row = db.query_one("SELECT coalesce(max(seq), 0) FROM rewards_points", []).await?;
    row.ok_or(DbError::Column(0))?.integer(0)
}

/// The places past the first `offset`, at most `limit`.
pub(crate) async fn ranking(db: &Db, of: Scope<'_>, offset: i64, limit: usize) -> Result<Vec<Rank>, DbError> {
    let sql = format!("SELECT user_id, points, reached_ms FROM ({TOTALS}) ORDER BY {ORDER} LIMIT $5 OFFSET $6");
    let mut values = scope(of);
    values.extend([i64::try_from(limit).unwrap_or(i64::MAX).into(), offset.into()]);
    let rows = db.query(&sql, values).await?;
    let rank = |(place, row): (i64, &Row)| {
        Ok(Rank {
            rank: offset + place,
            user_id: row.text(0)?.to_owned(),
            points: row.integer(1)?,
            reached_at: clock::rfc3339(row.integer(2)?),
        })
    };
    (1..).zip(&rows).map(rank).collect()
}

/// All points of a user.
pub(crate) async fn total(db: &Db, activity_id: &str, user_id: &str) -> Result<i64, DbError> {
    const SQL: &str = "SELECT coalesce(sum(points), 0) FROM rewards_points WHERE activity_id = $1 AND user_id = $2";
    let row = db.query_one(SQL, [activity_id.into(), user_id.into()]).await?;
    row.ok_or(DbError::Column(0))?.integer(0)
}

/// A user's sum and place; no place without points.
pub(crate) async fn rank(db: &Db, of: Scope<'_>, user_id: &str) -> Result<(i64, Option<i64>), DbError> {
    let sql = format!(
        "WITH totals AS ({TOTALS}), mine AS (SELECT points, reached_ms, user_id FROM totals WHERE user_id = $5)
        SELECT (SELECT points FROM mine), (SELECT count(*) FROM totals AS t, mine AS m
            WHERE (-t.points, t.reached_ms, t.user_id) <= (-m.points, m.reached_ms, m.user_id))"
    );
    let mut values = scope(of);
    values.push(user_id.into());
    let row = db.query_one(&sql, values).await?.ok_or(DbError::Column(0))?;
    match row.optional_integer(0)? {
        Some(points) => Ok((points, Some(row.integer(1)?))),
        None => Ok((0, None)),
    }
}
