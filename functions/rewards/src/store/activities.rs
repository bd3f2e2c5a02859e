//! Campaigns, their terms and switches.

use shared::db::{Db, DbError, Row, Value};

use crate::{
    activity::{Activity, Change, NewActivity, Switches, Terms},
    period::Weekday,
};

/// From the beginning of time: when the first terms hold.
const ALWAYS_MS: i64 = 0;

/// Adds a campaign; `false` if its id is taken.
pub(crate) async fn create(db: &Db, new: &NewActivity, now_ms: i64) -> Result<bool, DbError> {
    // The terms first: a campaign is there only with its terms. Terms of a campaign that is not there, left by a
    // crash, are replaced; those of one that is stay.
    const TERMS: &str = "INSERT INTO rewards_terms (activity_id, from_ms, invite_card_fen, invite_points,
            settlement_points, settlement_cards, settlement_card_fen)
        SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM rewards_activities WHERE id = $1)
        ON CONFLICT (activity_id, from_ms) DO UPDATE SET invite_card_fen = $3, invite_points = $4,
            settlement_points = $5, settlement_cards = $6, settlement_card_fen = $7";
    const SQL: &str = "INSERT INTO rewards_activities (id, name, starts_at_ms, ends_at_ms, weekday_start,
            created_at_ms, updated_at_ms)
        SELECT $1, $2, $3, $4, $5, $6, $6 FROM rewards_terms
        WHERE activity_id = $1 AND from_ms = $7 AND invite_card_fen = $8 AND invite_points = $9
            AND settlement_points = $10 AND settlement_cards = $11 AND settlement_card_fen = $12
        ON CONFLICT (id) DO NOTHING RETURNING 1";
    let id: Value = new.id.as_str().into();
    let terms = new.terms;
    let terms: [Value; 5] = [
        terms.invite_card_fen.into(),
        terms.invite_points.into(),
        terms.settlement_points.into(),
        terms.settlement_cards.into(),
        terms.settlement_card_fen.into(),
    ];
    let first = [id.clone(), ALWAYS_MS.into()].into_iter().chain(terms.clone());
    db.execute(TERMS, first).await?;
    let values = [
        id,
        new.name.as_str().into(),
        new.starts_at_ms.into(),
        new.ends_at_ms.into(),
        new.weekday_start.number().into(),
        now_ms.into(),
        ALWAYS_MS.into(),
    ];
    Ok(!db.query(SQL, values.into_iter().chain(terms)).await?.is_empty())
}

const COLUMNS: &str = "a.id, a.name, a.starts_at_ms, a.ends_at_ms, a.weekday_start, a.join_on, a.invite_on, a.query_on,
    a.register_on, a.created_at_ms, a.updated_at_ms, a.seq, t.invite_card_fen, t.invite_points, t.settlement_points,
    t.settlement_cards, t.settlement_card_fen";

const FROM: &str = "FROM rewards_activities AS a JOIN rewards_terms AS t ON t.activity_id = a.id
    AND t.from_ms = (SELECT max(l.from_ms) FROM rewards_terms AS l WHERE l.activity_id = a.id)";

fn activity(row: &Row) -> Result<Activity, DbError> {
    let on = |column| row.integer(column).map(|number| number == 1);
    Ok(Activity {
        id: row.text(0)?.to_owned(),
        name: row.text(1)?.to_owned(),
        starts_at_ms: row.integer(2)?,
        ends_at_ms: row.integer(3)?,
        weekday_start: Weekday::of_number(row.integer(4)?).ok_or(DbError::Column(4))?,
        switches: Switches { join: on(5)?, invite: on(6)?, query: on(7)?, register: on(8)? },
        created_at_ms: row.integer(9)?,
        updated_at_ms: row.integer(10)?,
        seq: row.integer(11)?,
        terms: Terms {
            invite_card_fen: row.integer(12)?,
            invite_points: row.integer(13)?,
            settlement_points: row.integer(14)?,
            settlement_cards: row.integer(15)?,
            settlement_card_fen: row.integer(16)?,
        },
    })
}

/// One campaign, with the terms that hold now.
pub(crate) async fn get(db: &Db, id: &str) -> Result<Option<Activity>, DbError> {
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE a.id = $1");
    db.query_one(&sql, [id.into()]).await?.as_ref().map(activity).transpose()
}

/// The newest first, at most `limit`, older than the row with the cursor.
pub(crate) async fn list(db: &Db, cursor: Option<i64>, limit: usize) -> Result<Vec<Activity>, DbError> {
    let sql = format!("SELECT {COLUMNS} {FROM} WHERE a.seq < $1 ORDER BY a.seq DESC LIMIT $2");
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    db.query(&sql, [cursor.unwrap_or(i64::MAX).into(), limit.into()]).await?.iter().map(activity).collect()
}

/// Changes a campaign; `false` if there is none, or if its dates would end before they start by now.
pub(crate) async fn change(db: &Db, id: &str, change: &Change, now_ms: i64) -> Result<bool, DbError> {
    const SQL: &str = "UPDATE rewards_activities SET name = coalesce($1, name),
            starts_at_ms = coalesce($2, starts_at_ms), ends_at_ms = coalesce($3, ends_at_ms),
            join_on = coalesce($4, join_on), invite_on = coalesce($5, invite_on),
            query_on = coalesce($6, query_on), register_on = coalesce($7, register_on), updated_at_ms = $8
        WHERE id = $9 AND coalesce($2, starts_at_ms) < coalesce($3, ends_at_ms) RETURNING 1";
    // What was paid by the old terms stays theirs: events that came while this was on its way, or whose clock is ahead,
    // and periods that were settled.
    const TERMS: &str = "INSERT INTO rewards_terms (activity_id, from_ms, invite_card_fen, invite_points,
            settlement_points, settlement_cards, settlement_card_fen)
        SELECT t.activity_id, max($1, t.from_ms,
                coalesce((SELECT max(r.opened_at_ms) + 1 FROM rewards_registrations AS r
                    JOIN rewards_activities AS a ON a.id = r.activity_id
                    WHERE r.activity_id = t.activity_id AND r.opened_at_ms >= $1 AND r.opened_at_ms < a.ends_at_ms), 0),
                coalesce((SELECT max(c.at_ms) FROM rewards_claims AS c
                    WHERE c.kind = 'settlement' AND c.activity_id = t.activity_id), 0)),
            coalesce($2, invite_card_fen), coalesce($3, invite_points),
            coalesce($4, settlement_points), coalesce($5, settlement_cards), coalesce($6, settlement_card_fen)
        FROM rewards_terms AS t WHERE t.activity_id = $7 ORDER BY t.from_ms DESC LIMIT 1
        ON CONFLICT (activity_id, from_ms) DO UPDATE SET invite_card_fen = excluded.invite_card_fen,
            invite_points = excluded.invite_points, settlement_points = excluded.settlement_points,
            settlement_cards = excluded.settlement_cards, settlement_card_fen = excluded.settlement_card_fen";
    let flag = |flag: Option<bool>| Value::from(flag.map(i64::from));
    let values = [
        change.name.as_deref().into(),
        change.starts_at_ms.into(),
        change.ends_at_ms.into(),
        flag(change.join),
        flag(change.invite),
        flag(change.query),
        flag(change.register),
        now_ms.into(),
        id.into(),
    ];
    if db.query(SQL, values).await?.is_empty() {
        return Ok(false);
    }
    let terms = change.terms;
    if terms != crate::activity::TermsChange::default() {
        let values = [
            now_ms.into(),
            terms.invite_card_fen.into(),
            terms.invite_points.into(),
            terms.settlement_points.into(),
            terms.settlement_cards.into(),
            terms.settlement_card_fen.into(),
            id.into(),
        ];
        db.execute(TERMS, values).await?;
    }
    Ok(true)
}

/// The terms that held just before `at_ms`.
pub(crate) async fn terms_before(db: &Db, id: &str, at_ms: i64) -> Result<Option<Terms>, DbError> {
    const SQL: &str = "SELECT invite_card_fen, invite_points, settlement_points, settlement_cards, settlement_card_fen
        FROM rewards_terms WHERE activity_id = $1 AND from_ms < $2 ORDER BY from_ms DESC LIMIT 1";
    let Some(row) = db.query_one(SQL, [id.into(), at_ms.into()]).await? else { return Ok(None) };
    Ok(Some(Terms {
        invite_card_fen: row.integer(0)?,
        invite_points: row.integer(1)?,
        settlement_points: row.integer(2)?,
        settlement_cards: row.integer(3)?,
        settlement_card_fen: row.integer(4)?,
    }))
}
