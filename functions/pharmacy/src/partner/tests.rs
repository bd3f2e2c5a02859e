//! What holds of every partner, and what one of its secrets opens.

use shared::{clock, signature::Secret};

use super::*;
use crate::order::tests::order;

pub(crate) const WHSEC: &str = "whsec_c3RhbmRhcmQtc2VjcmV0LW9mLXRoZS10ZXN0cy0wMDE=";
pub(crate) const OTHER_WHSEC: &str = "whsec_YW5vdGhlci1zZWNyZXQtb2YtdGhlLXRlc3RzLTAwMDI=";
pub(crate) const YIFENG_SECRET: &str = "a-secret-of-yifeng";

fn standard() -> &'static dyn Partner {
    named(ALL, "standard").unwrap()
}

fn yifeng() -> &'static dyn Partner {
    named(ALL, "yifeng").unwrap()
}

/// A callback of `standard`, with its headers.
fn standard_call(secret: &str, id: &str, at_ms: i64, body: &str) -> HeaderMap {
    Secret::parse(secret).unwrap().sign(id, at_ms, body.as_bytes()).unwrap()
}

/// A callback of `yifeng`: its submission signs as its callbacks do.
fn yifeng_call(secret: &str, fields: serde_json::Value) -> String {
    let mut body = fields;
    let unsigned = body.to_string();
    let fields: std::collections::BTreeMap<String, serde_json::Value> = serde_json::from_str(&unsigned).unwrap();
    let text: Vec<_> = fields
        .iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(text) => Some(format!("{name}={text}")),
            serde_json::Value::Number(number) => Some(format!("{name}={number}")),
            _ => None,
        })
        .collect();
    let mac = hmac_sha256::HMAC::mac(text.join("&").as_bytes(), secret.as_bytes());
    body["sign"] = mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
    body.to_string()
}

fn read(partner: &dyn Partner, headers: &HeaderMap, body: &str, secret: &str) -> Result<Callback, Refusal> {
    partner.callback(&Received { headers, body: body.as_bytes(), secret, now_ms: clock::now_ms() })
}

fn is_signature(result: &Result<Callback, Refusal>) -> bool {
    matches!(result, Err(Refusal::Signature(_)))
}

#[test]
fn an_order_number_has_one_partner() {
    let name = |order_no: &str| of_order(ALL, order_no).map(Partner::name);
    assert_eq!((name("YF-1"), name("ST1"), name("XX-1"), name("yf-1")), (Some("yifeng"), Some("standard"), None, None));
    for (index, partner) in ALL.iter().enumerate() {
        for other in &ALL[index + 1..] {
            assert_ne!(partner.name(), other.name());
            assert!(!partner.prefix().starts_with(other.prefix()) && !other.prefix().starts_with(partner.prefix()));
        }
    }
}

#[test]
fn a_standard_callback_is_read_and_an_altered_stale_or_foreign_one_refused() {
    let body = r#"{"order_no":"ST-1","status":"out_of_stock","reason":"none left","anything":[1]}"#;
    let now_ms = clock::now_ms();
    let headers = standard_call(WHSEC, "cb-1", now_ms, body);
    assert_eq!(
        read(standard(), &headers, body, WHSEC),
        Ok(Callback {
            replay_id: "cb-1".into(),
            order_no: Id::parse("ST-1").unwrap(),
            report: Event::PartnerOutOfStock,
            reason: Some("none left".into()),
        })
    );
    assert!(is_signature(&read(standard(), &headers, &body.replace("out_of_stock", "delivered"), WHSEC)));
    assert!(is_signature(&read(standard(), &headers, body, OTHER_WHSEC)));
    assert!(is_signature(&read(standard(), &headers, body, "")));
    assert!(is_signature(&read(standard(), &HeaderMap::new(), body, WHSEC)));
    for off_ms in [-301_000, 302_000] {
        let stale = standard_call(WHSEC, "cb-1", now_ms + off_ms, body);
        assert!(is_signature(&read(standard(), &stale, body, WHSEC)), "{off_ms}");
    }
    let mut renamed = headers.clone();
    renamed.insert("webhook-id", "cb-2".parse().unwrap());
    assert!(is_signature(&read(standard(), &renamed, body, WHSEC)));
    let malformed = r#"{"order_no":"S T","status":"lost"}"#;
    let headers = standard_call(WHSEC, "cb-1", now_ms, malformed);
    let Err(Refusal::Malformed(faults)) = read(standard(), &headers, malformed, WHSEC) else { panic!() };
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn a_yifeng_callback_is_read_and_an_altered_stale_or_foreign_one_refused() {
    let now_ms = clock::now_ms();
    let fields = |at_ms: i64| serde_json::json!({"orderNo": "YF-1", "status": "SHIPPED", "reason": "SF1", "timestamp": at_ms, "nonce": "n-1", "extra": [1]});
    let none = HeaderMap::new();
    let body = yifeng_call(YIFENG_SECRET, fields(now_ms));
    let callback = read(yifeng(), &none, &body, YIFENG_SECRET).unwrap();
    assert_eq!((callback.replay_id.as_str(), callback.report), ("n-1", Event::PartnerShipped));
    assert!(read(yifeng(), &none, &yifeng_call(YIFENG_SECRET, fields(now_ms / 1000)), YIFENG_SECRET).is_ok());
    for altered in [body.replace("SHIPPED", "DELIVERED"), body.replace("n-1", "n-2"), body.replace("YF-1", "YF-2")] {
        assert!(is_signature(&read(yifeng(), &none, &altered, YIFENG_SECRET)), "{altered}");
    }
    assert!(is_signature(&read(yifeng(), &none, &body, "another")));
    assert!(is_signature(&read(yifeng(), &none, &yifeng_call("", fields(now_ms)), "")));
    for off_ms in [-301_000, 302_000] {
        let stale = yifeng_call(YIFENG_SECRET, fields(now_ms + off_ms));
        assert!(is_signature(&read(yifeng(), &none, &stale, YIFENG_SECRET)), "{off_ms}");
    }
    let malformed = yifeng_call(YIFENG_SECRET, serde_json::json!({"orderNo": "", "timestamp": now_ms, "nonce": "n"}));
    let Err(Refusal::Malformed(faults)) = read(yifeng(), &none, &malformed, YIFENG_SECRET) else { panic!() };
    assert_eq!(faults.len(), 2);
}

#[test]
fn the_documented_standard_signature_is_right() {
    let body = r#"{"order_no":"ST-20260101-1","status":"shipped","reason":"SF1234567890"}"#;
    let headers = standard_call(WHSEC, "cb-0001", 1_767_225_600_000, body);
    let page = include_str!("../../../../docs/pharmacy.md");
    let example = format!(
        "webhook-id: cb-0001\nwebhook-timestamp: 1767225600\nwebhook-signature: {}\n\n{body}\n",
        headers["webhook-signature"].to_str().unwrap()
    );
    assert!(page.contains(&example) && page.contains(WHSEC), "{example}");
}

#[test]
fn a_submission_is_signed_as_a_callback_is_checked() {
    let now_ms = clock::now_ms();
    let order = order("ST-1");
    let call = Call { id: "sub_1", secret: WHSEC, now_ms };
    for request in [standard().submission(&order, &call).unwrap(), standard().cancellation(&order, &call).unwrap()] {
        Secret::parse(WHSEC).unwrap().verify(&request.headers, request.body.as_bytes()).unwrap();
        assert_eq!(request.headers["webhook-id"], "sub_1");
    }
    let sent: Order = serde_json::from_str(&standard().submission(&order, &call).unwrap().body).unwrap();
    assert_eq!(sent, order);

    let call = Call { id: "sub_1", secret: YIFENG_SECRET, now_ms };
    let request = yifeng().submission(&order, &call).unwrap();
    let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    assert_eq!((&body["rxNo"], &body["drugs"][0]["drugCode"]), (&"rx-1".into(), &"D-1".into()));
    assert_eq!((&body["drugs"][0]["num"], &body["patientName"]), (&2.into(), &"王芳".into()));
    let mut unsigned = body.clone();
    unsigned.as_object_mut().unwrap().remove("sign");
    assert_eq!(yifeng_call(YIFENG_SECRET, unsigned), body.to_string());
    let later = Call { id: "sub_1", secret: YIFENG_SECRET, now_ms: now_ms + 1 };
    let again: serde_json::Value = serde_json::from_str(&yifeng().submission(&order, &later).unwrap().body).unwrap();
    assert_ne!(again["nonce"], body["nonce"]);
}

#[test]
fn an_answer_is_an_outcome_or_is_asked_again() {
    use Event::{PartnerAccepted, PartnerOutOfStock, PartnerRejected};
    let decided = |event, reason: &str| Reply::Decided(event, (!reason.is_empty()).then(|| reason.to_owned()));
    for (status, body, reply) in [
        (200, "", Reply::Taken),
        (202, "{}", Reply::Taken),
        (200, r#"{"status":"accepted"}"#, decided(PartnerAccepted, "")),
        (200, r#"{"status":"out_of_stock","reason":"none"}"#, decided(PartnerOutOfStock, "none")),
        (422, r#"{"type":"urn:x:out-of-stock","detail":"none"}"#, decided(PartnerOutOfStock, "none")),
        (422, r#"{"detail":"unknown drug D-1"}"#, decided(PartnerRejected, "unknown drug D-1")),
        (400, r#"{"reason":"D-1 is not sold"}"#, decided(PartnerRejected, "D-1 is not sold")),
        (409, "", Reply::Taken),
    ] {
        assert_eq!(standard().reply(status, body.as_bytes()), reply, "{status} {body}");
    }
    for (status, body, reply) in [
        (200, r#"{"code":0,"message":"ok"}"#, Reply::Taken),
        (200, r#"{"code":"0","status":"ACCEPTED"}"#, decided(PartnerAccepted, "")),
        (200, r#"{"code":1001,"message":"缺货"}"#, decided(PartnerOutOfStock, "缺货")),
        (400, r#"{"code":1002,"msg":"无此药品"}"#, decided(PartnerRejected, "无此药品")),
        (
            200,
            r#"{"code":5000,"message":"系统繁忙"}"#,
            Reply::Unclear("the pharmacy answered with the code 5000".into()),
        ),
        (
            400,
            r#"{"code":5000,"message":"系统繁忙"}"#,
            Reply::Unclear("the pharmacy answered with the code 5000".into()),
        ),
        (
            422,
            r#"{"code":4001,"message":"sign error"}"#,
            Reply::Unclear("the pharmacy answered with the code 4001".into()),
        ),
        (200, r#"{"status":"OUT_OF_STOCK"}"#, decided(PartnerOutOfStock, "")),
    ] {
        assert_eq!(yifeng().reply(status, body.as_bytes()), reply, "{status} {body}");
    }
    // It says by its code whether it has an order: without one, nobody knows.
    for (status, body) in [
        (200, ""),
        (204, ""),
        (200, "{}"),
        (200, r#"{"message":"ok"}"#),
        (200, r#"{"code":null}"#),
        (200, r#"{"code":[0],"status":"ACCEPTED"}"#),
        (200, r#"{"code":true}"#),
        (200, r#"{"code":0.5}"#),
        (400, "{}"),
        (400, r#"{"message":"bad request"}"#),
        (400, r#"{"code":0}"#),
    ] {
        assert!(matches!(yifeng().reply(status, body.as_bytes()), Reply::Unclear(_)), "{status} {body}");
    }
    // An answer that contradicts itself.
    assert!(matches!(standard().reply(422, br#"{"status":"accepted"}"#), Reply::Unclear(_)));
    for partner in ALL {
        for (status, body) in
            [(200, "<html>"), (200, "[]"), (200, "{\"a\":"), (422, "<html>"), (404, "{}"), (500, "{}"), (302, "")]
        {
            assert!(matches!(partner.reply(status, body.as_bytes()), Reply::Unclear(_)), "{status} {body}");
        }
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_comes_in_panics_or_passes_unsigned(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), status in 100u16..600) {
        for partner in ALL {
            let _ = partner.reply(status, &body);
            let received = Received { headers: &HeaderMap::new(), body: &body, secret: WHSEC, now_ms: clock::now_ms() };
            proptest::prop_assert!(partner.callback(&received).is_err());
        }
    }
}
