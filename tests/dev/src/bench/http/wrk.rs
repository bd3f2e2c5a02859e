//! The load generator: [wrk](https://github.com/wg/wrk), as Debian has it. Each client sends its next request when
//! the last one is answered; percentiles are corrected for what a stall kept it from sending, as wrk does.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::Request;

const SCRIPT: &str = include_str!("wrk.lua");

/// Longer than any answer takes; wrk counts what is slower as an error.
const ANSWER_TIMEOUT: &str = "30s";

/// What one run of wrk has counted.
#[derive(Debug, Deserialize)]
struct Figures {
    requests: u64,
    duration_us: u64,
    p50_us: u64,
    p99_us: u64,
    errors: Errors,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Errors {
    connect: u64,
    read: u64,
    write: u64,
    /// Answers of 400 and above.
    status: u64,
    timeout: u64,
}

impl Errors {
    const NONE: Self = Self { connect: 0, read: 0, write: 0, status: 0, timeout: 0 };
}

/// One round of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) requests_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// How much of one core wrk itself took.
    pub(crate) wrk_cores: f64,
}

/// wrk, and a folder for what it reads.
pub(crate) struct Wrk {
    folder: TempDir,
    script: PathBuf,
}

impl Wrk {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("wrk.lua");
        std::fs::write(&script, SCRIPT)?;
        Ok(Self { folder, script })
    }

    /// Sends the request again and again for `seconds`; an error if any of them failed.
    pub(crate) async fn run(&self, url: &str, request: &Request, clients: u32, seconds: u32) -> Result<Sample> {
        let mut command = Command::new("wrk");
        command
            // One thread sends several times what a component answers on a few cores.
            .args(["--threads", "1", "--timeout", ANSWER_TIMEOUT])
            .args(["--connections", &clients.to_string(), "--duration", &format!("{seconds}s")])
            .arg("--script")
            .arg(&self.script);
        for (name, value) in &request.headers {
            command.arg("--header").arg(format!("{name}: {value}"));
        }
        command.arg(url);
        if let Some(body) = &request.body {
            let file = self.folder.path().join("body");
            std::fs::write(&file, body)?;
            command.arg("--").arg(file);
            command.args(request.numbered_from.map(|number| number.to_string()));
        }

        let cpu_before = children_cpu()?;
        let ended = command.kill_on_drop(true).output().await.context("cannot run wrk")?;
        let cpu = children_cpu()? - cpu_before;
        let output = String::from_utf8_lossy(&ended.stdout);
        ensure!(
            ended.status.success(),
            "wrk failed ({}):\n{output}{}",
            ended.status,
            String::from_utf8_lossy(&ended.stderr)
        );
        Figures::parse(&output)?.sample(cpu).with_context(|| format!("{url}, {clients} clients"))
    }
}

impl Figures {
    fn parse(output: &str) -> Result<Self> {
        let line = output.lines().find_map(|line| line.strip_prefix("figures "));
        let line = line.with_context(|| format!("wrk told no figures:\n{output}"))?;
        serde_json::from_str(line).with_context(|| format!("wrk's figures are not as expected: {line}"))
    }

    fn sample(&self, cpu: Duration) -> Result<Sample> {
        ensure!(self.errors == Errors::NONE, "not every request was answered as it should: {:?}", self.errors);
        ensure!(
            self.requests > 0,
            "no request was answered in {} ms: make the rounds longer",
            self.duration_us / 1_000
        );
        let duration_s = self.duration_us as f64 / 1e6;
        Ok(Sample {
            requests_per_s: self.requests as f64 / duration_s,
            p50_ms: self.p50_us as f64 / 1e3,
            p99_ms: self.p99_us as f64 / 1e3,
            wrk_cores: cpu.as_secs_f64() / duration_s,
        })
    }
}

/// The CPU time of the processes that we have started and that have ended. During a round that is wrk alone.
fn children_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let duration = |time: TimeVal| Duration::from_micros((time.tv_sec() * 1_000_000 + time.tv_usec()).unsigned_abs());
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(status_errors: u64) -> String {
        format!(
            "Running 3s test @ http://127.0.0.1/\n\
             figures {{\"requests\":6000,\"duration_us\":3000000,\"p50_us\":1500,\"p99_us\":9000,\"errors\":\
             {{\"connect\":0,\"read\":0,\"write\":0,\"status\":{status_errors},\"timeout\":0}}}}\n"
        )
    }

    #[test]
    fn figures_are_found_in_what_wrk_writes() {
        let sample = Figures::parse(&output(0)).unwrap().sample(Duration::from_millis(750)).unwrap();
        assert_eq!((sample.requests_per_s, sample.p50_ms, sample.p99_ms), (2_000.0, 1.5, 9.0));
        assert_eq!(sample.wrk_cores, 0.25);
    }

    #[test]
    fn an_answer_that_is_an_error_spoils_the_round() {
        let error = Figures::parse(&output(1)).unwrap().sample(Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("status: 1"), "{error}");
    }
}
