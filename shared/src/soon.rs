//! Work that no caller waits for: it is done once answers are on their way, for all calls that came meanwhile.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use spin_sdk::wasip3::random::random;

/// How long calls are gathered, at least; at most twice as long.
const GATHER_MS: u64 = 100;

const IDLE: u8 = 0;
const RUNNING: u8 = 1;
/// Somebody asked while it ran.
const AGAIN: u8 = 2;

/// One kind of such work, of one instance. What it does not reach must be found by the next one.
pub struct Soon(AtomicU8);

impl Soon {
    /// Work that nobody asked for yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU8::new(IDLE))
    }

    /// Does `work` after a moment, unless it is about to be done; again if it is being done.
    pub fn run<F: Future<Output = ()> + 'static>(&'static self, work: impl Fn() -> F + 'static) {
        if self.0.swap(AGAIN, Ordering::Relaxed) != IDLE {
            return;
        }
        spin_sdk::wasip3::wit_bindgen::spawn(async move {
            loop {
                // Instances are many, and each does it for all of them: after a moment, longer or shorter, there is
                // more to do at once, and mostly another one has done it.
                let moment_ms = GATHER_MS + random::get_random_u64() % GATHER_MS;
                spin_sdk::time::sleep(Duration::from_millis(moment_ms)).await;
                self.0.store(RUNNING, Ordering::Relaxed);
                work().await;
                if self.0.compare_exchange(RUNNING, IDLE, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    return;
                }
            }
        });
    }
}

impl Default for Soon {
    fn default() -> Self {
        Self::new()
    }
}
