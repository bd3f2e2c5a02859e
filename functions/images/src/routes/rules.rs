//! Rule sets: the one that holds, a new one, and those that held.

use axum::{
    Json,
    extract::{Path, Request},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::{
    auth::Role,
    clock,
    http::{JSON_LIMIT, read_whole},
    json::{self, Value},
    problem::{Fault, Kind, Problem},
    query::{Page, Query},
};

use super::{allowed, not_found};
use crate::{
    config::{db, keys, look_again, rekey},
    rules::{Rules, VERSION_MAX},
    store::{self, RuleSet},
};

fn set(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) async fn current(request: Request) -> Result<Response, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    Query::of(request.uri()).finish()?;
    let db = db().await?;
    let version = store::mark(db).await?.rules_version;
    Ok(set(store::rules(db, version).await?.map_or_else(|| Rules::DEFAULT.to_owned(), |kept| kept.text)))
}

pub(super) async fn put(request: Request) -> Result<Response, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    Query::of(request.uri()).finish()?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let refused = |faults: Vec<Fault>| Problem::bad_input("the rule set is not acceptable").with_all(faults);
    let mut rules = Rules::parse(&body, keys().await?).map_err(refused)?;
    let db = db().await?;
    let value = json::parse(&body).map_err(|error| refused(vec![Fault::at("", error.to_string())]))?;
    let newest = store::mark(db).await?.rules_version;
    let asked = value.as_object().and_then(|set| set.present("version")).is_some();
    if !asked && newest >= VERSION_MAX {
        let detail = format!("version {newest} is the highest that there can be, and it holds");
        return Err(Problem::new(Kind::Conflict, detail));
    }
    rules.version = if asked { rules.version } else { newest + 1 };
    let text = written(&value, rules.version);
    if store::keep_rules(db, rules.version, &text, clock::now_ms()).await? {
        rekey(db, &rules).await?;
        look_again().await?;
        return Ok(set(text));
    }
    // The same set again is the same answer.
    let kept = match store::rules(db, rules.version).await? {
        Some(kept) => kept.text,
        None if rules.version == 0 => Rules::DEFAULT.to_owned(),
        None => return Err(conflict(rules.version, newest)),
    };
    if is_same(&kept, &text) { Ok(set(kept)) } else { Err(conflict(rules.version, newest)) }
}

fn conflict(version: i64, newest: i64) -> Problem {
    let detail = format!("version {version} is taken or older than {newest}, which holds: send a higher one, or none");
    Problem::new(Kind::Conflict, detail)
}

fn is_same(kept: &str, text: &str) -> bool {
    let canonical = |text: &str| {
        let mut bytes = Vec::new();
        json::parse(text.as_bytes()).map(|value| value.canonical(&mut bytes)).map(|()| bytes)
    };
    canonical(kept) == canonical(text)
}

/// The set as it is kept: its version first, then what was sent.
fn written(value: &Value<'_>, version: i64) -> String {
    let fields = value.as_object().into_iter().flat_map(|set| set.iter()).filter(|(key, _)| *key != "version");
    let fields = fields.map(|(key, value)| {
        let value = serde_json::to_string(value).unwrap_or_default();
        format!(",{}:{value}", serde_json::Value::from(key))
    });
    format!("{{\"version\":{version}{}}}", fields.collect::<String>())
}

/// A set that was kept.
#[derive(Serialize)]
pub(super) struct Kept {
    version: i64,
    stored_at: String,
    rules: Box<RawValue>,
}

impl Kept {
    fn of(kept: RuleSet) -> Result<Self, Problem> {
        let rules =
            RawValue::from_string(kept.text).map_err(|_| Problem::new(Kind::Internal, "a kept set is no JSON"))?;
        Ok(Self { version: kept.version, stored_at: clock::rfc3339(kept.stored_at_ms), rules })
    }
}

pub(super) async fn history(request: Request) -> Result<Json<Page<Kept>>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    query.finish()?;
    let sets = store::rules_history(db().await?, cursor, limit + 1).await?;
    let sets = sets.into_iter().map(Kept::of).collect::<Result<Vec<_>, _>>()?;
    Ok(Json(Page::of(sets, limit, |set| set.version)))
}

pub(super) async fn one(Path(version): Path<String>, request: Request) -> Result<Json<Kept>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let kept = match version.parse() {
        Ok(number) => store::rules(db().await?, number).await?,
        Err(_) => None,
    };
    kept.map(Kept::of).transpose()?.map(Json).ok_or_else(|| not_found("rule set", &version))
}
