//! Reports of unlawful images.

use std::time::{Duration, Instant};

use axum::{
    Json,
    extract::{Path, Request},
    http::StatusCode,
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    gateway::Deliveries,
    http::{JSON_LIMIT, read_whole},
    log::{EntryPath, Line},
    outbox::{Outbox, Whose},
    problem::{Fault, Problem},
    query::{Page, Query},
};

use super::{allowed, not_found};
use crate::{
    FUNCTION, VERSION,
    config::{db, gateways, gather, gather_if_many, look_again, standing},
    store::{self, Entry, Filter, Which},
    unlawful::Image,
    violation::Report,
};

/// What a call may spend on telling the doctor; what it leaves is delivered later.
const SPEND_MS: i64 = 5_000;

pub(super) async fn report(request: Request) -> Result<(StatusCode, Json<Entry>), Problem> {
    let started = Instant::now();
    allowed(Role::Service, request.headers()).await?;
    Query::of(request.uri()).finish()?;
    let gateways = gateways().await?;
    let body = read_whole(request.into_body(), JSON_LIMIT).await?;
    let db = db().await?;
    let rules = look_again().await?.rules;
    let refused = |faults: Vec<Fault>| Problem::bad_input("the report is not acceptable").with_all(faults);
    let (report, image) = Report::parse(&body, &rules).map_err(refused)?;
    let is_new = store::report(db, &report, &image.keys(&rules), clock::now_ms()).await?;
    let entry = store::violation(db, &report.id).await?.ok_or_else(|| not_found("violation", &report.id))?;
    // On a repetition, too: a crash may have come between the two.
    if let Some(message) = report.message(entry.seq, entry.reported_at_ms) {
        let courier = Deliveries { gateways, path: EntryPath::Http, version: VERSION };
        let outbox = Outbox { db, courier: &courier, function: FUNCTION };
        outbox.enqueue(std::slice::from_ref(&message)).await?;
        // What cannot be delivered now is in the outbox.
        let ids = [message.id];
        let _ = outbox.deliver(Whose::These(&ids), ids.len(), clock::now_ms() + SPEND_MS).await;
    }
    gather_if_many(db).await?;
    look_again().await?;
    log(&report, if is_new { "kept" } else { "repeated" }, started.elapsed());
    Ok((if is_new { StatusCode::CREATED } else { StatusCode::OK }, Json(entry)))
}

pub(super) async fn list(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    let image = query.parsed("url", "must be an image's http or https URL", Image::parse);
    let [doctor_id, patient_id, order_no] = ["doctor_id", "patient_id", "order_no"].map(|name| query.text(name));
    query.finish()?;
    let image = match image {
        Some(image) => Some(keys(&image).await?),
        None => None,
    };
    let filter = Filter { doctor_id, patient_id, order_no, image, cursor };
    let reports = store::violations(db().await?, &filter, limit + 1).await?;
    Ok(Json(Page::of(reports, limit, |report| report.seq)))
}

pub(super) async fn one(Path(id): Path<String>, request: Request) -> Result<Json<Entry>, Problem> {
    allowed(Role::Admin, request.headers()).await?;
    store::violation(db().await?, &id).await?.map(Json).ok_or_else(|| not_found("violation", &id))
}

pub(super) async fn take_back(Path(id): Path<String>, request: Request) -> Result<StatusCode, Problem> {
    let started = Instant::now();
    allowed(Role::Admin, request.headers()).await?;
    if taken_back(Which::Id(&id), started).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found("violation", &id))
    }
}

/// All reports of an image.
pub(super) async fn take_back_image(request: Request) -> Result<StatusCode, Problem> {
    let started = Instant::now();
    allowed(Role::Admin, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let url = query.text("url").unwrap_or_default();
    query.finish()?;
    let Some(image) = Image::parse(&url) else {
        let fault = Fault::at("/query/url", "must be an image's http or https URL");
        return Err(Problem::bad_input("the query is not acceptable").with(fault));
    };
    let keys = keys(&image).await?;
    if taken_back(Which::Image(&keys), started).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found("violation of", &url))
    }
}

/// What an image is asked for by: the keys of all whose reports make its URL the placeholder. An earlier release's have
/// theirs made anew first.
async fn keys(image: &Image) -> Result<Vec<u64>, Problem> {
    let rules = standing().await?.rules;
    Ok(image.hidden_by().iter().flat_map(|image| image.keys(&rules).images).collect())
}

/// Whether there was any.
async fn taken_back(which: Which<'_>, started: Instant) -> Result<bool, Problem> {
    let db = db().await?;
    let reports = store::take_back(db, which, clock::now_ms()).await?;
    // Whatever becomes of the rest: they are gone.
    reports.iter().for_each(|report| log(report, "taken_back", started.elapsed()));
    gather(db).await?;
    look_again().await?;
    Ok(!reports.is_empty())
}

/// What the risk system reads.
#[derive(Serialize)]
struct KnownAs<'a> {
    order_no: &'a str,
    doctor_id: &'a str,
    patient_id: &'a str,
    channel: &'a str,
}

fn log(report: &Report, outcome: &str, took: Duration) {
    let known_as = KnownAs {
        order_no: &report.order_no,
        doctor_id: &report.doctor_id,
        patient_id: &report.patient_id,
        channel: &report.channel,
    };
    let (key, path) = (&report.id, EntryPath::Http);
    Line { known_as, what: "violation", key, outcome, detail: None, took, path, version: VERSION }.write();
}
