//! The audit of a campaign, step by step: every table in windows, then every period that has ended.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::db::{Db, DbError};

use crate::{
    activity::Activity,
    period::Period,
    store::{
        activities,
        audit::{self, Finding, Table, Totals, Window},
        searches::{self, Search},
        settlements::Settled,
    },
};

/// Rows, or users, that one step looks at.
const STEP: i64 = 10_000;

/// An audit that is under way.
pub(crate) struct Audit {
    db: Db,
    activity: Activity,
    now_ms: i64,
    tables: &'static [Table],
    /// Periods that ended before it are not looked at.
    periods_from_ms: i64,
    stage: Stage,
    totals: Totals,
    findings: BTreeMap<&'static str, u64>,
}

enum Stage {
    /// The table with this number, past the row.
    Table(usize, i64),
    /// The first period with points at or after the time, past the user.
    Period(i64, String),
    Done,
}

/// A line of the answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Line {
    Finding(Finding),
    /// The last: without it the audit was cut off.
    Totals {
        totals: Totals,
        findings: BTreeMap<&'static str, u64>,
        clean: bool,
    },
}

impl Audit {
    /// Of `activity`, as of `now_ms`.
    pub(crate) fn new(db: Db, activity: Activity, now_ms: i64) -> Self {
        Self {
            db,
            activity,
            now_ms,
            tables: Table::ALL,
            periods_from_ms: 0,
            stage: Stage::Table(0, 0),
            totals: Totals::default(),
            findings: BTreeMap::new(),
        }
    }

    /// Of what claims alone show, from where the last such search ended.
    pub(crate) async fn of_claims(db: Db, activity: Activity, now_ms: i64) -> Result<Self, DbError> {
        let after = searches::after(&db, &activity.id, Search::Claims).await?;
        let periods_from_ms = searches::after(&db, &activity.id, Search::Periods).await?;
        let stage = Stage::Table(0, after);
        Ok(Self { tables: &[Table::Claims], periods_from_ms, stage, ..Self::new(db, activity, now_ms) })
    }

    /// The next lines, maybe none; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Line>>, DbError> {
        let found = match &self.stage {
            Stage::Table(table, after) => self.table(*table, *after).await?,
            Stage::Period(from_ms, after) => self.period(*from_ms, after.clone()).await?,
            Stage::Done => return Ok(None),
        };
        for finding in &found {
            *self.findings.entry(finding.finding).or_default() += 1;
        }
        let mut lines: Vec<Line> = found.into_iter().map(Line::Finding).collect();
        if matches!(self.stage, Stage::Done) {
            self.totals.issued.points = audit::points_given(&self.db, &self.activity.id).await?;
            let clean = self.findings.is_empty();
            lines.push(Line::Totals { totals: self.totals, findings: std::mem::take(&mut self.findings), clean });
        }
        Ok(Some(lines))
    }

    async fn table(&mut self, number: usize, after: i64) -> Result<Vec<Finding>, DbError> {
        let Some(table) = self.tables.get(number).copied() else {
            self.stage = Stage::Period(self.periods_from_ms, String::new());
            return Ok(Vec::new());
        };
        let Some(last) = audit::window(&self.db, table, after, STEP).await? else {
            self.stage = Stage::Table(number + 1, 0);
            return Ok(Vec::new());
        };
        let window = Window { activity_id: &self.activity.id, after, last };
        let found = audit::look(&self.db, table, window, self.now_ms, &mut self.totals).await?;
        self.stage = Stage::Table(number, last);
        Ok(found)
    }

    async fn period(&mut self, from_ms: i64, after: String) -> Result<Vec<Finding>, DbError> {
        let containing = |at_ms| Period::containing(at_ms, self.activity.weekday_start);
        let earned = audit::next_points(&self.db, &self.activity.id, from_ms).await?.and_then(containing);
        let from = containing(from_ms).map(Period::name).unwrap_or_default();
        let settled = audit::next_settled(&self.db, &self.activity.id, &from).await?;
        let period = [earned, settled].into_iter().flatten().min_by_key(|period| period.first_ms());
        let Some(period) = period.filter(|period| period.to_ms() <= self.now_ms) else {
            self.stage = Stage::Done;
            return Ok(Vec::new());
        };
        let Some(terms) = activities::terms_before(&self.db, &self.activity.id, period.to_ms()).await? else {
            self.stage = Stage::Period(period.to_ms(), String::new());
            return Ok(Vec::new());
        };
        let settled = Settled { activity_id: &self.activity.id, period, terms };
        let (found, last) = audit::period(&self.db, settled, &after, STEP, &mut self.totals).await?;
        self.stage = match last {
            Some(last) => Stage::Period(from_ms, last),
            None => Stage::Period(period.to_ms(), String::new()),
        };
        Ok(found)
    }
}

/// The next claims that an audit finds issued without reason, maybe none; `None` at the end.
pub(crate) async fn over_issued(audit: &mut Audit) -> Result<Option<Vec<String>>, DbError> {
    let Some(lines) = audit.next().await? else { return Ok(None) };
    let over = |line: Line| match line {
        Line::Finding(finding) if finding.finding == "over_issued" => finding.claim_id,
        _ => None,
    };
    Ok(Some(lines.into_iter().filter_map(over).collect()))
}

/// Notes how far an audit [`of_claims`](Audit::of_claims) came: the next one begins there.
pub(crate) async fn note(audit: &Audit) -> Result<(), DbError> {
    let (db, id) = (&audit.db, &audit.activity.id);
    match audit.stage {
        Stage::Table(0, after) => searches::note(db, id, Search::Claims, after).await,
        Stage::Table(..) => Ok(()),
        Stage::Period(from_ms, _) => searches::note(db, id, Search::Periods, from_ms).await,
        Stage::Done => {
            searches::note(db, id, Search::Claims, 0).await?;
            searches::note(db, id, Search::Periods, 0).await
        }
    }
}
