//! The figures of a part: as a table tells them to people, and as a line of JSON to keep.

use std::fmt;

use anyhow::Result;
use harness::runtime::Kind;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Settings;

/// The middle of some figures, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (count, half) = (figures.len(), figures.len() / 2);
        let median = if count % 2 == 1 { figures[half] } else { (figures[half - 1] + figures[half]) / 2.0 };
        Self { median, min: figures[0], max: figures[count - 1] }
    }

    pub(crate) fn json(self) -> Value {
        json!({"median": rounded(self.median), "min": rounded(self.min), "max": rounded(self.max)})
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Ratios may be far above one or far below it.
        let digits = if self.median < 10.0 { 2 } else { 1 };
        write!(f, "{:.digits$} ({:.digits$}..{:.digits$})", self.median, self.min, self.max)
    }
}

/// To what a noisy machine can tell apart at most.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

/// What was measured so far.
pub(crate) struct Report {
    bench: &'static str,
    runtime: &'static str,
    cores: usize,
    rounds: u32,
    cases: Vec<Value>,
}

impl Report {
    /// Of a part of the benchmark.
    pub(crate) fn new(bench: &'static str, kind: Kind, settings: &Settings) -> Self {
        let runtime = match kind {
            Kind::Spin => "spin",
            Kind::Host => "host",
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { bench, runtime, cores, rounds: settings.rounds, cases: Vec::new() }
    }

    /// What was measured on, for a table's head.
    pub(crate) fn machine(&self) -> String {
        format!("Runtime {}, {} cores", self.runtime, self.cores)
    }

    /// Takes a case's figures.
    pub(crate) fn add(&mut self, case: Value) {
        self.cases.push(case);
    }

    /// Everything as one line of JSON, with what else there is to know of the part.
    pub(crate) fn print_figures(self, parameters: &[(&str, Value)]) -> Result<()> {
        let mut figures = json!({
            "bench": self.bench,
            "at": OffsetDateTime::now_utc().format(&Rfc3339)?,
            "runtime": self.runtime,
            "cores": self.cores,
            "rounds": self.rounds,
            "cases": self.cases,
        });
        for (name, value) in parameters {
            figures[name] = value.clone();
        }
        println!("\n{figures}");
        Ok(())
    }
}

/// `12345.6` as `12,346`.
pub(crate) fn thousands(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_two_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([0.5]).to_string(), "0.50 (0.50..0.50)");
    }

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0.4, 999.0, 1_000.0, 1_234_567.8].map(thousands);
        assert_eq!(texts, ["0", "999", "1,000", "1,234,568"]);
    }
}
