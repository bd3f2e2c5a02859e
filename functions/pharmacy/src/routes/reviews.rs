//! What pharmacists see, and what they decide.

use axum::{
    Json,
    extract::{Path, Request},
};
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    fields::{Fields, unacceptable},
    problem::Problem,
    query::{Page, Query},
};

use super::{SPEND, allowed, body, intake, parsed};
use crate::{
    config::db,
    intake::Answer,
    order::{Line, Prescription},
    rules::Fired,
    status::Status,
    store::{self, Filter, Kept, Review},
};

/// An order that waits for a pharmacist, who needs neither telephone number nor address.
#[derive(Serialize)]
pub(super) struct Waiting {
    order_no: String,
    pharmacy: String,
    status: Status,
    doctor_id: String,
    patient: Person,
    prescription: Shown,
    /// Lines that the shield hides.
    lines_hidden: usize,
    reasons: Vec<Fired>,
    created_at: String,
    #[serde(skip)]
    seq: i64,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    diagnosis: Vec<String>,
    lines: Vec<ShownLine>,
}

#[derive(Serialize)]
struct ShownLine {
    /// Its place in the prescription, by which reasons name it: hidden ones count.
    line: usize,
    #[serde(flatten)]
    of: Line,
}

#[derive(Serialize)]
struct Person {
    id: String,
    name: String,
}

impl Waiting {
    fn of(kept: Kept) -> Self {
        let Kept { order, hidden, .. } = kept;
        let Prescription { id, diagnosis, lines } = order.prescription;
        let lines = lines.into_iter().enumerate().filter(|(index, _)| !hidden.contains(index));
        let lines = lines.map(|(line, of)| ShownLine { line, of }).collect();
        Self {
            order_no: order.order_no.as_str().to_owned(),
            pharmacy: kept.pharmacy,
            status: kept.status,
            doctor_id: order.doctor_id.as_str().to_owned(),
            patient: Person { id: order.patient.id.as_str().to_owned(), name: order.patient.name },
            prescription: Shown { id: id.as_str().to_owned(), diagnosis, lines },
            lines_hidden: hidden.len(),
            reasons: kept.reasons,
            created_at: clock::rfc3339(kept.created_at_ms),
            seq: kept.seq,
        }
    }
}

/// The queue, the oldest first.
pub(super) async fn list(request: Request) -> Result<Json<Page<Waiting>>, Problem> {
    allowed(Role::Service, request.headers()).await?;
    let mut query = Query::of(request.uri());
    let (cursor, limit) = query.page();
    query.finish()?;
    let filter = Filter { status: Some(Status::UnderReview), cursor, ..Filter::default() };
    let orders = store::list(db().await?, &filter, true, limit + 1).await?;
    Ok(Json(Page::of(orders.into_iter().map(Waiting::of).collect(), limit, |waiting| waiting.seq)))
}

/// A decision.
pub(super) async fn decide(Path(order_no): Path<String>, request: Request) -> Result<Json<Answer>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let body = body(request).await?;
    let value = parsed(&body)?;
    let mut fields = Fields::of(&value, "");
    let pharmacist_id = fields.id("pharmacist_id");
    let decision = fields.required("decision", "must be approve or reject", |value| {
        ["approve", "reject"].into_iter().find(|known| value.as_str() == Some(known))
    });
    let note = fields.optional("note", "must be a text of at most 500 characters", |value| {
        let text = value.as_str()?.trim();
        (text.chars().count() <= 500).then(|| text.to_owned())
    });
    let note = note.filter(|note| !note.is_empty());
    let decided_at = clock::rfc3339(clock::now_ms());
    let review =
        (|| Some(Review { pharmacist_id: pharmacist_id?, decision: decision?.to_owned(), note, decided_at }))();
    let review = fields.finish(review).map_err(unacceptable)?;
    let intake = intake(config).await?;
    let answer = intake.review(&order_no, review).await?;
    let _ = intake.deliver(&[order_no.as_str()], clock::after_ms(SPEND)).await;
    Ok(Json(answer))
}
