//! A set of rules as operators write it: TOML, or the same as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{
    id::Id,
    json::{self, Value},
    problem::Fault,
};

use super::{Action, RuleSet};
use crate::{order::Order, status::Status};

/// The most bytes of a set.
pub(crate) const SOURCE_MAX: usize = 64 * 1024;
/// The most samples that a set is tried on.
const SAMPLES_MAX: usize = 50;

/// What an operator's name must be.
const NO_OPERATOR: &str = "must be an id, [A-Za-z0-9._:-]{1,64}";

/// The set that the component ships with.
const SHIPPED: &str = include_str!("../../rules.toml");

/// A set that has been read, and not compiled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// What rules may name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) constants: BTreeMap<String, serde_json::Value>,
    /// In the order in which they are asked.
    #[serde(default)]
    pub(crate) rules: Vec<RuleSource>,
}

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleSource {
    pub(crate) name: String,
    pub(crate) when: String,
    pub(crate) action: Action,
    pub(crate) message: String,
}

/// An order with what is expected of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    /// As `POST /orders` takes it.
    pub(crate) order: serde_json::Value,
    /// The status that it is to get.
    pub(crate) expect: String,
}

/// A set that replaces another, as it comes in.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Proposal {
    pub(crate) source: Source,
    pub(crate) samples: Vec<Sample>,
    /// Who proposes it, where they say.
    pub(crate) operator: Option<String>,
}

/// The whole of a proposal in TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    operator: Option<String>,
    #[serde(default)]
    constants: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    rules: Vec<RuleSource>,
    #[serde(default)]
    samples: Vec<Sample>,
}

impl Source {
    /// The set that the component ships with.
    ///
    /// # Errors
    /// None: a test reads it.
    pub(crate) fn shipped() -> Result<Self, Vec<Fault>> {
        Self::from_toml(SHIPPED)
    }

    /// Reads a set's TOML.
    ///
    /// # Errors
    /// What is wrong, with its place in the text.
    pub(crate) fn from_toml(text: &str) -> Result<Self, Vec<Fault>> {
        Ok(Proposal::from_toml(text)?.source)
    }
}

fn fault(at: &str, detail: impl Into<String>) -> Vec<Fault> {
    vec![Fault::at(at, detail)]
}

impl Proposal {
    fn from_toml(text: &str) -> Result<Self, Vec<Fault>> {
        if text.len() > SOURCE_MAX {
            return Err(fault("", format!("a set may have {SOURCE_MAX} bytes")));
        }
        let written: Written =
            toml::from_str(text).map_err(|error| fault("", format!("not the TOML of a set: {error}")))?;
        if written.operator.as_deref().is_some_and(|operator| Id::parse(operator).is_none()) {
            return Err(fault("/operator", NO_OPERATOR));
        }
        Ok(Self {
            source: Source { constants: written.constants, rules: written.rules },
            samples: written.samples,
            operator: written.operator,
        })
    }

    /// Reads a body: TOML; or JSON with `operator`, `samples` and either `rules` as TOML, or `constants` and `rules` as
    /// TOML would have them.
    ///
    /// # Errors
    /// Every fault, with its place.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Vec<Fault>> {
        let proposal = if body.trim_ascii_start().first() == Some(&b'{') {
            let value = json::parse(body).map_err(|error| fault("", format!("not JSON: {error}")))?;
            Self::of_json(&value, &[])?
        } else {
            let text = std::str::from_utf8(body).map_err(|error| fault("", format!("not UTF-8: {error}")))?;
            Self::from_toml(text)?
        };
        if proposal.source.rules.is_empty() {
            return Err(fault("/rules", "is missing: send a set in TOML, or its rules"));
        }
        Ok(proposal)
    }

    /// Reads an object as [`Proposal::read`] does, beside fields that it leaves to `others`.
    ///
    /// # Errors
    /// Every fault, with its place.
    pub(crate) fn of_json(value: &Value<'_>, others: &[&str]) -> Result<Self, Vec<Fault>> {
        let Some(object) = value.as_object() else { return Err(fault("", "must be an object")) };
        let mut faults = Vec::new();
        let mut proposal = Self::default();
        let mut operator_within = None;
        for (name, value) in object.iter() {
            let plain = || serde_json::to_value(value).map_err(|error| error.to_string());
            let read = match (name, value) {
                (name, _) if others.contains(&name) => Ok(()),
                (_, Value::Null) => Ok(()),
                ("operator", value) => {
                    let named = Id::from_json(value);
                    proposal.operator = named.as_ref().map(|id| id.as_str().to_owned());
                    named.map(drop).ok_or_else(|| NO_OPERATOR.to_owned())
                }
                ("rules" | "toml", Value::String(text)) => match Self::from_toml(text) {
                    Ok(written) => {
                        proposal.source = written.source;
                        proposal.samples.extend(written.samples);
                        // Whoever says so beside the set stands for it.
                        operator_within = written.operator;
                        Ok(())
                    }
                    Err(found) => Err(found.into_iter().map(|fault| fault.detail).collect()),
                },
                ("rules", Value::Object(_)) => plain().and_then(|value| {
                    proposal.source = serde_json::from_value(value).map_err(|error| error.to_string())?;
                    Ok(())
                }),
                ("rules", Value::Array(items)) => {
                    for (index, item) in items.iter().enumerate() {
                        let rule = serde_json::to_value(item).and_then(serde_json::from_value);
                        match rule {
                            Ok(rule) => proposal.source.rules.push(rule),
                            Err(error) => faults.push(Fault::at(format!("/rules/{index}"), error.to_string())),
                        }
                    }
                    Ok(())
                }
                ("constants", _) => plain().and_then(|value| {
                    proposal.source.constants = serde_json::from_value(value).map_err(|error| error.to_string())?;
                    Ok(())
                }),
                ("samples", _) => plain().and_then(|value| {
                    let samples: Vec<Sample> = serde_json::from_value(value).map_err(|error| error.to_string())?;
                    proposal.samples.extend(samples);
                    Ok(())
                }),
                _ => Err("is unknown; known: operator, rules, constants, samples".to_owned()),
            };
            if let Err(detail) = read {
                faults.push(Fault::at(format!("/{}", shared::problem::escaped(name)), detail));
            }
        }
        proposal.operator = proposal.operator.or(operator_within);
        if faults.is_empty() { Ok(proposal) } else { Err(faults) }
    }

    /// Tries a compiled set on the samples.
    ///
    /// # Errors
    /// Every sample that is no order, or of which the set says something else than expected.
    pub(crate) fn try_samples(&self, set: &RuleSet) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        if self.samples.len() > SAMPLES_MAX {
            faults.push(Fault::at("/samples", format!("may have {SAMPLES_MAX} samples")));
        }
        for (index, sample) in self.samples.iter().enumerate() {
            let at = format!("/samples/{index}");
            let text = sample.order.to_string();
            let order = json::parse(text.as_bytes())
                .map_err(|error| fault(&at, error.to_string()))
                .and_then(|value| Order::read(&value, &format!("{at}/order")));
            let order = match order {
                Ok(order) => order,
                Err(mut found) => {
                    faults.append(&mut found);
                    continue;
                }
            };
            let Some(expected) = expected(&sample.expect) else {
                let detail = "must be awaiting_payment, under_review or rejected";
                faults.push(Fault::at(format!("{at}/expect"), detail));
                continue;
            };
            let found = set.judge(&order).event.row().to;
            if found != expected {
                let detail = format!("expected {}, and the rules say {}", expected.as_str(), found.as_str());
                faults.push(Fault::at(at, detail));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// A status that rules lead to, by its name or by that of the action.
fn expected(name: &str) -> Option<Status> {
    match name {
        "reject" => Some(Status::Rejected),
        "review" => Some(Status::UnderReview),
        "pay" | "pass" => Some(Status::AwaitingPayment),
        _ => Status::parse(name)
            .filter(|status| matches!(status, Status::Rejected | Status::UnderReview | Status::AwaitingPayment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::tests::body;
    use serde_json::json;

    const TOML: &str = "operator = \"op-1\"\n[constants]\nlimit = 3\nof = {rx = 1}\n\
        [[rules]]\nname = \"r\"\nwhen = \"line.quantity > limit\"\naction = \"reject\"\nmessage = \"m\"\n";

    #[test]
    fn the_shipped_set_compiles() {
        assert_eq!(Source::shipped().unwrap().rules.len(), 6);
        RuleSet::compile(&Source::shipped().unwrap(), 0).unwrap();
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let expected = Proposal::from_toml(TOML).unwrap();
        assert_eq!(expected.operator.as_deref(), Some("op-1"));
        let rule = json!({"name": "r", "when": "line.quantity > limit", "action": "reject", "message": "m"});
        let constants = json!({"limit": 3, "of": {"rx": 1}});
        let bare = TOML.replace("operator = \"op-1\"\n", "");
        for body in [
            json!({"operator": "op-1", "rules": bare}),
            json!({"operator": "op-1", "toml": bare, "samples": []}),
            json!({"rules": TOML}),
            json!({"operator": "op-1", "rules": TOML.replace("op-1", "op-2")}),
            json!({"rules": TOML.replace("op-1", "op-2"), "operator": "op-1"}),
            json!({"operator": "op-1", "constants": constants, "rules": [rule]}),
            json!({"operator": "op-1", "rules": {"constants": constants, "rules": [rule]}}),
        ] {
            assert_eq!(Proposal::read(body.to_string().as_bytes()).unwrap(), expected, "{body}");
        }
        assert_eq!(Proposal::read(TOML.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_no_set_is_refused_with_its_place() {
        for (body, pointer) in [
            ("", "/rules"),
            ("rules = 3", ""),
            ("{\"rules\":[{\"name\":\"r\"}]}", "/rules/0"),
            ("{\"rules\":\"x = \"}", "/rules"),
            ("{\"colour\":1,\"rules\":[]}", "/colour"),
            (r#"{"order":{},"rules":"[[rules]]"}"#, "/order"),
            (r#"{"operator":"op 1","rules":[]}"#, "/operator"),
            ("operator = 'op 1'\n[[rules]]\nname = 'r'\nwhen = 'true'\naction = 'review'\nmessage = 'm'", "/operator"),
            ("{", ""),
            ("\u{1}", ""),
        ] {
            assert_eq!(Proposal::read(body.as_bytes()).unwrap_err()[0].pointer, pointer, "{body}");
        }
        assert!(Proposal::from_toml(&"#".repeat(SOURCE_MAX + 1)).is_err());
    }

    #[test]
    fn samples_must_come_out_as_expected() {
        let set = RuleSet::compile(&Source::from_toml(TOML).unwrap(), 1).unwrap();
        let sample = |expect: &str| Sample { order: body("ST-1"), expect: expect.to_owned() };
        let with = |samples| Proposal { samples, ..Proposal::default() };
        assert_eq!(with(vec![sample("awaiting_payment"), sample("pay")]).try_samples(&set), Ok(()));
        let broken = Sample { order: json!({"order_no": 1}), expect: "pay".into() };
        let faults = with(vec![sample("reject"), sample("shipped"), broken]).try_samples(&set).unwrap_err();
        assert_eq!((faults[0].pointer.as_str(), faults[1].pointer.as_str()), ("/samples/0", "/samples/1/expect"));
        assert!(faults[2..].iter().all(|fault| fault.pointer.starts_with("/samples/2/order/")));
    }
}
