//! The rules in force, and an operator's hand on them.

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, header},
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    db::{Db, DbError},
    digest,
    fields::{Fields, unacceptable},
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
};

use super::{allowed, body, parsed};
use crate::{
    config::{db, rules},
    intake::log,
    order::Order,
    rules::{
        Action, Fired, RuleSet,
        source::{Proposal, Sample, Source},
    },
    status::Status,
    store::{self, KeptRules},
};

/// A page of the history is full with so many bytes.
const HISTORY_BYTES: usize = 4 * 1024 * 1024;
/// Sets that are read at once.
const HISTORY_BITE: usize = 4;

/// A set as it is told.
#[derive(Serialize)]
pub(super) struct Told {
    version: i64,
    operator: Option<String>,
    at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rolled_back_to: Option<i64>,
    #[serde(flatten)]
    source: Source,
    samples: Vec<Sample>,
}

impl Told {
    fn of(kept: &KeptRules) -> Result<Self, DbError> {
        let unreadable = |error: serde_json::Error| DbError::Other(error.to_string());
        Ok(Self {
            version: kept.version,
            operator: Some(kept.operator.clone()),
            at: Some(clock::rfc3339(kept.at_ms)),
            rolled_back_to: kept.rolled_back_to,
            source: serde_json::from_str(&kept.source).map_err(unreadable)?,
            samples: serde_json::from_str(&kept.samples).map_err(unreadable)?,
        })
    }

    /// The set that the component ships with, which nobody put there.
    fn shipped() -> Result<Self, Problem> {
        let source = Source::shipped().map_err(unacceptable)?;
        Ok(Self { version: 0, operator: None, at: None, rolled_back_to: None, source, samples: Vec::new() })
    }
}

/// The set in force.
pub(super) async fn current(request: Request) -> Result<Json<Told>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let told = match store::newer_rules(db().await?, 0).await? {
        Some(kept) => Told::of(&kept)?,
        None => Told::shipped()?,
    };
    Ok(Json(told))
}

/// Every set that was in force, the newest first.
pub(super) async fn history(request: Request) -> Result<Json<Page<Told>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    query.finish()?;
    let (mut kept, mut bytes, mut next) = (Vec::new(), 0, cursor);
    while kept.len() <= limit && bytes < HISTORY_BYTES {
        let some = store::rules_history(db().await?, next, (limit + 1 - kept.len()).min(HISTORY_BITE)).await?;
        let Some(last) = some.last() else { break };
        next = Some(last.version);
        bytes += some.iter().map(|set| set.source.len() + set.samples.len()).sum::<usize>();
        kept.extend(some);
    }
    // Sets may be large: a page that has enough of them is a shorter one, and says that there is more.
    let limit = if bytes < HISTORY_BYTES { limit } else { limit.min(kept.len().saturating_sub(1)).max(1) };
    let mut told = kept.iter().map(Told::of).collect::<Result<Vec<_>, _>>()?;
    // The one that was there before any of them.
    if told.len() <= limit && cursor.is_none_or(|cursor| cursor > 0) {
        told.push(Told::shipped()?);
    }
    Ok(Json(Page::of(told, limit, |told| told.version)))
}

/// Puts another set in force, if it compiles and its samples come out as expected.
pub(super) async fn replace(request: Request) -> Result<Json<Told>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let token = token_name(request.headers());
    let body = body(request).await?;
    let proposal = Proposal::read(&body).map_err(unacceptable)?;
    let set = RuleSet::compile(&proposal.source, 0).map_err(unacceptable)?;
    proposal.try_samples(&set).map_err(|faults| {
        Problem::new(Kind::Unprocessable, "the rules do not say of the samples what is expected").with_all(faults)
    })?;
    let kept = put(db().await?, &proposal.source, &proposal.samples, proposal.operator.unwrap_or(token), None).await?;
    Ok(Json(Told::of(&kept)?))
}

/// Puts an earlier set in force again, under a new version.
pub(super) async fn roll_back(request: Request) -> Result<Json<Told>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let token = token_name(request.headers());
    let body = body(request).await?;
    let value = parsed(&body)?;
    let mut fields = Fields::of(&value, "");
    let version = fields.integer("version", 0..=i64::MAX);
    let operator = fields.optional_id("operator").map(|id| id.as_str().to_owned());
    let version = fields.finish(version).map_err(unacceptable)?;
    let db = db().await?;
    let earlier = match version {
        0 => Told::shipped()?,
        version => match store::rules(db, version).await? {
            Some(kept) => Told::of(&kept)?,
            None => return Err(Problem::new(Kind::NotFound, format!("there are no rules of version {version}"))),
        },
    };
    RuleSet::compile(&earlier.source, 0).map_err(unacceptable)?;
    let kept = put(db, &earlier.source, &earlier.samples, operator.unwrap_or(token), Some(version)).await?;
    Ok(Json(Told::of(&kept)?))
}

async fn put(
    db: &Db,
    source: &Source,
    samples: &[Sample],
    operator: String,
    rolled_back_to: Option<i64>,
) -> Result<KeptRules, Problem> {
    let unwritable = |error: serde_json::Error| DbError::Other(error.to_string());
    let source = serde_json::to_string(source).map_err(unwritable)?;
    let samples = serde_json::to_string(samples).map_err(unwritable)?;
    let now_ms = clock::now_ms();
    let kept = store::add_rules(db, (&source, &samples), &operator, rolled_back_to, now_ms).await?;
    let version = kept.version.to_string();
    let took = std::time::Duration::ZERO;
    log("rules", &version, "in_force", Some(&operator), took, shared::log::EntryPath::Http);
    Ok(kept)
}

/// Who an operator is who does not say: eight digits of their token's digest.
fn token_name(headers: &HeaderMap) -> String {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = value.split_once(' ').map_or("", |(_, token)| token.trim());
    let digest = digest::hex("", token.as_bytes());
    format!("token-{}", digest.get(..8).unwrap_or_default())
}

/// What a set of rules says of an order.
#[derive(Serialize)]
pub(super) struct Checked {
    /// Of the set in force; `null` for one that came with the order.
    version: Option<i64>,
    /// What the order would become.
    status: Status,
    reasons: Vec<Fired>,
    lines: Vec<CheckedLine>,
}

#[derive(Serialize)]
struct CheckedLine {
    line: usize,
    sku: String,
    hidden: bool,
    fired: Vec<FiredOnLine>,
}

#[derive(Serialize)]
struct FiredOnLine {
    rule: String,
    action: Action,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Shows what rules say of an order, and stores nothing.
pub(super) async fn check(request: Request) -> Result<Json<Checked>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let body = body(request).await?;
    let value = parsed(&body)?;
    let mut faults = Vec::new();
    let order = match value.as_object().and_then(|object| object.present("order")) {
        Some(order) => Order::read(order, "/order").map_err(|found| faults.extend(found)).ok(),
        None => {
            faults.push(Fault::at("/order", "is missing"));
            None
        }
    };
    let proposal = Proposal::of_json(&value, &["order"]).map_err(|found| faults.extend(found)).ok();
    // The samples are for a set that is to stay.
    let proposes = ["rules", "toml", "constants"]
        .iter()
        .any(|name| value.as_object().is_some_and(|object| object.present(name).is_some()));
    let own = match proposal.filter(|_| proposes) {
        Some(proposal) if proposal.source.rules.is_empty() => {
            faults.push(Fault::at("/rules", "must have a rule; without `rules` those in force are asked"));
            None
        }
        Some(proposal) => RuleSet::compile(&proposal.source, 0).map_err(|found| faults.extend(found)).ok(),
        None => None,
    };
    let order = match order {
        Some(order) if faults.is_empty() => order,
        _ => return Err(unacceptable(faults)),
    };
    let (version, verdict) = match own {
        Some(set) => (None, set.judge(&order)),
        None => {
            let set = rules(db().await?).await?;
            (Some(set.version), set.judge(&order))
        }
    };
    let lines = order.prescription.lines.iter().enumerate().map(|(index, line)| CheckedLine {
        line: index,
        sku: line.sku.as_str().to_owned(),
        hidden: verdict.hidden.contains(&index),
        fired: verdict
            .fired
            .iter()
            .filter(|fired| fired.line == index)
            .cloned()
            .map(|Fired { rule, action, message, error, .. }| FiredOnLine { rule, action, message, error })
            .collect(),
    });
    let lines = lines.collect();
    Ok(Json(Checked { version, status: verdict.event.row().to, reasons: verdict.reasons(), lines }))
}
