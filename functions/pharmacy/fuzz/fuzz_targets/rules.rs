//! A set of rules that compiles has an answer to an order.
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

use libfuzzer_sys::fuzz_target;
use order::Order;
use rules::{RuleSet, source::Proposal};
use shared::json;

const ORDER: &str = include_str!("../seeds/orders/order.json");

fuzz_target!(|bytes: &[u8]| {
    let Ok(proposal) = Proposal::read(bytes) else { return };
    let Ok(set) = RuleSet::compile(&proposal.source, 1) else { return };
    let order = Order::read(&json::parse(ORDER.as_bytes()).unwrap(), "").unwrap();
    let _ = set.judge(&order);
});
