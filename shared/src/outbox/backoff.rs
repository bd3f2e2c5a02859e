//! What an answer of the gateway means for a message: done, again later, or never again. No effects.

use super::Answer;
use crate::digest;

const SECOND_MS: i64 = 1_000;
/// The longest wait but for its jitter, which brings it to 15 minutes.
const LONGEST_MS: i64 = 600 * SECOND_MS;
/// A post that was cut short waits as long as after so many attempts at most: half a minute.
const CUT_SHORT_MAX: i64 = 6;
/// A message that nobody took for so long is given up.
pub const GIVEN_UP_AFTER_MS: i64 = 24 * 3_600 * SECOND_MS;
/// But not before so many attempts: hours in which nobody was there to try are no trying. It takes over two hours to make
/// them, and about a hundred are made in a day.
pub(super) const GIVEN_UP_ATTEMPTS: i64 = 20;

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The gateway has it.
    Sent,
    /// There is no gateway: the log has it.
    Logged,
    /// It is tried again.
    Retry {
        /// Unix ms.
        due_at_ms: i64,
        /// Our configuration is at fault: somebody must act.
        ours: bool,
    },
    /// It is not tried again.
    Dead,
}

/// Judges the answer to attempt number `attempts` (from 1) at message `id`, the last if it is `given_up` now.
pub(super) fn verdict(id: &str, attempts: i64, given_up: bool, answer: &Answer, now_ms: i64) -> Verdict {
    let asked_ms = match answer {
        Answer::Accepted => return Verdict::Sent,
        Answer::NoGateway => return Verdict::Logged,
        // The gateway has read it and will never want it: RFC 9110, and 410 as Standard Webhooks says.
        Answer::Refused { status: 400 | 410 | 413 | 422, .. } => return Verdict::Dead,
        Answer::Refused { retry_after_ms, .. } => retry_after_ms.unwrap_or_default(),
        Answer::Unreachable(_) => 0,
        // The time ran out that the caller had, not the gateway: the next one tries it at more leisure, but not at
        // once, as a gateway that is slow may have it already.
        Answer::CutShort => {
            return Verdict::Retry { due_at_ms: now_ms + wait_ms(id, attempts.min(CUT_SHORT_MAX)), ours: false };
        }
    };
    if given_up {
        return Verdict::Dead;
    }
    let wait_ms = wait_ms(id, attempts).max(asked_ms.min(GIVEN_UP_AFTER_MS));
    let ours = matches!(answer, Answer::Refused { status: 401 | 403, .. });
    Verdict::Retry { due_at_ms: now_ms + wait_ms, ours }
}

/// 1 s doubled with each attempt, and up to half as long again, so that what failed together does not return
/// together. The jitter is a digest's: the same for the same attempt, which makes a failing simulation replay.
fn wait_ms(id: &str, attempts: i64) -> i64 {
    let doublings = u32::try_from(attempts - 1).unwrap_or_default().min(20);
    let base_ms = (SECOND_MS << doublings).min(LONGEST_MS);
    let [low, high, ..] = digest::bytes(format!("{id}\n{attempts}").as_bytes());
    base_ms + base_ms * i64::from(u16::from_le_bytes([low, high])) / (2 * 65_536)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_481_361_166_000;

    fn refused(status: u16) -> Answer {
        Answer::Refused { status, retry_after_ms: None }
    }

    #[test]
    fn waits_double_from_a_second_to_a_quarter_of_an_hour() {
        for (attempts, from_s, to_s) in [(1, 1, 2), (2, 2, 3), (3, 4, 6), (5, 16, 24), (11, 600, 900), (90, 600, 900)] {
            for id in 0..50 {
                let wait = wait_ms(&format!("msg_{id}"), attempts);
                assert!((from_s * 1000..=to_s * 1000).contains(&wait), "attempt {attempts}: {wait} ms");
            }
        }
        assert_ne!(wait_ms("msg_1", 1), wait_ms("msg_2", 1));
    }

    #[test]
    fn what_the_gateway_will_never_take_is_dead_at_once_and_the_rest_when_it_is_given_up() {
        for status in [400, 410, 413, 422] {
            assert_eq!(verdict("m", 1, false, &refused(status), NOW), Verdict::Dead, "{status}");
        }
        for answer in [refused(401), refused(404), refused(429), refused(500), Answer::Unreachable(String::new())] {
            assert!(matches!(verdict("m", 1, false, &answer, NOW), Verdict::Retry { .. }), "{answer:?}");
            assert_eq!(verdict("m", 99, true, &answer, NOW), Verdict::Dead, "{answer:?}");
        }
        assert_eq!(verdict("m", 99, true, &Answer::Accepted, NOW), Verdict::Sent);
    }

    #[test]
    fn only_our_own_credentials_are_our_fault() {
        let ours = |status| matches!(verdict("m", 1, false, &refused(status), NOW), Verdict::Retry { ours: true, .. });
        assert!(ours(401) && ours(403) && !ours(404) && !ours(503));
    }

    proptest! {
        #[test]
        fn retry_after_is_obeyed(seconds in 0i64..100_000, attempts in 1i64..100) {
            let answer = Answer::Refused { status: 503, retry_after_ms: Some(seconds * 1000) };
            let Verdict::Retry { due_at_ms, .. } = verdict("m", attempts, false, &answer, NOW) else { panic!() };
            prop_assert!(due_at_ms - NOW >= (seconds * 1000).min(GIVEN_UP_AFTER_MS));
        }
    }
}
