//! What partners say: signed as each of them signs.

use axum::{
    Json,
    extract::{Path, Request},
};
use serde::Serialize;
use shared::{
    clock,
    fields::unacceptable,
    http::{JSON_LIMIT, read_whole},
    problem::{Kind, Problem},
};

use super::{SPEND, intake};
use crate::{
    config::{config, pharmacies},
    intake::{Reported, until_ms},
    partner::{self, Received, Refusal},
    status::Status,
};

/// What a partner is answered.
#[derive(Serialize)]
pub(super) struct Heard {
    /// As the partners that look into a body expect it.
    code: u32,
    message: &'static str,
    order_no: String,
    status: Status,
    outcome: Reported,
}

pub(super) async fn receive(Path(pharmacy): Path<String>, request: Request) -> Result<Json<Heard>, Problem> {
    let unknown = || Problem::new(Kind::NotFound, "there is no such pharmacy");
    let index = partner::ALL.iter().position(|partner| partner.name() == pharmacy).ok_or_else(unknown)?;
    let config = config().await?;
    let (Some(partner), Some(account)) = (partner::ALL.get(index), pharmacies().await?.get(index)) else {
        return Err(unknown());
    };
    let (head, body) = request.into_parts();
    let body = read_whole(body, JSON_LIMIT).await?;
    let received = Received { headers: &head.headers, body: &body, secret: &account.secret, now_ms: clock::now_ms() };
    let callback = partner.callback(&received).map_err(|refusal| match refusal {
        Refusal::Signature(detail) => {
            Problem::new(Kind::Unauthorized, format!("the callback's signature is not accepted: {detail}"))
        }
        Refusal::Malformed(faults) => unacceptable(faults),
    })?;
    let intake = intake(config).await?;
    let (answer, outcome) = intake.called_back(*partner, &callback).await?;
    let _ = intake.deliver(&[callback.order_no.as_str()], until_ms(SPEND)).await;
    Ok(Json(Heard { code: 0, message: "success", order_no: answer.order_no, status: answer.status, outcome }))
}
