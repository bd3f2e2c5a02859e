//! Bodies of 1 KB, as chat messages are: there it counts what an instance reads before its first one, which has 128 at
//! most.

use anyhow::{Context, Result};
use serde_json::json;

use super::Case;
use crate::bench::Settings;
use crate::bench::http::wrk::{Sample, Wrk};
use crate::bench::http::{Request, answer, baseline, images};
use crate::bench::report::{Report, Spread, thousands};

/// More rounds than these take long and tell little.
const ROUNDS: u32 = 10;

/// Measures every case, and tells the figures.
pub(super) async fn bench(cases: &[Case], settings: &Settings, report: &mut Report) -> Result<()> {
    let first = cases.first().context("there are cases")?;
    let wrk = Wrk::new()?;
    let sample = async |case: &Case, request: &Request| {
        let url = case.runtime.url(request.path());
        wrk.run(&url, &request.renumbered(), settings.clients, settings.seconds).await.with_context(|| case.name)
    };
    for case in cases {
        images::check(&answer(&case.runtime, &images::small()).await?).context(case.name)?;
    }
    let mut rounds = Vec::new();
    // The first is to warm up.
    for number in 0..=settings.rounds.min(ROUNDS) as usize {
        let hello = sample(first, &baseline()).await?;
        let mut samples = vec![hello; cases.len()];
        // Each process begins a round in its turn.
        for turn in 0..cases.len() {
            let place = (turn + number) % cases.len();
            samples[place] = sample(&cases[place], &images::small()).await?;
        }
        if number > 0 {
            rounds.push((hello, samples));
        }
    }
    println!(
        "\nBodies of 1 KB from {} clients, medians of {} rounds of {} s, in each of which every case and a hello have their turn.\n\n\
         {:<29} {:>9} {:>7} {:>19} {:>19}",
        settings.clients,
        rounds.len(),
        settings.seconds,
        "",
        "per s",
        "p99 ms",
        "to hello",
        "to 4 rules",
    );
    for (place, case) in cases.iter().enumerate() {
        let spread =
            |of: &dyn Fn(&Sample, &[Sample]) -> f64| Spread::of(rounds.iter().map(|(hello, all)| of(hello, all)));
        let per_s = spread(&|_, all| all[place].requests_per_s);
        let p99_ms = spread(&|_, all| all[place].p99_ms);
        let to_hello = spread(&|hello, all| all[place].requests_per_s / hello.requests_per_s);
        let to_first = spread(&|_, all| all[place].requests_per_s / all[0].requests_per_s);
        let texts = [to_hello.to_string(), to_first.to_string()].map(|text| format!("{text:>19}"));
        println!("{:<29} {:>9} {:>7.1} {}", case.name, thousands(per_s.median), p99_ms.median, texts.join(" "));
        report.add(json!({
            "name": format!("{}, 1 KB", case.name),
            "requests_per_s": per_s.json(),
            "p99_ms": p99_ms.json(),
            "ratio": to_hello.json(),
            "ratio_to_first": to_first.json(),
        }));
    }
    Ok(())
}
