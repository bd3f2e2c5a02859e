//! The figures: a table for people, and a line of JSON to keep.

use std::fmt;

use anyhow::Result;
use harness::runtime::Kind;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Case, Round, Sample, Settings};

/// The middle of some figures, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Of at least one figure.
    fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (count, half) = (figures.len(), figures.len() / 2);
        let median = if count % 2 == 1 { figures[half] } else { (figures[half - 1] + figures[half]) / 2.0 };
        Self { median, min: figures[0], max: figures[count - 1] }
    }

    fn json(self) -> Value {
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
fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

/// What was measured so far.
pub(crate) struct Report<'a> {
    runtime: &'static str,
    cores: usize,
    settings: &'a Settings,
    cases: Vec<Value>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(kind: Kind, settings: &'a Settings) -> Self {
        let runtime = match kind {
            Kind::Spin => "spin",
            Kind::Host => "host",
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { runtime, cores, settings, cases: Vec::new() }
    }

    pub(crate) fn print_head(&self) {
        let Settings { rounds, seconds, .. } = self.settings;
        println!(
            "\nRuntime {}, {} cores, which wrk shares (wrk CPU: of one core).\n\
             Medians of {rounds} rounds of {seconds} s, in turns with /probe/hello. Ratios are round by round: median \
             (min..max);\nper second more is better, of p50 and p99 less.",
            self.runtime, self.cores,
        );
    }

    /// Takes a case's rounds, and prints its part of the table.
    pub(crate) fn add(&mut self, case: &Case, rounds: &[Round]) {
        let units = case.units_per_request as f64;
        let units_per_s = |sample: &Sample| sample.requests_per_s * units;
        let ratio =
            |of: fn(&Sample) -> f64| Spread::of(rounds.iter().map(|round| of(&round.case) / of(&round.baseline)));
        let rate = Spread::of(rounds.iter().map(|round| units_per_s(&round.case) / round.baseline.requests_per_s));
        let (p50, p99) = (ratio(|sample| sample.p50_ms), ratio(|sample| sample.p99_ms));

        let baselines = || rounds.iter().map(|round| &round.baseline);
        let cases = || rounds.iter().map(|round| &round.case);
        let clients = match case.clients {
            1 => "1 client".to_owned(),
            clients => format!("{clients} clients"),
        };
        println!("\n{clients:<26} {:>19} {:>19} {:>19} {:>9}", "per second", "p50 ms", "p99 ms", "wrk CPU");
        print_row("hello", "requests", &Spread::of(baselines().map(|sample| sample.requests_per_s)), baselines());
        print_row(case.name, case.unit, &Spread::of(cases().map(units_per_s)), cases());
        println!("{:<26} {:>19} {:>19} {:>19}", "ratio", rate.to_string(), p50.to_string(), p99.to_string());

        self.cases.push(json!({
            "name": case.name,
            "clients": case.clients,
            "unit": case.unit,
            "units_per_request": case.units_per_request,
            "ratio": {"per_s": rate.json(), "p50": p50.json(), "p99": p99.json()},
            "hello": baselines().map(sample_json).collect::<Vec<_>>(),
            "case": cases().map(sample_json).collect::<Vec<_>>(),
        }));
    }

    /// Everything as one line of JSON.
    pub(crate) fn print_figures(&self) -> Result<()> {
        let figures = json!({
            "bench": "http",
            "at": OffsetDateTime::now_utc().format(&Rfc3339)?,
            "runtime": self.runtime,
            "cores": self.cores,
            "rounds": self.settings.rounds,
            "seconds_per_round": self.settings.seconds,
            "cases": self.cases,
        });
        println!("\n{figures}");
        Ok(())
    }
}

fn print_row<'a>(name: &str, unit: &str, per_s: &Spread, samples: impl Iterator<Item = &'a Sample> + Clone) {
    let median = |of: fn(&Sample) -> f64| Spread::of(samples.clone().map(of)).median;
    println!(
        "{name:<26} {:>19} {:>19.2} {:>19.2} {:>8.0}%",
        format!("{} {unit}", thousands(per_s.median)),
        median(|sample| sample.p50_ms),
        median(|sample| sample.p99_ms),
        median(|sample| sample.wrk_cores) * 100.0,
    );
}

/// `12345.6` as `12,346`.
fn thousands(figure: f64) -> String {
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

fn sample_json(sample: &Sample) -> Value {
    json!({
        "requests_per_s": rounded(sample.requests_per_s),
        "p50_ms": sample.p50_ms,
        "p99_ms": sample.p99_ms,
        "wrk_cores": rounded(sample.wrk_cores),
    })
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
