//! What happened: who joined, who invited whom, who opened an account, who earned points elsewhere.

use serde::Serialize;
use shared::{
    clock,
    db::{Db, DbError, Row},
};

use super::json;
use crate::event::{Invitation, Joining, PointsEvent, Registration};

/// Adds a participant; `false` if they have joined already. Another channel replaces the old one.
pub(crate) async fn join(db: &Db, activity_id: &str, joining: &Joining, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "INSERT INTO rewards_participants (activity_id, user_id, channel, joined_at_ms)
        VALUES ($1, $2, $3, $4) ON CONFLICT (activity_id, user_id) DO NOTHING RETURNING 1";
    const CHANNEL: &str = "UPDATE rewards_participants SET channel = $1 WHERE activity_id = $2 AND user_id = $3";
    let channel = joining.channel.map(shared::message::Channel::as_str);
    let (activity, user) = (activity_id, joining.user_id.as_str());
    let values = [activity.into(), user.into(), channel.into(), now_ms.into()];
    let joined = !db.query(SQL, values).await?.is_empty();
    if !joined && channel.is_some() {
        db.execute(CHANNEL, [channel.into(), activity.into(), user.into()]).await?;
    }
    Ok(joined)
}

/// A participant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) joined_at_ms: i64,
    pub(crate) channel: Option<String>,
}

/// One participant.
pub(crate) async fn participant(db: &Db, activity_id: &str, user_id: &str) -> Result<Option<Participant>, DbError> {
    const SQL: &str = "SELECT joined_at_ms, channel FROM rewards_participants WHERE activity_id = $1 AND user_id = $2";
    let Some(row) = db.query_one(SQL, [activity_id.into(), user_id.into()]).await? else { return Ok(None) };
    let channel = row.optional_text(1)?.map(str::to_owned);
    Ok(Some(Participant { joined_at_ms: row.integer(0)?, channel }))
}

/// An invitation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invited {
    pub(crate) inviter: String,
    pub(crate) invited_at_ms: Option<i64>,
    pub(crate) recorded_at_ms: i64,
}

/// Keeps an invitation; `false` if the invitee has an inviter already, or opened the account before it.
pub(crate) async fn invite(db: &Db, activity_id: &str, it: &Invitation, now_ms: i64) -> Result<bool, DbError> {
    // One that came too late stands in nobody's way: another, true one replaces it.
    const SQL: &str = "INSERT INTO rewards_invitations (activity_id, invitee, inviter, invited_at_ms, recorded_at_ms)
        SELECT $1, $2, $3, $4, $5
        WHERE NOT EXISTS (SELECT 1 FROM rewards_registrations AS r
            WHERE r.activity_id = $1 AND r.invitee = $2 AND r.opened_at_ms < coalesce($4, $5))
        ON CONFLICT (activity_id, invitee) DO UPDATE
            SET inviter = excluded.inviter, invited_at_ms = excluded.invited_at_ms,
                recorded_at_ms = excluded.recorded_at_ms
            WHERE EXISTS (SELECT 1 FROM rewards_registrations AS r
                WHERE r.activity_id = $1 AND r.invitee = $2 AND r.opened_at_ms < rewards_invitations.invited_at_ms)
        RETURNING 1";
    let values = [
        activity_id.into(),
        it.invitee.as_str().into(),
        it.inviter.as_str().into(),
        it.invited_at_ms.into(),
        now_ms.into(),
    ];
    Ok(!db.query(SQL, values).await?.is_empty())
}

/// Who invited somebody.
pub(crate) async fn inviter(db: &Db, activity_id: &str, invitee: &str) -> Result<Option<Invited>, DbError> {
    const SQL: &str = "SELECT inviter, invited_at_ms, recorded_at_ms FROM rewards_invitations
        WHERE activity_id = $1 AND invitee = $2";
    let Some(row) = db.query_one(SQL, [activity_id.into(), invitee.into()]).await? else { return Ok(None) };
    let inviter = row.text(0)?.to_owned();
    Ok(Some(Invited { inviter, invited_at_ms: row.optional_integer(1)?, recorded_at_ms: row.integer(2)? }))
}

/// Somebody whom a participant invited.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Invitee {
    pub(crate) invitee: String,
    pub(crate) invited_at: String,
    /// When they opened an account, if they did.
    pub(crate) opened_at: Option<String>,
    /// Whether it earns the participant something.
    pub(crate) due: bool,
    /// Whether the participant has all that it earns: points and a card.
    pub(crate) paid: bool,
}

/// Whether all is given that a registration earns, of [`rewards_earnings`](super) as `e`.
const PAID: &str = "(e.due AND (e.points = 0 OR EXISTS (SELECT 1 FROM rewards_points AS p WHERE p.key = e.key))
    AND (e.card_fen = 0 OR EXISTS (SELECT 1 FROM rewards_claims AS c
        WHERE c.key = e.key AND c.state IN ('issued', 'activated'))))";

/// Whom a participant invited, past the invitee `after`.
pub(crate) async fn invitees(
    db: &Db,
    activity_id: &str,
    inviter: &str,
    after: &str,
    limit: usize,
) -> Result<Vec<Invitee>, DbError> {
    let sql = format!(
        "SELECT i.invitee, coalesce(i.invited_at_ms, i.recorded_at_ms), r.opened_at_ms,
            coalesce((SELECT e.due + {PAID} FROM rewards_earnings AS e
                WHERE e.activity_id = i.activity_id AND e.invitee = i.invitee), 0)
        FROM rewards_invitations AS i
        LEFT JOIN rewards_registrations AS r ON r.activity_id = i.activity_id AND r.invitee = i.invitee
        WHERE i.activity_id = $1 AND i.inviter = $2 AND i.invitee > $3
        ORDER BY i.invitee LIMIT $4"
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let values = [activity_id.into(), inviter.into(), after.into(), limit.into()];
    let invitee = |row: &Row| {
        Ok(Invitee {
            invitee: row.text(0)?.to_owned(),
            invited_at: clock::rfc3339(row.integer(1)?),
            opened_at: row.optional_integer(2)?.map(clock::rfc3339),
            due: row.integer(3)? > 0,
            paid: row.integer(3)? == 2,
        })
    };
    db.query(&sql, values).await?.iter().map(invitee).collect()
}

/// How many a participant invited, and how many of them are paid for.
pub(crate) async fn invited(db: &Db, activity_id: &str, inviter: &str) -> Result<(i64, i64), DbError> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(coalesce((SELECT {PAID} FROM rewards_earnings AS e
            WHERE e.activity_id = i.activity_id AND e.invitee = i.invitee), 0)), 0)
        FROM rewards_invitations AS i
        WHERE i.activity_id = $1 AND i.inviter = $2"
    );
    let row = db.query_one(&sql, [activity_id.into(), inviter.into()]).await?.ok_or(DbError::Column(0))?;
    Ok((row.integer(0)?, row.integer(1)?))
}

/// Records registrations whose events and invitees are not there yet; of an activity that is not there, none.
pub(crate) async fn register(db: &Db, events: &[Registration], path: &str, now_ms: i64) -> Result<(), DbError> {
    // A registration of a time while `register` is off waits: `held`.
    const SQL: &str = "INSERT INTO rewards_registrations (activity_id, invitee, event_id, opened_at_ms, new_customer,
            held, path, recorded_at_ms)
        SELECT a.id, e.value ->> 'invitee', e.value ->> 'event_id', e.value ->> 'opened_at_ms',
            e.value ->> 'new_customer', 1 - a.register_on, $1, $2
        FROM json_each($3) AS e JOIN rewards_activities AS a ON a.id = e.value ->> 'activity_id'
        WHERE true ORDER BY e.key
        ON CONFLICT DO NOTHING";
    db.execute(SQL, [path.into(), now_ms.into(), json(&events)?.into()]).await
}

/// A registration as it is kept, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownRow {
    pub(crate) event_id: String,
    pub(crate) invitee: String,
    pub(crate) opened_at_ms: i64,
    pub(crate) new_customer: bool,
    pub(crate) held: bool,
    pub(crate) voided: bool,
    pub(crate) inviter: Option<String>,
    pub(crate) due: bool,
    pub(crate) points: i64,
    pub(crate) claim_id: Option<String>,
    pub(crate) claim_state: Option<String>,
    pub(crate) points_given: bool,
    pub(crate) card_fen: i64,
    pub(crate) register_on: bool,
}

impl KnownRow {
    /// Whether something is due that was not given.
    pub(crate) fn lacks(&self) -> bool {
        let card = self.card_fen > 0 && self.claim_state.as_deref().is_none_or(|state| state == "waiting");
        self.due && (card || (self.points > 0 && !self.points_given))
    }
}

const KNOWN: &str =
    "w.event_id, w.invitee, w.opened_at_ms, w.new_customer, w.held, w.voided_at_ms IS NOT NULL, w.inviter,
    w.due, w.points, c.id, c.state, EXISTS (SELECT 1 FROM rewards_points AS p WHERE p.key = w.key), w.card_fen,
    w.register_on";

/// A row that has [`KNOWN`] from the column `first` on.
fn known_row(row: &Row, first: usize) -> Result<KnownRow, DbError> {
    let text = |column: usize| row.text(first + column).map(str::to_owned);
    let optional = |column: usize| Ok::<_, DbError>(row.optional_text(first + column)?.map(str::to_owned));
    let flag = |column: usize| Ok::<_, DbError>(row.integer(first + column)? == 1);
    Ok(KnownRow {
        event_id: text(0)?,
        invitee: text(1)?,
        opened_at_ms: row.integer(first + 2)?,
        new_customer: flag(3)?,
        held: flag(4)?,
        voided: flag(5)?,
        inviter: optional(6)?,
        due: flag(7)?,
        points: row.integer(first + 8)?,
        claim_id: optional(9)?,
        claim_state: optional(10)?,
        points_given: flag(11)?,
        card_fen: row.integer(first + 12)?,
        register_on: flag(13)?,
    })
}

/// The row that the event or the invitee of each of `events` has, in their order; `None` if its activity is not there.
pub(crate) async fn known(db: &Db, events: &[Registration]) -> Result<Vec<Option<KnownRow>>, DbError> {
    // The event's own row before the invitee's: an id that is reused for somebody else shows as what it is.
    let sql = format!(
        "SELECT e.key, {KNOWN}
        FROM json_each($1) AS e
        JOIN rewards_earnings AS w ON w.seq = coalesce(
            (SELECT seq FROM rewards_registrations
                WHERE activity_id = e.value ->> 'activity_id' AND event_id = e.value ->> 'event_id'),
            (SELECT seq FROM rewards_registrations
                WHERE activity_id = e.value ->> 'activity_id' AND invitee = e.value ->> 'invitee'))
        LEFT JOIN rewards_claims AS c ON c.key = w.key"
    );
    let mut known = vec![None; events.len()];
    for row in db.query(&sql, [json(&events)?.into()]).await? {
        let place = usize::try_from(row.integer(0)?).ok().and_then(|place| known.get_mut(place));
        *place.ok_or(DbError::Column(0))? = Some(known_row(&row, 1)?);
    }
    Ok(known)
}

/// The registration of an invitee.
pub(crate) async fn of_invitee(db: &Db, activity_id: &str, invitee: &str) -> Result<Option<KnownRow>, DbError> {
    let sql = format!(
        "SELECT {KNOWN} FROM rewards_earnings AS w LEFT JOIN rewards_claims AS c ON c.key = w.key
        WHERE w.activity_id = $1 AND w.invitee = $2"
    );
    let row = db.query_one(&sql, [activity_id.into(), invitee.into()]).await?;
    row.as_ref().map(|row| known_row(row, 0)).transpose()
}

/// Marks as held what cannot be paid because `register` is off.
pub(crate) async fn hold(db: &Db, activity_id: &str, invitees: &[&str]) -> Result<(), DbError> {
    const SQL: &str = "UPDATE rewards_registrations SET held = 1
        WHERE activity_id = $1 AND held = 0 AND invitee IN (SELECT value FROM json_each($2))
            AND EXISTS (SELECT 1 FROM rewards_activities WHERE id = $1 AND register_on = 0)";
    db.execute(SQL, [activity_id.into(), json(&invitees)?.into()]).await
}

/// Some of those who are held, the oldest first, as one value; empty if there are none.
pub(crate) async fn held(db: &Db, activity_id: &str, limit: i64) -> Result<Vec<String>, DbError> {
    const SQL: &str = "SELECT json_group_array(invitee) FROM (SELECT invitee FROM rewards_registrations
        WHERE activity_id = $1 AND held = 1 ORDER BY seq LIMIT $2)";
    invitees_of(db, SQL, [activity_id.into(), limit.into()]).await
}

/// What was held and is paid now.
pub(crate) async fn release(db: &Db, activity_id: &str, invitees: &[String]) -> Result<(), DbError> {
    const SQL: &str = "UPDATE rewards_registrations SET held = 0
        WHERE activity_id = $1 AND held = 1 AND invitee IN (SELECT value FROM json_each($2))
            AND EXISTS (SELECT 1 FROM rewards_activities WHERE id = $1 AND register_on = 1)";
    db.execute(SQL, [activity_id.into(), json(&invitees)?.into()]).await
}

/// Those past the row `after`, of the next `window` rows, who are due something that they were not given; and the last
/// row looked at, `None` at the end.
pub(crate) async fn forgotten(
    db: &Db,
    activity_id: &str,
    after: i64,
    window: i64,
) -> Result<(Vec<String>, Option<i64>), DbError> {
    const LAST: &str = "SELECT max(seq) FROM (SELECT seq FROM rewards_registrations
        WHERE activity_id = $1 AND seq > $2 ORDER BY seq LIMIT $3)";
    const SQL: &str = "SELECT json_group_array(e.invitee) FROM rewards_earnings AS e
        LEFT JOIN rewards_claims AS c ON c.key = e.key
        LEFT JOIN rewards_points AS p ON p.key = e.key
        WHERE e.activity_id = $1 AND e.seq > $2 AND e.seq <= $3 AND e.due AND e.register_on = 1
            AND ((e.card_fen > 0 AND c.seq IS NULL) OR (e.points > 0 AND p.seq IS NULL))";
    let asked = db.query_one(LAST, [activity_id.into(), after.into(), window.into()]).await?;
    let Some(last) = asked.ok_or(DbError::Column(0))?.optional_integer(0)? else { return Ok((Vec::new(), None)) };
    Ok((invitees_of(db, SQL, [activity_id.into(), after.into(), last.into()]).await?, Some(last)))
}

async fn invitees_of<const N: usize>(
    db: &Db,
    sql: &str,
    values: [shared::db::Value; N],
) -> Result<Vec<String>, DbError> {
    let row = db.query_one(sql, values).await?.ok_or(DbError::Column(0))?;
    serde_json::from_str(row.text(0)?).map_err(|error| DbError::Other(error.to_string()))
}

/// Voids a registration; `None` if there is none. The first reason stays.
pub(crate) async fn void(
    db: &Db,
    activity_id: &str,
    invitee: &str,
    reason: &str,
    now_ms: i64,
) -> Result<Option<(i64, String)>, DbError> {
    const SQL: &str = "UPDATE rewards_registrations SET voided_at_ms = coalesce(voided_at_ms, $1),
            void_reason = coalesce(void_reason, $2)
        WHERE activity_id = $3 AND invitee = $4 RETURNING voided_at_ms, void_reason";
    let values = [now_ms.into(), reason.into(), activity_id.into(), invitee.into()];
    let Some(row) = db.query_one(SQL, values).await? else { return Ok(None) };
    Ok(Some((row.integer(0)?, row.text(1)?.to_owned())))
}

/// Records points events whose ids are not there yet; of an activity that is not there, none.
pub(crate) async fn earn(db: &Db, events: &[PointsEvent], path: &str, now_ms: i64) -> Result<(), DbError> {
    const SQL: &str = "INSERT INTO rewards_point_events (activity_id, event_id, user_id, kind, points, at_ms, path,
            recorded_at_ms)
        SELECT a.id, e.value ->> 'event_id', e.value ->> 'user_id', e.value ->> 'kind', e.value ->> 'points',
            e.value ->> 'at_ms', $1, $2
        FROM json_each($3) AS e JOIN rewards_activities AS a ON a.id = e.value ->> 'activity_id'
        WHERE true ORDER BY e.key
        ON CONFLICT DO NOTHING";
    db.execute(SQL, [path.into(), now_ms.into(), json(&events)?.into()]).await
}

/// What is known of a points event that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Earned {
    /// Its activity is not there.
    NoActivity,
    /// The id has other content.
    Other,
    /// It is outside the campaign's dates.
    Outside,
    /// It counts.
    Counts,
}

/// What is known of each of `events`, in their order.
pub(crate) async fn earned(db: &Db, events: &[PointsEvent]) -> Result<Vec<Earned>, DbError> {
    const SQL: &str = "SELECT CASE WHEN a.id IS NULL THEN 0
                WHEN p.user_id IS NOT e.value ->> 'user_id' OR p.kind IS NOT e.value ->> 'kind'
                    OR p.points IS NOT e.value ->> 'points' OR p.at_ms IS NOT e.value ->> 'at_ms' THEN 1
                WHEN p.at_ms < a.starts_at_ms OR p.at_ms >= a.ends_at_ms THEN 2 ELSE 3 END
        FROM json_each($1) AS e
        LEFT JOIN rewards_activities AS a ON a.id = e.value ->> 'activity_id'
        LEFT JOIN rewards_point_events AS p
            ON p.activity_id = e.value ->> 'activity_id' AND p.event_id = e.value ->> 'event_id'
        ORDER BY e.key";
    let earned = |row: &Row| {
        Ok(match row.integer(0)? {
            0 => Earned::NoActivity,
            1 => Earned::Other,
            2 => Earned::Outside,
            _ => Earned::Counts,
        })
    };
    db.query(SQL, [json(&events)?.into()]).await?.iter().map(earned).collect()
}
