//! Who gets something new already: listed users first, then a percentage, then everyone; and never a client that is
//! too old for it.
//!
//! Whether a subject (a user, or whatever stands for one) is within a percentage must be the same at every call, and
//! for every system that asks: [`bucket`] is CRC-32, which every language, database and gateway has.

use std::str::FromStr;

/// The buckets that subjects fall into: a percentage has two decimals.
pub const BUCKETS: u32 = 10_000;

/// The bucket of `subject` in the rollout called `name`, 0 to 9,999: `CRC-32(name ":" subject) mod 10000`, with the
/// CRC-32 of zlib, PNG and MySQL's `CRC32()`.
///
/// ```
/// use shared::rollout::bucket;
/// // SELECT CRC32('avatars:98') % 10000
/// assert_eq!(bucket("avatars", "98"), 6794);
/// ```
pub fn bucket(name: &str, subject: &str) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    for part in [name, ":", subject] {
        hash.update(part.as_bytes());
    }
    hash.finalize() % BUCKETS
}

/// A percentage with at most two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u32);

impl Percent {
    /// Everyone.
    pub const ALL: Self = Self(BUCKETS);

    /// Of a number from 0 to 100 with at most two decimals.
    pub fn new(percent: f64) -> Option<Self> {
        let buckets = percent * 100.0;
        let whole = (0.0..=f64::from(BUCKETS)).contains(&buckets) && (buckets - buckets.round()).abs() < 1e-6;
        // Checked just before, so that nothing is cut off.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        whole.then(|| Self(buckets.round() as u32))
    }

    /// Whether it holds this bucket.
    pub fn holds(self, bucket: u32) -> bool {
        bucket < self.0
    }
}

/// A client's version: up to four numbers between dots. `3.2` is `3.2.0.0`; what follows a `-` or `+` is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 4]);

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let text = text.trim();
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut version = [0; 4];
        let mut places = version.iter_mut();
        for number in numbers.split('.') {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            let place = places.next().filter(|_| digits).ok_or(())?;
            *place = number.parse().map_err(drop)?;
        }
        Ok(Self(version))
    }
}

/// Who gets it.
#[derive(Clone, Debug)]
pub struct Rollout {
    /// These do, whatever the percentage is.
    pub users: Vec<String>,
    /// And so many of all others.
    pub percent: Percent,
    /// But only clients that are at least so new; one that does not tell its version is not.
    pub min_app_version: Option<Version>,
}

/// What a rollout says of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Gets it.
    In,
    /// Does not.
    Out,
    /// There is no user to decide by: each thing is decided by itself, as a subject of [`bucket`], by this percentage.
    ByThing(Percent),
}

impl Rollout {
    /// Everyone.
    pub const fn everyone() -> Self {
        Self { users: Vec::new(), percent: Percent::ALL, min_app_version: None }
    }

    /// What it says, in the rollout called `name`, of a caller.
    pub fn decide(&self, name: &str, user: Option<&str>, app_version: Option<Version>) -> Decision {
        if self.min_app_version.is_some_and(|least| app_version.is_none_or(|version| version < least)) {
            return Decision::Out;
        }
        if self.percent == Percent::ALL {
            return Decision::In;
        }
        match user {
            Some(user) if self.users.iter().any(|listed| listed == user) => Decision::In,
            Some(user) if self.percent.holds(bucket(name, user)) => Decision::In,
            Some(_) => Decision::Out,
            None if self.percent == Percent(0) => Decision::Out,
            None => Decision::ByThing(self.percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(users: &[&str], percent: f64, least: Option<&str>) -> Rollout {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let min_app_version = least.map(|text| text.parse().unwrap());
        Rollout { users, percent: Percent::new(percent).unwrap(), min_app_version }
    }

    #[test]
    fn listed_users_come_before_the_percentage() {
        let nobody_else = rollout(&["98"], 0.0, None);
        assert_eq!(nobody_else.decide("a", Some("98"), None), Decision::In);
        assert_eq!(nobody_else.decide("a", Some("99"), None), Decision::Out);
        assert_eq!(nobody_else.decide("a", None, None), Decision::Out);
        assert_eq!(rollout(&[], 100.0, None).decide("a", None, None), Decision::In);
        let half = Percent::new(50.0).unwrap();
        assert_eq!(rollout(&[], 50.0, None).decide("a", None, None), Decision::ByThing(half));
    }

    #[test]
    fn who_was_in_stays_in_as_the_percentage_grows_and_the_share_is_right() {
        let count = |percent| {
            let rollout = rollout(&[], percent, None);
            (0..10_000).filter(|user| rollout.decide("a", Some(&user.to_string()), None) == Decision::In).count()
        };
        for (percent, about) in [(1.0, 100), (10.0, 1_000), (50.0, 5_000)] {
            assert!(count(percent).abs_diff(about) < about / 4, "{percent}: {}", count(percent));
        }
        let (ten, twenty) = (rollout(&[], 10.0, None), rollout(&[], 20.0, None));
        for user in (0..1_000).map(|user| user.to_string()) {
            let is_in = |rollout: &Rollout| rollout.decide("a", Some(&user), None) == Decision::In;
            assert!(!is_in(&ten) || is_in(&twenty), "{user}");
        }
    }

    #[test]
    fn a_client_that_is_too_old_or_does_not_tell_is_out_even_if_its_user_is_listed() {
        let rollout = rollout(&["98"], 100.0, Some("3.10"));
        let decide = |version: Option<&str>| rollout.decide("a", Some("98"), version.map(|text| text.parse().unwrap()));
        for (version, decision) in [
            (None, Decision::Out),
            (Some("3.9.9"), Decision::Out),
            (Some("3.10"), Decision::In),
            (Some("3.10.0-beta"), Decision::In),
            (Some("11"), Decision::In),
        ] {
            assert_eq!(decide(version), decision, "{version:?}");
        }
    }

    #[test]
    fn what_is_no_version_or_percentage_is_none() {
        for text in ["", "a", "1.", ".1", "1..2", "1.2.3.4.5", "-1", "99999999999", "1,2"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        for percent in [-0.1, 100.1, 0.001, f64::NAN] {
            assert_eq!(Percent::new(percent), None, "{percent}");
        }
    }
}
