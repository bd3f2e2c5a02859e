//! What `pharmacy` costs: an order of ten lines judged by twelve rules and kept, and the same judged alone, by one rule
//! and by twelve. What lies between hello, one rule, twelve and an order that is kept tells where the time goes.

use anyhow::{Result, ensure};
use harness::{Runtime, http_client};
use serde_json::{Value, json};

use super::{Case, Request, Round};
use crate::bench::report::{Spread, rounded};
use crate::bench::{ANSWER_TIMEOUT, TOKEN};

const RULES: u64 = 12;
const LINES: u64 = 10;

const JUDGED_BY_ONE: &str = "the same, by one rule";
const JUDGED: &str = "pharmacy/rules/check";
const KEPT: &str = "pharmacy/orders";

/// Cases that are measured with so many rules in force.
pub(crate) struct Group {
    rules: u64,
    pub(crate) cases: Vec<Case>,
}

impl Group {
    /// Puts its rules in force.
    pub(crate) async fn prepare(&self, runtime: &Runtime) -> Result<()> {
        let put = http_client(ANSWER_TIMEOUT).put(runtime.url("/pharmacy/rules")).bearer_auth(TOKEN);
        let answer = put.json(&rules(self.rules)).send().await?;
        ensure!(answer.status() == 200, "the rules are refused: {}", answer.text().await?);
        Ok(())
    }
}

/// An order that is kept by `clients`, and the same order judged by twelve rules and by one.
pub(crate) fn groups(clients: u32) -> [Group; 2] {
    let kept = Case {
        name: KEPT,
        request: Request::post("/pharmacy/orders", "application/json", order("ST-{n}").to_string()).numbered_from(0),
        clients,
        unit: "orders",
        units_per_request: 1,
        check: check_placed,
    };
    let judged = |name, unit, units_per_request, mut body: Value| {
        body["order"] = order("ST-1");
        let request = Request::post("/pharmacy/rules/check", "application/json", body.to_string());
        Case { name, request, clients, unit, units_per_request, check: check_judged }
    };
    let by_twelve = judged(JUDGED, "evaluations", RULES * LINES, json!({}));
    let compiled_anew = judged("the same, compiled anew", "requests", 1, rules(RULES));
    let by_one = judged(JUDGED_BY_ONE, "evaluations", LINES, json!({}));
    [Group { rules: RULES, cases: vec![kept, by_twelve, compiled_anew] }, Group { rules: 1, cases: vec![by_one] }]
}

/// Where the time of an order goes, in µs: of one request, as all the machine's cores have one after the other.
#[derive(Debug, PartialEq)]
pub(crate) struct Shares {
    http: f64,
    reading: f64,
    rules: f64,
    keeping: f64,
    evaluation: f64,
}

impl Shares {
    /// Of what was measured of this function's cases. A case's time is its ratio to the hellos beside it, so that a
    /// machine that slows down in between is no part of a difference.
    pub(crate) fn of(measured: &[(&'static str, Vec<Round>)]) -> Option<Self> {
        let hello = |round: &Round| 1e6 / round.baseline.requests_per_s;
        let hello_us = Spread::of(measured.iter().flat_map(|(_, rounds)| rounds).map(hello)).median;
        let time_us = |name| {
            let (_, rounds) = measured.iter().find(|(known, _)| *known == name)?;
            let ratio = |round: &Round| round.baseline.requests_per_s / round.case.requests_per_s;
            Some(hello_us * Spread::of(rounds.iter().map(ratio)).median)
        };
        Some(Self::between(hello_us, time_us(JUDGED_BY_ONE)?, time_us(JUDGED)?, time_us(KEPT)?))
    }

    fn between(hello_us: f64, by_one_us: f64, by_twelve_us: f64, kept_us: f64) -> Self {
        let evaluation = (by_twelve_us - by_one_us) / ((RULES - 1) * LINES) as f64;
        let rules = evaluation * (RULES * LINES) as f64;
        let (reading, keeping) = (by_twelve_us - hello_us - rules, kept_us - by_twelve_us);
        Self { http: hello_us, reading, rules, keeping, evaluation }
    }

    /// Each share with what it is.
    fn rows(&self) -> [(&'static str, f64); 4] {
        [
            ("HTTP, as of a hello", self.http),
            ("reading it, asking for newer rules", self.reading),
            ("12 rules on 10 lines", self.rules),
            ("keeping it: commits, messages", self.keeping),
        ]
    }

    /// Prints them.
    pub(crate) fn tell(&self) {
        let whole: f64 = self.rows().iter().map(|(_, us)| us).sum();
        println!("\nWhere an order's {whole:.0} µs go (a second by orders per second)");
        for (what, us) in self.rows() {
            println!("{what:<36} {us:>9.1} µs {:>4.0}%", us / whole * 100.0);
        }
        println!("{:<36} {:>9.2} µs", "one evaluation of a rule on a line", self.evaluation);
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "http_us": rounded(self.http),
            "reading_us": rounded(self.reading),
            "rules_us": rounded(self.rules),
            "keeping_us": rounded(self.keeping),
            "evaluation_us": rounded(self.evaluation),
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_the_whole() {
        let shares = Shares::between(50.0, 300.0, 410.0, 1_000.0);
        let expected = Shares { http: 50.0, reading: 240.0, rules: 120.0, keeping: 590.0, evaluation: 1.0 };
        assert_eq!(shares, expected);
        assert_eq!(shares.rows().iter().map(|(_, us)| us).sum::<f64>(), 1_000.0);
    }
}
