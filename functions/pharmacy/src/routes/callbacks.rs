//! What partners say: signed as each of them signs.

use axum::{
    Json,
    extract::{Path, Request},
    http::HeaderMap,
};
use serde::Serialize;
use shared::{
    clock,
    fields::unacceptable,
    http::{JSON_LIMIT, read_whole},
    outbox::Courier,
    problem::{Kind, Problem},
};

use super::{SPEND, intake};
use crate::{
    config::{config, pharmacies},
    intake::{Intake, Reported},
    partner::{self, Partner, Received, Refusal},
    status::Status,
    submission::Account,
};

/// What a partner is answered.
#[derive(Debug, Serialize)]
pub(super) struct Heard {
    /// As the partners that look into a body expect it.
    code: u32,
    message: &'static str,
    order_no: String,
    status: Status,
    outcome: Reported,
}

pub(super) async fn receive(Path(pharmacy): Path<String>, request: Request) -> Result<Json<Heard>, Problem> {
    let intake = intake(config().await?).await?;
    let partner = partner::named(intake.partners, &pharmacy)
        .ok_or_else(|| Problem::new(Kind::NotFound, "there is no such pharmacy"))?;
    let account = pharmacies().await.account(partner)?;
    let (head, body) = request.into_parts();
    let body = read_whole(body, JSON_LIMIT).await?;
    let heard = hear(&intake, partner, account, &head.headers, &body).await?;
    let _ = intake.deliver(&[heard.order_no.as_str()], clock::after_ms(SPEND)).await;
    Ok(Json(heard))
}

/// Checks, reads and applies what a partner says.
pub(super) async fn hear<C: Courier>(
    intake: &Intake<'_, C>,
    partner: &dyn Partner,
    account: &Account,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Heard, Problem> {
    let received = Received { headers, body, secret: &account.secret, now_ms: clock::now_ms() };
    let callback = partner.callback(&received).map_err(|refusal| match refusal {
        Refusal::Signature(detail) => {
            Problem::new(Kind::Unauthorized, format!("the callback's signature is not accepted: {detail}"))
        }
        Refusal::Malformed(faults) => unacceptable(faults),
    })?;
    let (answer, outcome) = intake.called_back(partner, &callback).await?;
    Ok(Heard { code: 0, message: "success", order_no: answer.order_no, status: answer.status, outcome })
}
