//! `yifeng` (益丰药房): JSON with its own field names, signed by a field of the body.
//!
//! `sign` is the hex HMAC-SHA256 over the body's top-level scalar fields but `sign`, sorted by name, as `k=v` joined
//! with `&`; `timestamp` (Unix ms; seconds are understood) and `nonce` are among them.

use std::{borrow::Cow, collections::BTreeMap};

use hmac_sha256::HMAC;
use http::{HeaderMap, HeaderValue, header};
use serde_json::{json, value::RawValue};
use shared::{
    digest,
    id::Id,
    json::{self, Value},
    problem::Fault,
};
use subtle::ConstantTimeEq;

use super::{Call, Callback, Outgoing, Partner, Received, Refusal, Reply, TOLERANCE_MS, judged, reason, report};
use crate::{order::Order, status::Event};

/// The partner.
pub(super) struct Yifeng;

/// The most bytes of a `nonce`.
const NONCE_MAX: usize = 128;

/// What its answers' codes mean; others are failures, and are asked again.
const CODES: [(&str, Option<Event>); 9] = [
    ("0", None),
    ("200", None),
    ("success", None),
    ("1001", Some(Event::PartnerOutOfStock)),
    ("out_of_stock", Some(Event::PartnerOutOfStock)),
    ("1002", Some(Event::PartnerRejected)),
    ("unknown_drug", Some(Event::PartnerRejected)),
    ("1003", Some(Event::PartnerRejected)),
    ("rejected", Some(Event::PartnerRejected)),
];

impl Partner for Yifeng {
    fn name(&self) -> &'static str {
        "yifeng"
    }

    fn prefix(&self) -> &'static str {
        "YF"
    }

    fn check_secret(&self, secret: &str) -> Result<(), String> {
        if secret.trim().is_empty() { Err("must not be empty".into()) } else { Ok(()) }
    }

    fn submission(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String> {
        let prescription = &order.prescription;
        let drug = |line: &crate::order::Line| {
            json!({
                "drugCode": line.sku, "drugName": line.name, "drugType": line.category.as_str(),
                "num": line.quantity, "days": line.days, "usage": line.dose,
            })
        };
        let body = json!({
            "orderNo": order.order_no,
            "rxNo": prescription.id,
            "doctorId": order.doctor_id,
            "patientId": order.patient.id,
            "patientName": order.patient.name,
            "patientPhone": order.patient.phone,
            "address": order.address,
            "amountFen": order.amount_fen,
            // One text, so that the signature covers it.
            "diagnosis": prescription.diagnosis.join("；"),
            "drugs": prescription.lines.iter().map(drug).collect::<Vec<_>>(),
        });
        signed("", body, call)
    }

    fn cancellation(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String> {
        signed("/cancel", json!({"orderNo": order.order_no}), call)
    }

    fn reply(&self, status: u16, body: &[u8]) -> Reply {
        // It says by a code whether it has an order. Without one nobody knows, and it is asked again.
        let codeless = || Reply::Unclear("the pharmacy answered without a code".to_owned());
        if (200..=299).contains(&status) && body.trim_ascii().is_empty() {
            return codeless();
        }
        judged(status, body, |object| {
            let said = ["status", "orderStatus"].iter().find_map(|name| report(object.text(name)?));
            let decided = |event: Option<Event>| event.map(|event| Reply::Decided(event, reason(object)));
            let code = match object.get("code") {
                Some(Value::Integer(code)) => code.to_string(),
                Some(Value::String(code)) => code.to_ascii_lowercase(),
                None => return decided(said).or_else(|| Some(codeless())),
                Some(_) => return Some(codeless()),
            };
            Some(match CODES.iter().find(|(known, _)| *known == code) {
                Some((_, Some(event))) => Reply::Decided(*event, reason(object)),
                Some((_, None)) => decided(said).unwrap_or(Reply::Taken),
                None => Reply::Unclear(format!("the pharmacy answered with the code {code:.32}")),
            })
        })
    }

    fn callback(&self, received: &Received<'_>) -> Result<Callback, Refusal> {
        let malformed = |detail: String| Refusal::Malformed(vec![Fault::at("", detail)]);
        let refused = |detail: &str| Refusal::Signature(detail.to_owned());
        let body = json::parse(received.body).map_err(|error| malformed(format!("not JSON: {error}")))?;
        let object = body.as_object().ok_or_else(|| malformed("must be an object".into()))?;
        if received.secret.is_empty() {
            return Err(refused("no secret is configured"));
        }
        let sent = object.text("sign").ok_or_else(|| refused("`sign` is missing"))?;
        let due = sign(received.body, received.secret).map_err(malformed)?;
        if !bool::from(sent.to_ascii_lowercase().as_bytes().ct_eq(due.as_bytes())) {
            return Err(refused("`sign` is another"));
        }
        let at_ms = object.get("timestamp").and_then(unix_ms).ok_or_else(|| refused("`timestamp` is no Unix time"))?;
        if (received.now_ms - at_ms).abs() > TOLERANCE_MS {
            return Err(refused("`timestamp` is over 5 minutes off"));
        }
        let nonce = object.get("nonce").and_then(word).filter(|nonce| (1..=NONCE_MAX).contains(&nonce.len()));
        let nonce = nonce.ok_or_else(|| refused("`nonce` must have 1 to 128 bytes"))?;
        let mut faults = Vec::new();
        let order_no = object.get("orderNo").and_then(Id::from_json);
        if order_no.is_none() {
            faults.push(Fault::at("/orderNo", "must be an order's number"));
        }
        let status = ["status", "orderStatus"].iter().find_map(|name| object.text(name));
        let report = status.and_then(report);
        if report.is_none() {
            let must = "must be ACCEPTED, DISPENSED, SHIPPED, DELIVERED, REJECTED or OUT_OF_STOCK";
            faults.push(Fault::at("/status", must));
        }
        match (order_no, report) {
            (Some(order_no), Some(report)) => {
                Ok(Callback { replay_id: nonce, order_no, report, reason: reason(object) })
            }
            _ => Err(Refusal::Malformed(faults)),
        }
    }
}

/// A text or a number, as it is written.
fn word(value: &Value<'_>) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Unsigned(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Unix ms, of ms or of seconds: 10^11 seconds are the year 5138, 10^11 ms 1973.
fn unix_ms(value: &Value<'_>) -> Option<i64> {
    const LEAST_MS: i64 = 100_000_000_000;
    let at: i64 = word(value)?.trim().parse().ok().filter(|at| (0..=shared::clock::LATEST_MS).contains(at))?;
    Some(if at < LEAST_MS { at * 1000 } else { at })
}

fn signed(path: &'static str, mut body: serde_json::Value, call: &Call<'_>) -> Result<Outgoing, String> {
    let fields = body.as_object_mut().ok_or("a body is an object")?;
    fields.insert("timestamp".into(), call.now_ms.into());
    // Each attempt has its own.
    let nonce = digest::hex("", format!("{}\n{}", call.id, call.now_ms).as_bytes());
    fields.insert("nonce".into(), nonce.into());
    let sign = sign(body.to_string().as_bytes(), call.secret)?;
    if let Some(fields) = body.as_object_mut() {
        fields.insert("sign".into(), sign.into());
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Outgoing { path, headers, body: body.to_string() })
}

/// The `sign` that a body must have. A number counts as it is written: 1.0 and 1.00 are two texts.
fn sign(body: &[u8], secret: &str) -> Result<String, String> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_slice(body).map_err(|error| format!("not a JSON object: {error}"))?;
    let mut text = String::new();
    for (name, value) in &fields {
        let raw = value.get();
        let value = match raw.as_bytes().first() {
            _ if name == "sign" || raw == "null" => continue,
            Some(b'{' | b'[') | None => continue,
            Some(b'"') => serde_json::from_str(raw).map_err(|error| error.to_string())?,
            Some(_) => Cow::Borrowed(raw),
        };
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(name);
        text.push('=');
        text.push_str(&value);
    }
    Ok(hex(&HMAC::mac(text.as_bytes(), secret.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_signature_is_right() {
        // The worked example of docs/pharmacy.md.
        let body = r#"{"orderNo":"YF-20260101-1","status":"SHIPPED","reason":"SF1234567890","timestamp":1767225600000,"nonce":"n-0001","items":[1]}"#;
        let sign = sign(body.as_bytes(), "yifeng-secret").unwrap();
        let page = include_str!("../../../../docs/pharmacy.md");
        assert!(page.contains(&sign), "the page does not have {sign}");
        assert!(page.contains(body), "the page does not have the body");
    }

    #[test]
    fn only_top_level_scalars_are_signed_in_the_order_of_their_names() {
        let due = |text: &str| hex(&HMAC::mac(text.as_bytes(), b"key"));
        for (body, text) in [
            (
                r#"{"b":1,"a":"x y","sign":"no","c":[1],"d":{"e":1},"f":true,"g":null,"h":1.50}"#,
                "a=x y&b=1&f=true&h=1.50",
            ),
            (r#"{"z":"","名":"芳","e":"\u00e9"}"#, "e=é&z=&名=芳"),
            ("{}", ""),
        ] {
            assert_eq!(sign(body.as_bytes(), "key").unwrap(), due(text), "{body}");
        }
    }
}
