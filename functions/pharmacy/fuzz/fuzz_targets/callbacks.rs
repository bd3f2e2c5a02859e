//! No callback passes without a signature; one with it is read or refused for what it says; and no answer of a partner
//! is more than an answer.
#![no_main]
#![allow(dead_code, unused_imports, reason = "a target uses a part of the function")]

#[path = "../../src/order.rs"]
mod order;
#[path = "../../src/partner/mod.rs"]
mod partner;
#[path = "../../src/rules/mod.rs"]
mod rules;
#[path = "../../src/status.rs"]
mod status;

use hmac_sha256::HMAC;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use partner::{ALL, Partner, Received, Refusal};
use serde_json::{Map, Value};
use shared::{clock, signature::Secret};

const SECRET: &str = "whsec_c3RhbmRhcmQtc2VjcmV0LW9mLXRoZS10ZXN0cy0wMDE=";

fuzz_target!(|bytes: &[u8]| {
    let now_ms = clock::now_ms();
    let unsigned = HeaderMap::new();
    for partner in ALL {
        assert!(partner.callback(&Received { headers: &unsigned, body: bytes, secret: SECRET, now_ms }).is_err());
        for status in [200, 409, 422, 500] {
            let _ = partner.reply(status, bytes);
        }
    }
    if let Ok(headers) = Secret::parse(SECRET).unwrap().sign("msg_1", now_ms, bytes) {
        read(partner("standard"), &Received { headers: &headers, body: bytes, secret: SECRET, now_ms });
    }
    if let Ok(fields) = serde_json::from_slice(bytes) {
        let body = Value::Object(signed(fields, now_ms)).to_string();
        read(partner("yifeng"), &Received { headers: &unsigned, body: body.as_bytes(), secret: SECRET, now_ms });
    }
});

fn partner(name: &str) -> &'static dyn Partner {
    partner::named(ALL, name).unwrap()
}

/// Its signature is never what is wrong.
fn read(partner: &dyn Partner, received: &Received<'_>) {
    match partner.callback(received) {
        Ok(callback) => assert!(!callback.replay_id.is_empty()),
        Err(Refusal::Malformed(faults)) => assert!(!faults.is_empty()),
        Err(Refusal::Signature(why)) => panic!("{why}: {}", String::from_utf8_lossy(received.body)),
    }
}

/// The fields signed as 益丰 signs.
fn signed(mut fields: Map<String, Value>, now_ms: i64) -> Map<String, Value> {
    fields.insert("timestamp".into(), now_ms.into());
    fields.insert("nonce".into(), "n-1".into());
    fields.remove("sign");
    let mut pairs: Vec<String> = Vec::new();
    let mut names: Vec<&String> = fields.keys().collect();
    names.sort();
    for name in names {
        match &fields[name] {
            Value::Null | Value::Array(_) | Value::Object(_) => {}
            Value::String(text) => pairs.push(format!("{name}={text}")),
            other => pairs.push(format!("{name}={other}")),
        }
    }
    let sign = HMAC::mac(pairs.join("&").as_bytes(), SECRET.as_bytes());
    let sign: String = sign.iter().map(|byte| format!("{byte:02x}")).collect();
    fields.insert("sign".into(), sign.into());
    fields
}
