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
    common::ast::{EntryExpr, Expr, IdedExpr, operators},
};
use serde::{Deserialize, Serialize};
use shared::problem::Fault;

use self::source::{SOURCE_MAX, Source};
use crate::{
    order::{Category, Order},
    status::Event,
};

/// The most characters of an expression.
const EXPRESSION_MAX: usize = 1_000;
/// The most rules of a set.
const RULES_MAX: usize = 50;
/// The most `all`, `exists`, `map` or `filter` of an expression, none within another.
const COMPREHENSIONS_MAX: usize = 2;
/// How deep brackets and signs may be nested.
const DEPTH_MAX: usize = 32;
/// How deep an expression's tree may be: each operator, field and bracket of a chain stands within the next.
const TREE_MAX: usize = 64;
/// The most characters of an evaluation's fault that are told.
const FAULT_MAX: usize = 200;
/// The most numbers, texts, lists and tables of a set's constants, those within others counted: an expression may copy
/// them for every line.
const CONSTANTS_MAX: usize = 1_000;
/// What rules may call beside operators. An expression that calls another compiles, and would fail at every order.
const FUNCTIONS: [&str; 9] = ["bool", "contains", "double", "endsWith", "int", "size", "startsWith", "string", "uint"];
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
        // As it is kept, whichever way it came.
        if serde_json::to_string(source).is_ok_and(|text| text.len() > SOURCE_MAX) {
            return Err(vec![Fault::at("", format!("a set may have {SOURCE_MAX} bytes"))]);
        }
        if source.constants.values().map(elements).sum::<usize>() > CONSTANTS_MAX {
            faults.push(Fault::at("/constants", format!("may have {CONSTANTS_MAX} values in all")));
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
                    Ok(Value::Bool(true)) if rule.action == Action::HideOtc && line.category != Category::Otc => {
                        Some("it hides a line that is not over the counter".to_owned())
                    }
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

/// How many values a constant is, with those within it.
fn elements(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(elements).sum::<usize>(),
        serde_json::Value::Object(fields) => 1 + fields.values().map(elements).sum::<usize>(),
        _ => 1,
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
    if nested(expression) > DEPTH_MAX {
        return Err(format!("may be nested {DEPTH_MAX} deep"));
    }
    let program = env.compile(expression).map_err(|errors| format!("does not compile: {errors}"))?;
    let mut found = Found::default();
    check(program.expression(), Place::default(), &mut found)?;
    let Found { comprehensions, bound } = found;
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
    // An operator's name has a sign in it: `_+_`, `@in`.
    let known =
        |name: &&str| FUNCTIONS.contains(name) || name.contains(|sign: char| !sign.is_alphanumeric() && sign != '_');
    if let Some(unknown) = references.functions().into_iter().find(|name| !known(name)) {
        return Err(format!("the function `{unknown}` is unknown; known: {}", FUNCTIONS.join(", ")));
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

/// What [`check`] found in an expression.
#[derive(Default)]
struct Found {
    comprehensions: usize,
    /// The names that loops bind.
    bound: Vec<String>,
}

/// Where in an expression a part of it stands.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Within how many others.
    depth: usize,
    /// Within a loop.
    in_loop: bool,
}

/// Counts what loops and notes the names that loops bind, and refuses a loop within a loop, and what is too deep: the
/// library's parser bounds brackets, and not operators and fields, and evaluates each within the one before.
fn check(expression: &IdedExpr, place: Place, found: &mut Found) -> Result<(), String> {
    if place.depth > TREE_MAX {
        return Err(format!("may have {TREE_MAX} operators, fields and brackets within one another"));
    }
    let within = Place { depth: place.depth + 1, ..place };
    match &expression.expr {
        Expr::Call(call) => {
            // A table as the library makes it equals no record of ours, and would never say so.
            let asked = match call.func_name.as_str() {
                operators::EQUALS | operators::NOT_EQUALS => call.args.first(),
                operators::IN => call.args.last(),
                _ => None,
            };
            if asked.is_some_and(has_table) {
                return Err("a table in braces is compared from the right of == and the left of `in`".into());
            }
            let parts = call.target.as_deref().into_iter().chain(&call.args);
            parts.into_iter().try_for_each(|part| check(part, within, found))
        }
        Expr::Select(select) => check(&select.operand, within, found),
        Expr::List(list) => list.elements.iter().try_for_each(|element| check(element, within, found)),
        Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => {
                check(&entry.key, within, found)?;
                check(&entry.value, within, found)
            }
            EntryExpr::StructField(field) => check(&field.value, within, found),
        }),
        Expr::Struct(_) => Err("may not make an object".into()),
        Expr::Comprehension(loops) => {
            if place.in_loop {
                return Err("all, exists, exists_one, map and filter may not stand within one another".into());
            }
            found.comprehensions += 1;
            found.bound.push(loops.iter_var.clone());
            found.bound.extend(loops.iter_var2.clone());
            found.bound.push(loops.accu_var.clone());
            check(&loops.iter_range, within, found)?;
            let inner = [&loops.accu_init, &loops.loop_cond, &loops.loop_step, &loops.result];
            let within = Place { in_loop: true, ..within };
            inner.into_iter().try_for_each(|inner| check(inner, within, found))
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

/// Whether it is a table in braces, or a list of some.
fn has_table(expression: &IdedExpr) -> bool {
    match &expression.expr {
        Expr::Map(_) => true,
        Expr::List(list) => list.elements.iter().any(has_table),
        _ => false,
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

    /// Expressions of nearly the most characters that lean to one side, by many ways.
    fn leaning() -> Vec<String> {
        let fill = |start: &str, step: &str, end: &str| {
            let times = (EXPRESSION_MAX - start.len() - end.len()) / step.len();
            [start, &step.repeat(times), end].concat()
        };
        vec![
            fill("1", "+1", " == 2"),
            fill("1", "*1", " == 2"),
            fill("line", ".a", ""),
            fill("line", "[0]", " == 2"),
            fill("", "true?true:", "true"),
            fill("", "1==1?true:", "false"),
            fill("1", "==1", ""),
            fill("1", "<1", ""),
            fill("'a'", ".size()", " == 2"),
            fill("true", "||1==1", ""),
            fill("true", "&&1==1", ""),
            fill("1", " in[1]", ""),
        ]
    }

    #[test]
    fn no_expression_goes_so_deep_that_a_components_stack_is_at_its_end() {
        // A component's is 1 MiB, and Wasmtime's own 512 KiB; a debug build takes several times what a release does.
        let small = std::thread::Builder::new().stack_size(512 * 1024);
        let tried = small.spawn(|| {
            for when in leaning() {
                if let Ok(set) = one("review", &when) {
                    set.judge(&with(json!([line("otc", 1, None)])));
                }
            }
        });
        tried.unwrap().join().unwrap();
        for when in leaning() {
            let alike = when.contains("||") || when.contains("&&");
            assert_eq!(one("review", &when).is_ok(), alike, "{when}");
        }
    }

    #[test]
    fn records_are_equal_field_by_field() {
        let order = with(json!([line("rx", 4, Some(9)), line("otc", 1, None)]));
        for (when, lines) in [
            ("line == order.lines[0]", 1),
            ("line != order.lines[0]", 1),
            ("order.lines.exists(l, l == line)", 2),
            ("line in order.lines", 2),
            ("line in prescription.lines.filter(l, l.category == 'otc')", 1),
            ("line == {'sku': 's', 'name': 'n', 'category': 'otc', 'quantity': 1}", 1),
            ("{'sku': 's', 'name': 'n', 'category': 'otc', 'quantity': 1} in order.lines", 2),
            ("order.prescription == prescription", 2),
            ("order.prescription == order", 0),
            ("line == 3", 0),
        ] {
            let verdict = one("reject", when).unwrap().judge(&order);
            assert!(verdict.fired.iter().all(|fired| fired.error.is_none()), "{when}: {:?}", verdict.fired);
            assert_eq!(verdict.fired.len(), lines, "{when}");
        }
        // The other way round the library would find them unlike, and say nothing.
        for when in ["{'sku': 's'} == line", "[{}] != order.lines", "line in [{'a': 1}]", "line in [line, {}]"] {
            assert!(one("reject", when).is_err(), "{when}");
        }
    }

    #[test]
    fn only_an_over_the_counter_line_can_be_hidden() {
        let toml = "[[rules]]\nname = \"shield\"\nwhen = \"true\"\naction = \"hide_otc\"\nmessage = \"m\"\n\
            [[rules]]\nname = \"much\"\nwhen = \"line.quantity > 500\"\naction = \"review\"\nmessage = \"m\"";
        let set = RuleSet::compile(&Source::from_toml(toml).unwrap(), 1).unwrap();
        let verdict = set.judge(&with(json!([line("otc", 501, None), line("tcm", 600, None), line("rx", 1, Some(1))])));
        assert_eq!((verdict.event, verdict.hidden.as_slice()), (Event::Queued, &[0][..]));
        let reasons: Vec<_> = verdict.reasons().into_iter().map(|fired| (fired.rule, fired.line)).collect();
        assert_eq!(reasons, [("shield".into(), 1), ("much".into(), 1), ("shield".into(), 2)]);
        assert!(verdict.reasons()[0].error.as_ref().unwrap().contains("over the counter"));
    }

    #[test]
    fn what_is_unknown_is_refused_by_its_name() {
        for (when, name) in [
            ("line.name.matches('x')", "matches"),
            ("sise(order.lines) > 1", "sise"),
            ("line.sku.lowerAscii() == 'a'", "lowerAscii"),
            ("order.lines.all(l, longer(l))", "longer"),
            ("duration('1s') == duration('1s')", "duration"),
        ] {
            let faults = one("review", when).err().unwrap_or_else(|| panic!("{when} is let pass"));
            assert!(
                faults[0].pointer == "/rules/0/when" && faults[0].detail.contains(&format!("`{name}`")),
                "{faults:?}"
            );
        }
        for when in [
            "line.name.contains('a') || line.name.startsWith('a') || line.name.endsWith('a')",
            "double(line.quantity) / 2.0 > 1.5 && int('3') == 3 && string(3) == '3' && uint(3) == 3u && bool('true')",
            "-line.quantity % 2 - 1 * 3 <= 4 && !(line.quantity >= 2) && size(line.name) in [1, 2] ? true : false",
            "order.lines.exists_one(l, l.quantity == 1) && order.lines.map(l, l.quantity)[0] != 3 && line['sku'] < 'z'",
            "{'otc': 1}[line.category] == 1 && !has(line.days)",
        ] {
            let verdict = one("review", when).unwrap().judge(&with(json!([line("otc", 1, None)])));
            assert!(verdict.fired.iter().all(|fired| fired.error.is_none()), "{when}: {:?}", verdict.fired);
        }
    }

    #[test]
    fn a_set_and_its_constants_have_a_size() {
        let with = |constants: serde_json::Value, rules: usize| {
            let rule = |number: usize| {
                let [when, message] = [format!("'{}' == ''", "x".repeat(900)), "m".into()];
                source::RuleSource { name: format!("r{number}"), when, action: Action::Review, message }
            };
            let constants = serde_json::from_value(constants).unwrap();
            RuleSet::compile(&Source { constants, rules: (0..rules).map(rule).collect() }, 1)
        };
        let list = |length: usize| json!(vec![1; length]);
        assert!(with(json!({"big": list(CONSTANTS_MAX - 1)}), 1).is_ok());
        for constants in [
            json!({"big": list(CONSTANTS_MAX)}),
            json!({"a": list(CONSTANTS_MAX / 2), "b": {"c": [list(CONSTANTS_MAX / 2)]}}),
        ] {
            let faults = with(constants, 1).err().unwrap();
            assert_eq!((faults.len(), faults[0].pointer.as_str()), (1, "/constants"));
        }
        assert!(with(json!({}), RULES_MAX).is_ok());
        let faults = with(json!({"text": "x".repeat(source::SOURCE_MAX)}), 1).err().unwrap();
        assert_eq!((faults[0].pointer.as_str(), faults.len()), ("", 1));
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
