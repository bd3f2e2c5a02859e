//! The log line of a body: what was done to it, by which rules.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use shared::{
    log::{EntryPath, Line},
    problem::Problem,
};

use crate::{
    VERSION,
    rewrite::Counts,
    rules::{Context, Rules},
};

/// What became of one body.
pub(crate) struct Outcome<'a> {
    pub(crate) rules: &'a Rules,
    pub(crate) context: Option<Context>,
    pub(crate) counts: &'a Counts,
    pub(crate) path: EntryPath,
    pub(crate) took: Duration,
}

#[derive(Serialize)]
struct KnownAs<'a> {
    /// URLs rewritten, by the rule's name.
    rewritten: BTreeMap<&'a str, u64>,
    /// URLs that became the placeholder.
    removed: u64,
    bytes: u64,
    rules_version: i64,
}

impl Outcome<'_> {
    /// Writes the line, with what there is to say of it.
    pub(crate) fn log(&self, outcome: &str, detail: Option<&str>) {
        let counted = self.rules.rules.iter().zip(&self.counts.rewritten).filter(|(_, count)| **count > 0);
        let known_as = KnownAs {
            rewritten: counted.map(|(rule, count)| (rule.name.as_str(), *count)).collect(),
            removed: self.counts.removed,
            bytes: self.counts.bytes,
            rules_version: self.rules.version,
        };
        let key = self.context.map_or("*", Context::as_str);
        Line { known_as, what: "body", key, outcome, detail, took: self.took, path: self.path, version: VERSION }
            .write();
    }
}

/// Writes the line of a message that could not be taken.
pub(crate) fn refused(problem: &Problem, took: Duration) {
    let faults: Vec<_> = problem.errors().iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect();
    let detail = if faults.is_empty() { problem.detail().to_owned() } else { faults.join("; ") };
    Line {
        known_as: (),
        what: "message",
        key: "-",
        outcome: if problem.status() < 500 { "rejected" } else { "failed" },
        detail: Some(&detail),
        took,
        path: EntryPath::Redis,
        version: VERSION,
    }
    .write();
}
