//! The books: what is due, recomputed from the events, beside what was given. A step looks at a window of rows, so
//! that an audit of millions takes constant memory, here and in the engine.

use serde::Serialize;
use shared::db::{Db, DbError, Row, Value};

use super::settlements::Settled;
use crate::period::Period;

/// Something that is not as the events say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// `over_issued`, `double_issued`, `unfulfilled`, `orphan_card` or `points_mismatch`.
    pub(crate) finding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) claim_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) card_no: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) invitee: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) event_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) period: Option<String>,
    pub(crate) detail: String,
}

/// What was counted on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Totals {
    pub(crate) registrations: i64,
    pub(crate) point_events: i64,
    pub(crate) claims: i64,
    pub(crate) cards: i64,
    pub(crate) due: Sum,
    pub(crate) issued: Sum,
    pub(crate) recalled: i64,
    pub(crate) waiting: i64,
}

/// Cards, what they are worth, and points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sum {
    pub(crate) cards: i64,
    pub(crate) fen: i64,
    pub(crate) points: i64,
}

/// The rows past `after` up to `last`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window<'a> {
    pub(crate) activity_id: &'a str,
    pub(crate) after: i64,
    pub(crate) last: i64,
}

impl Window<'_> {
    fn values(self) -> [Value; 3] {
        [self.activity_id.into(), self.after.into(), self.last.into()]
    }
}

/// A table that is audited row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Registrations,
    PointEvents,
    Ledger,
    Claims,
    Cards,
}

impl Table {
    /// In the order in which they are audited.
    pub(crate) const ALL: &[Self] = &[Self::Registrations, Self::PointEvents, Self::Ledger, Self::Claims, Self::Cards];

    const fn name(self) -> &'static str {
        match self {
            Self::Registrations => "rewards_registrations",
            Self::PointEvents => "rewards_point_events",
            Self::Ledger => "rewards_points",
            Self::Claims => "rewards_claims",
            Self::Cards => "rewards_cards",
        }
    }
}

/// The last row of the next window of `rows`, whoever's they are; `None` at the end.
pub(crate) async fn window(db: &Db, table: Table, after: i64, rows: i64) -> Result<Option<i64>, DbError> {
    // A window of row numbers, not of this activity's rows: it needs no index of its own.
    let sql = format!(
        "SELECT CASE WHEN m > $1 THEN min(m, coalesce((SELECT min(seq) FROM {0} WHERE seq > $1), m) + $2 - 1) END
        FROM (SELECT max(seq) AS m FROM {0})",
        table.name()
    );
    db.query_one(&sql, [after.into(), rows.into()]).await?.ok_or(DbError::Column(0))?.optional_integer(0)
}

/// Audits a window of a table: adds to the totals, and returns what it finds.
pub(crate) async fn look(
    db: &Db,
    table: Table,
    of: Window<'_>,
    now_ms: i64,
    totals: &mut Totals,
) -> Result<Vec<Finding>, DbError> {
    match table {
        Table::Registrations => registrations(db, of, totals).await,
        Table::PointEvents => point_events(db, of, totals).await,
        Table::Ledger => ledger(db, of).await,
        Table::Claims => claims(db, of, now_ms, totals).await,
        Table::Cards => cards(db, of, totals).await,
    }
}

/// While `register` is off what was given before stays due, and nothing else is.
const CARD_DUE: &str = "(e.due AND e.card_fen > 0 AND (e.register_on = 1 OR c.seq IS NOT NULL))";
const POINTS_DUE: &str = "(CASE WHEN e.due AND (e.register_on = 1 OR p.seq IS NOT NULL) THEN e.points ELSE 0 END)";
const REGISTRATIONS: &str = "FROM rewards_earnings AS e
    LEFT JOIN rewards_claims AS c ON c.key = e.key
    LEFT JOIN rewards_points AS p ON p.key = e.key
    LEFT JOIN rewards_points AS v ON e.voided_at_ms IS NOT NULL
        AND v.key = 'void:' || e.activity_id || ':' || e.invitee
    WHERE e.activity_id = $1 AND e.seq > $2 AND e.seq <= $3";
const POINTS_GIVEN: &str = "(coalesce(p.points, 0) + coalesce(v.points, 0))";

async fn registrations(db: &Db, of: Window<'_>, totals: &mut Totals) -> Result<Vec<Finding>, DbError> {
    let no_card = format!("({CARD_DUE} AND (c.seq IS NULL OR c.state = 'waiting'))");
    let other_points = format!(
        "({POINTS_DUE} <> {POINTS_GIVEN}
        OR p.seq IS NOT NULL AND (p.user_id IS NOT e.inviter OR p.at_ms <> e.opened_at_ms))"
    );
    let count = format!(
        "SELECT count(*), coalesce(sum({CARD_DUE}), 0), coalesce(sum(CASE WHEN {CARD_DUE} THEN e.card_fen END), 0),
            coalesce(sum({POINTS_DUE}), 0), coalesce(sum({no_card}), 0), coalesce(sum({other_points}), 0)
        {REGISTRATIONS}"
    );
    let row = db.query_one(&count, of.values()).await?.ok_or(DbError::Column(0))?;
    totals.registrations += row.integer(0)?;
    totals.due.cards += row.integer(1)?;
    totals.due.fen += row.integer(2)?;
    totals.due.points += row.integer(3)?;
    let mut findings = Vec::new();
    if row.integer(4)? > 0 {
        let sql = format!("SELECT e.inviter, c.id, e.invitee, e.event_id {REGISTRATIONS} AND {no_card} ORDER BY e.seq");
        for row in db.query(&sql, of.values()).await? {
            let claim_id = owned(&row, 1)?;
            let detail = if claim_id.is_some() { "the claim waits for a card" } else { "there is no claim" };
            findings.push(Finding {
                finding: "unfulfilled",
                user_id: owned(&row, 0)?,
                claim_id,
                invitee: owned(&row, 2)?,
                event_id: owned(&row, 3)?,
                detail: detail.into(),
                ..Finding::default()
            });
        }
    }
    if row.integer(5)? > 0 {
        let sql = format!(
            "SELECT coalesce(p.user_id, e.inviter), e.invitee, e.event_id, {POINTS_DUE}, {POINTS_GIVEN}
            {REGISTRATIONS} AND {other_points} ORDER BY e.seq"
        );
        for row in db.query(&sql, of.values()).await? {
            findings.push(Finding {
                finding: "points_mismatch",
                user_id: owned(&row, 0)?,
                invitee: owned(&row, 1)?,
                event_id: owned(&row, 2)?,
                detail: format!("{} points are due and {} are given", row.integer(3)?, row.integer(4)?),
                ..Finding::default()
            });
        }
    }
    Ok(findings)
}

async fn point_events(db: &Db, of: Window<'_>, totals: &mut Totals) -> Result<Vec<Finding>, DbError> {
    const FROM: &str = "FROM rewards_point_events AS e JOIN rewards_activities AS a ON a.id = e.activity_id
        LEFT JOIN rewards_points AS p ON p.key = 'event:' || e.activity_id || ':' || e.event_id
        WHERE e.activity_id = $1 AND e.seq > $2 AND e.seq <= $3";
    const DUE: &str = "(CASE WHEN e.at_ms >= a.starts_at_ms AND e.at_ms < a.ends_at_ms THEN e.points ELSE 0 END)";
    let other = format!("({DUE} <> coalesce(p.points, 0) OR p.user_id <> e.user_id OR p.at_ms <> e.at_ms)");
    let count = format!("SELECT count(*), coalesce(sum({DUE}), 0), coalesce(sum({other}), 0) {FROM}");
    let row = db.query_one(&count, of.values()).await?.ok_or(DbError::Column(0))?;
    totals.point_events += row.integer(0)?;
    totals.due.points += row.integer(1)?;
    if row.integer(2)? == 0 {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT e.user_id, e.event_id, {DUE}, coalesce(p.points, 0) {FROM} AND {other} ORDER BY e.seq");
    let finding = |row: &Row| {
        Ok(Finding {
            finding: "points_mismatch",
            user_id: owned(row, 0)?,
            event_id: owned(row, 1)?,
            detail: format!("{} points are due and {} are given", row.integer(2)?, row.integer(3)?),
            ..Finding::default()
        })
    };
    db.query(&sql, of.values()).await?.iter().map(finding).collect()
}

/// Entries that no event explains. The others were compared from the events' side.
async fn ledger(db: &Db, of: Window<'_>) -> Result<Vec<Finding>, DbError> {
    const SQL: &str = "SELECT p.user_id, p.event_id, p.invitee, p.points FROM rewards_points AS p
        WHERE p.activity_id = $1 AND p.seq > $2 AND p.seq <= $3 AND NOT CASE
            WHEN p.key = 'invite:' || p.activity_id || ':' || p.invitee OR
                p.key = 'void:' || p.activity_id || ':' || p.invitee
                THEN EXISTS (SELECT 1 FROM rewards_registrations AS r
                    WHERE r.activity_id = p.activity_id AND r.invitee = p.invitee
                    AND (p.kind <> 'void' OR r.voided_at_ms IS NOT NULL))
            WHEN p.key = 'event:' || p.activity_id || ':' || p.event_id
                THEN EXISTS (SELECT 1 FROM rewards_point_events AS e
                    WHERE e.activity_id = p.activity_id AND e.event_id = p.event_id)
            ELSE false END
        ORDER BY p.seq";
    let finding = |row: &Row| {
        Ok(Finding {
            finding: "points_mismatch",
            user_id: owned(row, 0)?,
            event_id: owned(row, 1)?,
            invitee: owned(row, 2)?,
            detail: format!("{} points that no event explains", row.integer(3)?),
            ..Finding::default()
        })
    };
    db.query(SQL, of.values()).await?.iter().map(finding).collect()
}

async fn claims(db: &Db, of: Window<'_>, now_ms: i64, totals: &mut Totals) -> Result<Vec<Finding>, DbError> {
    const FROM: &str = "FROM rewards_claims AS c
        LEFT JOIN rewards_cards AS k ON k.claim_id = c.id
        LEFT JOIN rewards_cards AS n ON n.card_no = c.card_no
        WHERE c.activity_id = $2 AND c.seq > $3 AND c.seq <= $4";
    // What a switched-off `register` holds back is due all the same. A settlement's card is compared with its period,
    // unless that has not ended.
    const OVER: &str = "(c.state <> 'recalled' AND CASE c.kind WHEN 'invite'
        THEN NOT EXISTS (SELECT 1 FROM rewards_earnings AS e WHERE e.activity_id = c.activity_id
            AND e.invitee = c.invitee AND e.due AND e.inviter = c.user_id AND e.card_fen = c.fen)
        ELSE c.at_ms > $1 END)";
    const EMPTY: &str = "(c.state IN ('issued', 'activated') AND c.card_no IS NULL)";
    const ORPHAN: &str =
        "(c.card_no IS NOT NULL AND (n.seq IS NULL OR n.fen <> c.fen OR n.activity_id <> c.activity_id))";
    const DOUBLE: &str = "(n.seq IS NOT NULL AND n.claim_id IS NOT c.id
        OR k.seq IS NOT NULL AND c.card_no IS NOT NULL AND k.card_no <> c.card_no)";
    let count = format!(
        "SELECT count(*), coalesce(sum(c.state IN ('issued', 'activated')), 0),
            coalesce(sum(CASE WHEN c.state IN ('issued', 'activated') THEN c.fen END), 0),
            coalesce(sum(c.state = 'recalled'), 0), coalesce(sum(c.state = 'waiting'), 0),
            coalesce(sum({OVER} OR {EMPTY} OR {ORPHAN} OR {DOUBLE}), 0) {FROM}"
    );
    // SQLite numbers such parameters by where they first stand.
    let values = || [now_ms.into(), of.activity_id.into(), of.after.into(), of.last.into()];
    let row = db.query_one(&count, values()).await?.ok_or(DbError::Column(0))?;
    totals.claims += row.integer(0)?;
    totals.issued.cards += row.integer(1)?;
    totals.issued.fen += row.integer(2)?;
    totals.recalled += row.integer(3)?;
    totals.waiting += row.integer(4)?;
    if row.integer(5)? == 0 {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT c.user_id, c.id, c.card_no, c.invitee, c.event_id, {OVER}, {ORPHAN}, {EMPTY}, c.state, c.period
        {FROM} AND ({OVER} OR {EMPTY} OR {ORPHAN} OR {DOUBLE}) ORDER BY c.seq"
    );
    let finding = |row: &Row| {
        let (finding, detail) = if row.integer(5)? == 1 {
            ("over_issued", format!("no event earns this card, which is {}", row.text(8)?))
        } else if row.integer(7)? == 1 {
            ("unfulfilled", format!("the claim is {} and has no card", row.text(8)?))
        } else if row.integer(6)? == 1 {
            ("orphan_card", "the claim names a card that is not there, or not of its worth and activity".into())
        } else {
            ("double_issued", "the claim's card belongs to another claim, or it has two".into())
        };
        Ok(Finding {
            finding,
            user_id: owned(row, 0)?,
            claim_id: owned(row, 1)?,
            card_no: owned(row, 2)?,
            invitee: owned(row, 3)?,
            event_id: owned(row, 4)?,
            period: owned(row, 9)?,
            detail,
        })
    };
    db.query(&sql, values()).await?.iter().map(finding).collect()
}

/// Cards that are given away and that no claim knows.
async fn cards(db: &Db, of: Window<'_>, totals: &mut Totals) -> Result<Vec<Finding>, DbError> {
    const FROM: &str = "FROM rewards_cards AS k LEFT JOIN rewards_claims AS c ON c.id = k.claim_id
        WHERE k.activity_id = $1 AND k.seq > $2 AND k.seq <= $3";
    // Both sides are written by one statement.
    const ORPHAN: &str = "(k.claim_id IS NOT NULL AND c.card_no IS NOT k.card_no)";
    let count = format!("SELECT count(*), coalesce(sum({ORPHAN}), 0) {FROM}");
    let row = db.query_one(&count, of.values()).await?.ok_or(DbError::Column(0))?;
    totals.cards += row.integer(0)?;
    if row.integer(1)? == 0 {
        return Ok(Vec::new());
    }
    let sql = format!("SELECT k.card_no, k.claim_id {FROM} AND {ORPHAN} ORDER BY k.seq");
    let finding = |row: &Row| {
        Ok(Finding {
            finding: "orphan_card",
            card_no: owned(row, 0)?,
            claim_id: owned(row, 1)?,
            detail: "the card is given away, and its claim does not have it".into(),
            ..Finding::default()
        })
    };
    db.query(&sql, of.values()).await?.iter().map(finding).collect()
}

/// When the first points at or after `from_ms` were earned.
pub(crate) async fn next_points(db: &Db, activity_id: &str, from_ms: i64) -> Result<Option<i64>, DbError> {
    const SQL: &str = "SELECT min(at_ms) FROM rewards_points WHERE activity_id = $1 AND at_ms >= $2";
    db.query_one(SQL, [activity_id.into(), from_ms.into()]).await?.ok_or(DbError::Column(0))?.optional_integer(0)
}

/// The first settled period whose name is not before `from`.
pub(crate) async fn next_settled(db: &Db, activity_id: &str, from: &str) -> Result<Option<Period>, DbError> {
    const SQL: &str = "SELECT min(period) FROM rewards_claims
        WHERE kind = 'settlement' AND activity_id = $1 AND period >= $2";
    let row = db.query_one(SQL, [activity_id.into(), from.into()]).await?.ok_or(DbError::Column(0))?;
    Ok(row.optional_text(0)?.and_then(Period::parse))
}

/// What a period owes to users past `after`, beside what they have, of at most `users` of them; the last user looked
/// at, `None` at the end.
pub(crate) async fn period(
    db: &Db,
    of: Settled<'_>,
    after: &str,
    users: i64,
    totals: &mut Totals,
) -> Result<(Vec<Finding>, Option<String>), DbError> {
    const BOTH: &str = "WITH some AS (SELECT user_id FROM (
                SELECT user_id FROM rewards_points WHERE activity_id = $1 AND user_id > $2 AND at_ms >= $3 AND at_ms < $4
                UNION SELECT user_id FROM rewards_claims
                    WHERE kind = 'settlement' AND activity_id = $1 AND period = $5 AND user_id > $2)
            ORDER BY user_id LIMIT $6),
        both AS (SELECT s.user_id,
            max(0, coalesce((SELECT sum(p.points) FROM rewards_points AS p WHERE p.activity_id = $1
                AND p.user_id = s.user_id AND p.at_ms >= $3 AND p.at_ms < $4), 0)) / $7 * $8 AS due,
            (SELECT count(*) FROM rewards_claims AS c WHERE c.kind = 'settlement' AND c.activity_id = $1
                AND c.period = $5 AND c.user_id = s.user_id AND c.key IS NOT NULL) AS claimed
            FROM some AS s)";
    let values = || -> Vec<Value> {
        vec![
            of.activity_id.into(),
            after.into(),
            of.period.first_ms().into(),
            of.period.to_ms().into(),
            of.period.name().into(),
            users.into(),
            of.terms.settlement_points.into(),
            of.terms.settlement_cards.into(),
        ]
    };
    let count =
        format!("{BOTH} SELECT max(user_id), coalesce(sum(due), 0), coalesce(sum(due <> claimed), 0) FROM both");
    let row = db.query_one(&count, values()).await?.ok_or(DbError::Column(0))?;
    let Some(last) = owned(&row, 0)? else { return Ok((Vec::new(), None)) };
    totals.due.cards += row.integer(1)?;
    totals.due.fen += row.integer(1)? * of.terms.settlement_card_fen;
    let mut findings = Vec::new();
    if row.integer(2)? > 0 {
        let sql = format!("{BOTH} SELECT user_id, due, claimed FROM both WHERE due > claimed ORDER BY user_id");
        for row in db.query(&sql, values()).await? {
            findings.push(Finding {
                finding: "unfulfilled",
                user_id: owned(&row, 0)?,
                period: Some(of.period.name()),
                detail: format!(
                    "{} cards are due and {} are claimed: settle the period",
                    row.integer(1)?,
                    row.integer(2)?
                ),
                ..Finding::default()
            });
        }
        let sql = format!(
            "{BOTH} SELECT b.user_id, c.id, c.card_no, c.state FROM both AS b
            JOIN rewards_claims AS c ON c.kind = 'settlement' AND c.activity_id = $1 AND c.period = $5
                AND c.user_id = b.user_id AND c.n > b.due
            WHERE b.due < b.claimed AND c.state <> 'recalled' ORDER BY c.seq"
        );
        for row in db.query(&sql, values()).await? {
            findings.push(Finding {
                finding: "over_issued",
                user_id: owned(&row, 0)?,
                claim_id: owned(&row, 1)?,
                card_no: owned(&row, 2)?,
                period: Some(of.period.name()),
                detail: format!("the points of the period do not earn this card, which is {}", row.text(3)?),
                ..Finding::default()
            });
        }
    }
    let sql = format!(
        "{BOTH} SELECT b.user_id, c.id, c.card_no, c.fen FROM both AS b
        JOIN rewards_claims AS c ON c.kind = 'settlement' AND c.activity_id = $1 AND c.period = $5
            AND c.user_id = b.user_id AND c.n <= b.due
        WHERE c.fen <> $9 AND c.state <> 'recalled' ORDER BY c.seq"
    );
    let mut of_another_worth = values();
    of_another_worth.push(of.terms.settlement_card_fen.into());
    for row in db.query(&sql, of_another_worth).await? {
        findings.push(Finding {
            finding: "over_issued",
            user_id: owned(&row, 0)?,
            claim_id: owned(&row, 1)?,
            card_no: owned(&row, 2)?,
            period: Some(of.period.name()),
            detail: format!("{} fen are due and the card is of {}", of.terms.settlement_card_fen, row.integer(3)?),
            ..Finding::default()
        });
    }
    // The cards of settled points that wait.
    let sql = format!(
        "{BOTH} SELECT b.user_id, c.id FROM both AS b
        JOIN rewards_claims AS c ON c.kind = 'settlement' AND c.activity_id = $1 AND c.period = $5
            AND c.user_id = b.user_id AND c.n <= b.due
        WHERE c.state = 'waiting' ORDER BY c.seq"
    );
    for row in db.query(&sql, values()).await? {
        findings.push(Finding {
            finding: "unfulfilled",
            user_id: owned(&row, 0)?,
            claim_id: owned(&row, 1)?,
            period: Some(of.period.name()),
            detail: "the claim waits for a card".into(),
            ..Finding::default()
        });
    }
    Ok((findings, Some(last)))
}

/// All points given in a campaign.
pub(crate) async fn points_given(db: &Db, activity_id: &str) -> Result<i64, DbError> {
    const SQL: &str = "SELECT coalesce(sum(points), 0) FROM rewards_points WHERE activity_id = $1";
    db.query_one(SQL, [activity_id.into()]).await?.ok_or(DbError::Column(0))?.integer(0)
}

fn owned(row: &Row, column: usize) -> Result<Option<String>, DbError> {
    Ok(row.optional_text(column)?.map(str::to_owned))
}
