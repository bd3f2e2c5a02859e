//! Orders: placed, paid, called off, looked at.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::{
    Json,
    extract::{Path, Request},
    http::{StatusCode, Uri},
};
use futures::join;
use serde::Serialize;
use shared::{
    auth::Role,
    clock,
    db::Db,
    fields::{Fields, unacceptable},
    outbox::ledger::{self, State},
    problem::{Kind, Problem},
    query::{Page, Query},
};

use super::{HttpIntake, SPEND, allowed, body, finish_soon, intake, must_be_one_of, parsed, work};
use crate::{
    config::{pharmacies, rules},
    history::{self, Told},
    intake::{Answer, Placed, missing, submission_id},
    order::Order,
    partner::{self, Partner},
    rules::Fired,
    status::Status,
    store::{self, Filter, Payment, Review, Summary},
    submission::{Outbound, SUBMIT, queue},
};

/// Overdue submissions to each partner that a payment posts beside its own.
const OVERDUE: usize = 4;
/// So many payments of an instance, and one of them does so.
const EVERY: u32 = 8;

/// Places an order.
pub(super) async fn place(request: Request) -> Result<(StatusCode, Json<Answer>), Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let body = body(request).await?;
    let order = Order::read(&parsed(&body)?, "").map_err(unacceptable)?;
    let intake = intake(config).await?;
    let pharmacy = intake.partner(&order)?.name();
    let rules = rules(intake.db).await?;
    let (mut placed, _) = intake.record(&[(order, pharmacy)], &rules).await?;
    // Its effects are the caller's no more: the order itself says that they are still to be had.
    finish_soon();
    let (status, answer) = match placed.pop() {
        Some(Placed::New(answer)) => (StatusCode::CREATED, answer),
        Some(Placed::Again(answer)) => (StatusCode::OK, answer),
        Some(Placed::Conflict) => {
            return Err(Problem::new(Kind::Conflict, "the order's number was used with other content"));
        }
        None => return Err(Problem::new(Kind::Unavailable, "the order could not be read back; place it again")),
    };
    Ok((status, Json(answer)))
}

/// The patient has paid: the partner gets the order.
pub(super) async fn pay(Path(order_no): Path<String>, request: Request) -> Result<Json<Answer>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let body = body(request).await?;
    let value = parsed(&body)?;
    let mut fields = Fields::of(&value, "");
    let payment_id = fields.id("payment_id");
    let paid_at = fields.instant("paid_at").map(clock::rfc3339);
    let amount_fen = fields.integer("amount_fen", 0..=i64::MAX);
    let payment = (|| Some(Payment { payment_id: payment_id?, paid_at: paid_at?, amount_fen: amount_fen? }))();
    let payment = fields.finish(payment).map_err(unacceptable)?;
    let intake = intake(config).await?;
    let answer = intake.pay(&order_no, payment).await?;
    let until_ms = clock::after_ms(SPEND);
    let ids = [submission_id(SUBMIT, &order_no)];
    let way = (pharmacies().await, &Outbound);
    let submitted = async {
        if let Some(partner) = partner::named(intake.partners, &answer.pharmacy) {
            work::submit_these(intake, way, partner, &ids, until_ms).await?;
        }
        // Now and then a few that are overdue, too, so that traffic alone heals.
        static CALLS: AtomicU32 = AtomicU32::new(0);
        if CALLS.fetch_add(1, Ordering::Relaxed).is_multiple_of(EVERY) {
            work::submit_due(intake, way, OVERDUE, until_ms).await?;
        }
        Ok::<_, Problem>(())
    };
    let numbers = [order_no.as_str()];
    let _ = join!(submitted, intake.deliver(&numbers, until_ms));
    Ok(Json(answer))
}

/// Calls an order off.
pub(super) async fn cancel(Path(order_no): Path<String>, request: Request) -> Result<Json<Answer>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let body = body(request).await?;
    let reason = if body.trim_ascii().is_empty() {
        None
    } else {
        let value = parsed(&body)?;
        let mut fields = Fields::of(&value, "");
        let reason = fields.optional_text("reason", 200);
        fields.finish(Some(reason)).map_err(unacceptable)?
    };
    let intake = intake(config).await?;
    let answer = intake.cancel(&order_no, reason).await?;
    if let Some(partner) = partner::named(intake.partners, &answer.pharmacy) {
        let ids = [submission_id(crate::submission::CANCEL, &order_no)];
        let way = (pharmacies().await, &Outbound);
        let _ = work::submit_these(intake, way, partner, &ids, clock::after_ms(SPEND)).await;
    }
    Ok(Json(answer))
}

/// An order in a list.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    order_no: String,
    pharmacy: String,
    status: Status,
    doctor_id: String,
    patient_id: String,
    amount_fen: i64,
    refund_due: bool,
    created_at: String,
    updated_at: String,
    #[serde(skip)]
    seq: i64,
}

impl From<Summary> for Entry {
    fn from(summary: Summary) -> Self {
        let Summary { order_no, pharmacy, status, doctor_id, patient_id, amount_fen, refund_due, seq, .. } = summary;
        let [created_at, updated_at] = [summary.created_at_ms, summary.updated_at_ms].map(clock::rfc3339);
        Self { order_no, pharmacy, status, doctor_id, patient_id, amount_fen, refund_due, created_at, updated_at, seq }
    }
}

/// Orders, the newest first.
pub(super) async fn list(request: Request) -> Result<Json<Page<Entry>>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let HttpIntake { db, partners, .. } = intake(config).await?;
    listed(db, partners, request.uri()).await.map(Json)
}

/// The orders that a list's query asks for.
pub(super) async fn listed(db: &Db, partners: &[&dyn Partner], uri: &Uri) -> Result<Page<Entry>, Problem> {
    let mut query = Query::of(uri);
    let statuses: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
    let status = query.parsed("status", &format!("must be one of {}", statuses.join(", ")), Status::parse);
    let known = |name: &str| partner::named(partners, name).map(|partner| partner.name().to_owned());
    let pharmacy = query.parsed("pharmacy", &must_be_one_of(partners), known);
    let (from_ms, to_ms) = (query.instant("from"), query.instant("to"));
    let (cursor, limit) = query.page();
    query.finish()?;
    let filter = Filter { status, pharmacy, from_ms, to_ms, cursor };
    let orders = store::summaries(db, &filter, limit + 1).await?;
    Ok(Page::of(orders.into_iter().map(Entry::from).collect(), limit, |entry| entry.seq))
}

/// An order with all that is known of it.
#[derive(Serialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    entry: Entry,
    reasons: Vec<Fired>,
    rules_version: i64,
    order: Order,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<Payment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    review: Option<Review>,
    #[serde(skip_serializing_if = "Option::is_none")]
    submission: Option<Submission>,
    history: Vec<Told>,
}

/// How the partner is given the order.
#[derive(Serialize)]
struct Submission {
    state: State,
    attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<String>,
    /// Every attempt.
    attempted: Vec<Box<serde_json::value::RawValue>>,
}

/// One order with its history.
pub(super) async fn one(Path(order_no): Path<String>, request: Request) -> Result<Json<Whole>, Problem> {
    let config = allowed(Role::Service, request.headers()).await?;
    let HttpIntake { db, partners, .. } = intake(config).await?;
    let kept = store::get(db, &order_no).await?.ok_or_else(|| missing(&order_no))?;
    let submission = match partner::named(partners, &kept.pharmacy).filter(|_| kept.payment.is_some()) {
        Some(partner) => ledger::get_of(db, &queue(partner), &submission_id(SUBMIT, &order_no)).await?,
        None => None,
    };
    let submission = submission.map(|row| Submission {
        state: row.entry.state,
        attempts: row.entry.attempts,
        due_at: row.entry.due_at,
        sent_at: row.entry.sent_at,
        attempted: row.history,
    });
    Ok(Json(Whole {
        entry: Summary::from(&kept).into(),
        reasons: kept.reasons,
        rules_version: kept.rules_version,
        order: kept.order,
        payment: kept.payment,
        review: kept.review,
        submission,
        history: history::told(kept.history),
    }))
}
