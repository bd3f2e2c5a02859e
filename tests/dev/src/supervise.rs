//! Signals that end us, and a program that is to run on though it ends: restarts with growing pauses.

use std::time::Duration;

use anyhow::Result;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ctrl-C and SIGTERM. Not the hangup of a terminal, which `nohup` must be able to ignore; without it that kills us,
/// and what we started goes too (`harness::process`).
pub(crate) struct Interrupt {
    signals: [Signal; 2],
}

impl Interrupt {
    /// From now on these signals end nothing by themselves.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// How long to wait before the next start: twice as long each time, until a run has lasted.
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(10);
    /// A run of this length was a good one.
    const LASTED: Duration = Duration::from_secs(30);

    pub(crate) fn new() -> Self {
        Self { next: Self::SHORTEST }
    }

    /// The pause after a run that ended by itself; zero is a start that failed.
    pub(crate) fn pause_after(&mut self, run: Duration) -> Duration {
        if run >= Self::LASTED {
            self.next = Self::SHORTEST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(Self::LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_seconds_and_a_long_run_resets_them() {
        let mut backoff = Backoff::new();
        let mut pause_ms = |run_s| backoff.pause_after(Duration::from_secs(run_s)).as_millis();
        let pauses: Vec<_> = (0..6).map(|_| pause_ms(0)).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 10_000]);
        assert_eq!(pause_ms(29), 10_000);
        assert_eq!(pause_ms(30), 500);
    }
}
