//! An order that is read is written and read again as it is, and the shipped rules have an answer to it.
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

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use order::Order;
use rules::{RuleSet, source::Source};
use shared::json;

static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::compile(&Source::shipped().unwrap(), 0).ok().unwrap());

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = json::parse(bytes) else { return };
    let Ok(order) = Order::read(&value, "") else { return };
    let written = serde_json::to_vec(&order).unwrap();
    assert_eq!(Order::read(&json::parse(&written).unwrap(), "").unwrap(), order);
    let verdict = RULES.judge(&order);
    assert!(verdict.fired.iter().all(|fired| fired.error.is_none()), "a shipped rule errs: {verdict:?}");
});
