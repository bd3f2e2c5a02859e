//! Rules on orders, written by operators in CEL, the Common Expression Language
//! (<https://github.com/google/cel-spec/blob/master/doc/langdef.md>), by the crate `cel`.
//!
//! A set is read, checked and compiled once; [`RuleSet::judge`] asks each rule of each line of an order. What a rule
//! may cost is bounded by the size of its expression, by one level of `all`, `exists`, `map` or `filter`, and by the
//! order's lists.

mod scope;
pub(crate) mod source;

use std::sync::Arc;

use cel::{
    Context, Env, Program, Value,
    common::ast::{EntryExpr, Expr, IdedExpr},
};
use serde::{Deserialize, Serialize};
use shared::problem::Fault;

use self::source::Source;
use crate::{order::Order, status::Event};

/// The most characters of an expression.
const EXPRESSION_MAX: usize = 1_000;
/// The most rules of a set.
const RULES_MAX: usize = 50;
/// The most `all`, `exists`, `map` or `filter` of an expression, none within another.
const COMPREHENSIONS_MAX: usize = 2;
/// How deep an expression may be nested.
const DEPTH_MAX: u16 = 32;
/// The most characters of an evaluation's fault that are told.
const FAULT_MAX: usize = 200;
/// What rules may name beside constants.
const SCOPE: [&str; 3] = ["order", "prescription", "line"];

/// What a rule does where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Action {
    /// The order is refused.
    Reject,
    /// A pharmacist must see the order.
    Review,
    /// The line is not shown to the pharmacist, and asks for no review.
    HideOtc,
}

struct Rule {
    name: String,
    action: Action,
    message: String,
    program: Program,
}

/// A compiled set.
pub(crate) struct RuleSet {
    /// 0 for the set that the component ships with.
    pub(crate) version: i64,
    rules: Vec<Rule>,
    /// Functions and constants; lines and orders are scopes within.
    root: Context<'static, 'static>,
}

/// A rule that holds of a line, or could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fired {
    /// The rule's name.
    pub(crate) rule: String,
    /// What it does: `review` for one that could not be asked.
    pub(crate) action: Action,
    /// The line's place in the prescription, from 0.
    pub(crate) line: usize,
    /// The line's drug.
    pub(crate) sku: String,
    /// In the rule's words.
    pub(crate) message: String,
    /// Why it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What the rules say of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Everything that fired, line by line.
    pub(crate) fired: Vec<Fired>,
    /// The lines that the pharmacist does not see.
    pub(crate) hidden: Vec<usize>,
    /// What becomes of the order.
    pub(crate) event: Event,
}

impl Verdict {
    /// Why the order is not simply to be paid: what rejects it or asks for a review.
    pub(crate) fn reasons(&self) -> Vec<Fired> {
        let counts = |fired: &&Fired| match fired.action {
            Action::Reject => true,
            // What is hidden is nobody's to review.
            Action::Review => self.event != Event::Passed && !self.hidden.contains(&fired.line),
            Action::HideOtc => false,
        };
        self.fired.iter().filter(counts).cloned().collect()
    }
}

impl RuleSet {
    /// Compiles a set.
    ///
    /// # Errors
    /// Every fault of every rule, at its place in the set.
    pub(crate) fn compile(source: &Source, version: i64) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        if source.rules.len() > RULES_MAX {
            faults.push(Fault::at("/rules", format!("may have {RULES_MAX} rules")));
        }
        let env = Arc::new(Env::stdlib());
        let mut root = Context::with_env(env.clone());
        for (name, value) in &source.constants {
            let at = format!("/constants/{}", shared::problem::escaped(name));
            if SCOPE.contains(&name.as_str()) || !is_name(name) {
                faults.push(Fault::at(at, "must be a name of a-z, 0-9 and _, and none that an order has"));
                continue;
            }
            match scope::constant(value) {
                Some(value) => root.add_variable_as_val(name.as_str(), value),
                None => {
                    faults.push(Fault::at(at, "must be a number, a text, true or false, or a list or table of them"))
                }
            }
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(source.rules.len());
        for (index, rule) in source.rules.iter().enumerate() {
            let at = |field: &str| format!("/rules/{index}/{field}");
            if !is_name(&rule.name) {
                faults.push(Fault::at(at("name"), "must be a name of a-z, 0-9 and _"));
            }
            if rules.iter().any(|known| known.name == rule.name) {
                faults.push(Fault::at(at("name"), "stands twice"));
            }
            let message = rule.message.chars().count();
            if !(1..=200).contains(&message) {
                faults.push(Fault::at(at("message"), "must be a text of 1 to 200 characters"));
            }
            match program(&env, &rule.when, source) {
                Ok(program) => rules.push(Rule {
                    name: rule.name.clone(),
                    action: rule.action,
                    message: rule.message.clone(),
                    program,
                }),
                Err(detail) => faults.push(Fault::at(at("when"), detail)),
            }
        }
        if faults.is_empty() { Ok(Self { version, rules, root }) } else { Err(faults) }
    }

    /// Asks every rule of every line.
    pub(crate) fn judge(&self, order: &Order) -> Verdict {
        let mut of_order = self.root.new_inner_scope();
        of_order.add_variable_as_val("order", scope::order(order));
        of_order.add_variable_as_val("prescription", scope::prescription(order));
        let mut fired = Vec::new();
        let mut hidden = Vec::new();
        for (index, line) in order.prescription.lines.iter().enumerate() {
            let mut of_line = of_order.new_inner_scope();
            of_line.add_variable_as_val("line", scope::line(line));
            let (mut hides, mut errs) = (false, false);
            for rule in &self.rules {
                let error = match rule.program.execute(&of_line) {
                    Ok(Value::Bool(false)) => continue,
                    Ok(Value::Bool(true)) => None,
                    Ok(other) => Some(format!("it is neither true nor false but {}", other.type_of())),
                    Err(error) => Some(error.to_string().chars().take(FAULT_MAX).collect()),
                };
                hides |= error.is_none() && rule.action == Action::HideOtc;
                errs |= error.is_some();
                fired.push(Fired {
                    rule: rule.name.clone(),
                    action: if error.is_some() { Action::Review } else { rule.action },
                    line: index,
                    sku: line.sku.as_str().to_owned(),
                    message: match &error {
                        Some(_) => format!("规则无法执行，需药师审核：{}", rule.message),
                        None => rule.message.clone(),
                    },
                    error,
                });
            }
            // A line of which nobody knows what a rule would say is seen.
            if hides && !errs {
                hidden.push(index);
            }
        }
        let rejects = fired.iter().any(|fired| fired.action == Action::Reject);
        let reviews = fired.iter().any(|fired| fired.action == Action::Review && !hidden.contains(&fired.line));
        let event = match (rejects, reviews) {
            (true, _) => Event::Refused,
            (false, true) => Event::Queued,
            (false, false) => Event::Passed,
        };
        Verdict { fired, hidden, event }
    }
}

fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte == b'_');
    first
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Compiles an expression; an error is what is wrong with it.
fn program(env: &Env, expression: &str, source: &Source) -> Result<Program, String> {
    if !(1..=EXPRESSION_MAX).contains(&expression.chars().count()) {
        return Err(format!("must have 1 to {EXPRESSION_MAX} characters"));
    }
    // Before the parser is asked, which goes as deep as the text does.
    if nested(expression) > usize::from(DEPTH_MAX) {
        return Err(format!("may be nested {DEPTH_MAX} deep"));
    }
    let program = env.compile(expression).map_err(|errors| format!("does not compile: {errors}"))?;
    let mut comprehensions = 0;
    let mut bound = Vec::new();
    check(program.expression(), 0, &mut comprehensions, &mut bound)?;
    if comprehensions > COMPREHENSIONS_MAX {
        return Err(format!("may have {COMPREHENSIONS_MAX} of all, exists, exists_one, map and filter"));
    }
    let references = program.references();
    let known = |name: &&str| {
        SCOPE.contains(name)
            || source.constants.contains_key(*name)
            || name.starts_with('@')
            || bound.iter().any(|bound| bound == name)
    };
    if let Some(unknown) = references.variables().into_iter().find(|name| !known(name)) {
        let constants: Vec<_> = source.constants.keys().map(String::as_str).collect();
        return Err(format!("`{unknown}` is unknown; known: {}", [&SCOPE[..], &constants].concat().join(", ")));
    }
    Ok(program)
}

/// The most brackets and signs that stand within one another.
fn nested(expression: &str) -> usize {
    let (mut depth, mut deepest, mut signs) = (0_usize, 0, 0_usize);
    for byte in expression.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        signs = if matches!(byte, b'!' | b'-' | b' ') { signs + usize::from(byte != b' ') } else { 0 };
        deepest = deepest.max(depth + signs);
    }
    deepest
}

/// Counts what loops and notes the names that loops bind, and refuses a loop within a loop.
fn check(expression: &IdedExpr, within: usize, count: &mut usize, bound: &mut Vec<String>) -> Result<(), String> {
    let mut all = |expressions: &[&IdedExpr]| {
        expressions.iter().try_for_each(|expression| check(expression, within, count, bound))
    };
    match &expression.expr {
        Expr::Call(call) => {
            all(&call.target.iter().map(Box::as_ref).collect::<Vec<_>>())?;
            all(&call.args.iter().collect::<Vec<_>>())
        }
        Expr::Select(select) => all(&[&select.operand]),
        Expr::List(list) => all(&list.elements.iter().collect::<Vec<_>>()),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => all(&[&entry.key, &entry.value]),
            EntryExpr::StructField(field) => all(&[&field.value]),
        }),
        Expr::Struct(_) => Err("may not make an object".into()),
        Expr::Comprehension(loops) => {
            if within > 0 {
                return Err("all, exists, exists_one, map and filter may not stand within one another".into());
            }
            *count += 1;
            bound.push(loops.iter_var.clone());
            bound.extend(loops.iter_var2.clone());
            bound.push(loops.accu_var.clone());
            let inner = [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result];
            check(&loops.iter_range, within, count, bound)?;
            inner.into_iter().try_for_each(|inner| check(inner, within + 1, count, bound))
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::{body, read};
    use serde_json::json;

    fn shipped() -> RuleSet {
        RuleSet::compile(&Source::shipped().unwrap(), 0).unwrap()
    }

    /// A set of one rule.
    fn one(action: &str, when: &str) -> Result<RuleSet, Vec<Fault>> {
        let toml = format!(
            "[constants]\nlimit = 3\n[[rules]]\nname = \"one\"\nwhen = {when:?}\naction = \"{action}\"\nmessage = \"m\"\n"
        );
        RuleSet::compile(&Source::from_toml(&toml).unwrap(), 1)
    }

    /// The order with these lines.
    fn with(lines: serde_json::Value) -> Order {
        let mut body = body("ST-1");
        body["prescription"]["lines"] = lines;
        read(&body).unwrap()
    }

    fn line(category: &str, quantity: i64, days: Option<i64>) -> serde_json::Value {
        let mut line = json!({"sku": "s", "name": "n", "category": category, "quantity": quantity});
        if let Some(days) = days {
            line["days"] = json!(days);
        }
        line
    }

    fn fired(verdict: &Verdict) -> Vec<&str> {
        verdict.reasons().iter().map(|fired| fired.rule.clone()).map(|rule| &*rule.leak()).collect()
    }

    #[test]
    fn the_shipped_rules_say_what_they_promise() {
        let set = shipped();
        for (lines, event, rules) in [
            (json!([line("rx", 2, Some(30))]), Event::Passed, vec![]),
            (json!([line("rx", 2, Some(31))]), Event::Queued, vec!["days_over_limit"]),
            (json!([line("rx", 2, None)]), Event::Queued, vec!["days_missing"]),
            (json!([line("rx", 101, Some(7))]), Event::Refused, vec!["quantity_over_limit"]),
            (json!([line("otc", 51, None)]), Event::Refused, vec!["quantity_over_limit"]),
            (json!([line("tcm", 500, None)]), Event::Passed, vec![]),
            (json!([line("tcm", 501, None)]), Event::Queued, vec!["tcm_over_500g"]),
            (json!([line("tcm", 2001, None)]), Event::Refused, vec!["quantity_over_limit", "tcm_over_500g"]),
            (json!([line("otc", 1, None)]), Event::Passed, vec![]),
        ] {
            let verdict = set.judge(&with(lines.clone()));
            assert_eq!((verdict.event, fired(&verdict)), (event, rules), "{lines}");
        }
        let mut undiagnosed = body("ST-1");
        undiagnosed["prescription"]["diagnosis"] = json!([]);
        let verdict = set.judge(&read(&undiagnosed).unwrap());
        assert_eq!((verdict.event, fired(&verdict)), (Event::Refused, vec!["diagnosis_missing"]));
    }

    #[test]
    fn the_shield_hides_lines_and_spares_an_order_of_them_alone_the_review() {
        let set = shipped();
        let mixed = set.judge(&with(json!([line("otc", 1, Some(90)), line("rx", 1, Some(60))])));
        assert_eq!((mixed.hidden.as_slice(), mixed.event), (&[0][..], Event::Queued));
        let toml = "[[rules]]\nname = \"all\"\nwhen = \"true\"\naction = \"review\"\nmessage = \"m\"\n\
            [[rules]]\nname = \"shield\"\nwhen = \"line.category == 'otc'\"\naction = \"hide_otc\"\nmessage = \"m\"";
        let set = RuleSet::compile(&Source::from_toml(toml).unwrap(), 1).unwrap();
        let alone = set.judge(&with(json!([line("otc", 1, None), line("otc", 2, None)])));
        assert_eq!((alone.event, alone.reasons().len()), (Event::Passed, 0));
        let mixed = set.judge(&with(json!([line("otc", 1, None), line("rx", 2, Some(1))])));
        assert_eq!((mixed.event, mixed.reasons().len()), (Event::Queued, 1));
    }

    #[test]
    fn a_rule_that_errs_sends_the_order_to_review_and_says_so() {
        for when in ["line.days > limit", "1 / 0 == 1", "line.name > 3", "size(line.name)", "line.days"] {
            for action in ["reject", "review", "hide_otc"] {
                let set = one(action, when).unwrap();
                let verdict = set.judge(&with(json!([line("otc", 1, None)])));
                assert_eq!((verdict.event, verdict.hidden.len()), (Event::Queued, 0), "{when} {action}");
                let reason = &verdict.reasons()[0];
                assert!(reason.error.as_ref().is_some_and(|error| !error.is_empty()), "{reason:?}");
                assert!(reason.message.contains("无法执行"));
            }
        }
    }

    #[test]
    fn rules_see_the_order_the_prescription_and_the_constants() {
        let order = with(json!([line("rx", 4, Some(9)), line("otc", 1, None)]));
        for when in [
            "order.order_no == 'ST-1' && order.channel == 'wechat' && order.amount_fen == 12800",
            "prescription.diagnosis.exists(d, d.contains('高血压')) && size(order.lines) == 2",
            "order.lines.exists(l, has(l.days) && l.days == 9) && 'sku' in line && !('days' in order)",
            "order.prescription.lines.map(l, l.quantity) == [4, 1] && limit == 3",
            "order.lines.filter(l, l.category == 'rx').size() == 1 && order.lines[1].quantity < limit",
            "!has(order.address) && !has(order.patient)",
        ] {
            let verdict = one("reject", when).unwrap().judge(&order);
            assert_eq!(verdict.event, Event::Refused, "{when}: {:?}", verdict.fired);
        }
    }

    #[test]
    fn what_does_not_compile_or_costs_too_much_is_refused() {
        let deep = format!("{}true{}", "(".repeat(40), ")".repeat(40));
        let negated = format!("{}true", "!".repeat(900));
        for when in [
            "line.quantity >",
            "lin.quantity > 3",
            "",
            "order.lines.all(l, order.lines.all(m, m == l))",
            "order.lines.all(l, true) && order.lines.all(l, true) && order.lines.all(l, true)",
            &deep,
            &negated,
            &format!("'{}' == ''", "x".repeat(EXPRESSION_MAX)),
        ] {
            let faults = one("review", when).err().unwrap_or_else(|| panic!("{when} is let pass"));
            assert_eq!(faults[0].pointer, "/rules/0/when", "{when}");
        }
    }

    #[test]
    fn every_fault_of_a_set_is_named() {
        let toml = "[constants]\nline = 1\n[[rules]]\nname = \"A\"\nwhen = \"x\"\naction = \"review\"\nmessage = \"\"\n\
            [[rules]]\nname = \"b\"\nwhen = \"true\"\naction = \"review\"\nmessage = \"m\"\n\
            [[rules]]\nname = \"b\"\nwhen = \"true\"\naction = \"review\"\nmessage = \"m\"\n";
        let faults = RuleSet::compile(&Source::from_toml(toml).unwrap(), 1).err().unwrap();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/constants/line", "/rules/0/name", "/rules/0/message", "/rules/0/when", "/rules/2/name"]
        );
    }
}
