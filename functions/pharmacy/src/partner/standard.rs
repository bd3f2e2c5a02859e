//! `standard`: any pharmacy that speaks this project's order JSON, signed by Standard Webhooks both ways.

use http::{HeaderValue, header};
use serde_json::json;
use shared::{
    fields::Fields,
    json::{self, Value},
    problem::Fault,
    signature::Secret,
};

use super::{Call, Callback, Outgoing, Partner, Received, Refusal, Reply, judged, reason, report};
use crate::order::Order;

/// The partner.
pub(super) struct Standard;

/// The most bytes of a `webhook-id`.
const ID_MAX: usize = 256;

impl Partner for Standard {
    fn name(&self) -> &'static str {
        "standard"
    }

    fn prefix(&self) -> &'static str {
        "ST"
    }

    fn check_secret(&self, secret: &str) -> Result<(), String> {
        Secret::parse(secret).map(drop).map_err(|error| error.to_string())
    }

    fn submission(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String> {
        signed("", serde_json::to_string(order).map_err(|error| error.to_string())?, call)
    }

    fn cancellation(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String> {
        signed("/cancel", json!({"order_no": order.order_no}).to_string(), call)
    }

    fn reply(&self, status: u16, body: &[u8]) -> Reply {
        judged(status, body, |object| {
            let decision = ["status", "type", "code"].iter().find_map(|name| {
                let word = object.text(name)?;
                // A problem's type is a URN or a URL that ends with the word.
                report(word.rsplit([':', '/']).next().unwrap_or(word))
            })?;
            Some(Reply::Decided(decision, reason(object)))
        })
    }

    fn callback(&self, received: &Received<'_>) -> Result<Callback, Refusal> {
        let refused = |error: shared::signature::SignatureError| Refusal::Signature(error.to_string());
        Secret::parse(received.secret).map_err(refused)?.verify(received.headers, received.body).map_err(refused)?;
        let id = received.headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        if !(1..=ID_MAX).contains(&id.len()) {
            return Err(Refusal::Signature(format!("the webhook-id must have 1 to {ID_MAX} characters")));
        }
        let malformed = |detail: String| Refusal::Malformed(vec![Fault::at("", detail)]);
        let body = json::parse(received.body).map_err(|error| malformed(format!("not JSON: {error}")))?;
        let mut fields = Fields::of(&body, "");
        let order_no = fields.id("order_no");
        let must = "must be accepted, dispensed, shipped, delivered, rejected or out_of_stock";
        let status = fields.required("status", must, |value: &Value<'_>| report(value.as_str()?));
        // What else a partner tells is its own affair.
        match (order_no, status, body.as_object()) {
            (Some(order_no), Some(report), Some(object)) => {
                Ok(Callback { replay_id: id.to_owned(), order_no, report, reason: reason(object) })
            }
            _ => {
                let known = |fault: &Fault| !fault.detail.starts_with("is unknown");
                Err(Refusal::Malformed(fields.faults().into_iter().filter(known).collect()))
            }
        }
    }
}

fn signed(path: &'static str, body: String, call: &Call<'_>) -> Result<Outgoing, String> {
    let secret = Secret::parse(call.secret).map_err(|error| error.to_string())?;
    let mut headers = secret.sign(call.id, call.now_ms, body.as_bytes()).map_err(|error| error.to_string())?;
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Outgoing { path, headers, body })
}
