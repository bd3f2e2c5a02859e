//! What `pharmacy` costs: an order of ten lines judged by twelve rules and kept, and the same judged alone. What lies
//! between hello, one rule, twelve and an order that is kept tells where the time goes.

use anyhow::{Result, ensure};
use harness::{Runtime, http_client};
use serde_json::{Value, json};

use super::{Case, Request};
use crate::bench::{ANSWER_TIMEOUT, TOKEN};

const RULES: u64 = 12;
const LINES: u64 = 10;

/// Puts the rules in force that orders are judged by.
pub(crate) async fn prepare(runtime: &Runtime) -> Result<()> {
    let put = http_client(ANSWER_TIMEOUT).put(runtime.url("/pharmacy/rules")).bearer_auth(TOKEN);
    let answer = put.json(&rules(RULES)).send().await?;
    ensure!(answer.status() == 200, "the rules are refused: {}", answer.text().await?);
    Ok(())
}

/// An order that is kept by `clients`, and the same order judged by one rule and by twelve.
pub(crate) fn cases(clients: u32) -> Vec<Case> {
    let kept = Case {
        name: "pharmacy/orders",
        request: Request::post("/pharmacy/orders", "application/json", order("ST-{n}").to_string()).numbered_from(0),
        clients,
        unit: "orders",
        units_per_request: 1,
        check: check_placed,
    };
    let judged = |name, count| {
        let mut body = rules(count);
        body["order"] = order("ST-1");
        Case {
            name,
            request: Request::post("/pharmacy/rules/check", "application/json", body.to_string()),
            clients,
            unit: "requests",
            units_per_request: 1,
            check: check_judged,
        }
    };
    let in_force = Case {
        name: "pharmacy/rules/check",
        request: Request::post(
            "/pharmacy/rules/check",
            "application/json",
            json!({"order": order("ST-1")}).to_string(),
        ),
        clients,
        unit: "evaluations",
        units_per_request: RULES * LINES,
        check: check_judged,
    };
    vec![kept, in_force, judged("the same, compiled anew", RULES)]
}

/// As operators write them; none holds of [`order`].
fn rules(count: u64) -> Value {
    let whens = [
        "line.category == 'rx' && has(line.days) && line.days > max_days",
        "line.category == 'rx' && !has(line.days)",
        "line.quantity > max_quantity[line.category]",
        "line.category == 'rx' && size(prescription.diagnosis) == 0",
        "line.category == 'otc'",
        "line.category == 'tcm' && line.quantity > 500",
    ];
    let rule = |(index, when): (u64, &&str)| json!({"name": format!("rule_{index}"), "when": when, "action": "review", "message": "需药师审核"});
    json!({
        "constants": {"max_days": 30, "max_quantity": {"rx": 100, "otc": 50, "tcm": 2_000}},
        "rules": (0..count).zip(whens.iter().cycle()).map(rule).collect::<Vec<_>>(),
    })
}

fn order(order_no: &str) -> Value {
    let line = |number: u64| json!({"sku": format!("D-{number}"), "name": "氨氯地平片", "category": "rx", "quantity": 2, "days": 28, "dose": "5mg qd"});
    json!({
        "order_no": order_no, "doctor_id": "d-17",
        "patient": {"id": "p-98", "name": "王芳", "phone": "13800138000"},
        "channel": "wechat",
        "prescription": {"id": "rx-1", "diagnosis": ["高血压"], "lines": (0..LINES).map(line).collect::<Vec<_>>()},
        "address": "上海市徐汇区某路1号", "amount_fen": 12_800,
    })
}

fn check_placed(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)?;
    ensure!(answer["status"] == "awaiting_payment", "it is not taken: {answer}");
    Ok(())
}

fn check_judged(answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)?;
    ensure!(answer["lines"].as_array().map(Vec::len) == Some(LINES as usize), "it is not judged: {answer}");
    check_placed(&answer.to_string())
}
