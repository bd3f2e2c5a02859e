//! Weeks of a campaign: business days are Asia/Shanghai, which has been UTC+8 since 1992, and a week begins on the
//! weekday that the campaign names. A period is named by its first day, `2020-09-22`.

use time::{Date, Month};

const DAY_MS: i64 = 24 * 3_600_000;
const SHANGHAI_MS: i64 = 8 * 3_600_000;
const DAYS: i64 = 7;
const NAMES: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// A weekday, counted from Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weekday(i64);

impl Weekday {
    /// Reads its English name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        NAMES.iter().position(|found| *found == name).and_then(|place| i64::try_from(place).ok()).map(Self)
    }

    /// Its number, 0 for Monday.
    pub(crate) const fn number(self) -> i64 {
        self.0
    }

    /// The weekday with this number.
    pub(crate) fn of_number(number: i64) -> Option<Self> {
        (0..DAYS).contains(&number).then_some(Self(number))
    }

    /// Its English name.
    pub(crate) fn as_str(self) -> &'static str {
        usize::try_from(self.0).ok().and_then(|place| NAMES.get(place)).copied().unwrap_or_default()
    }
}

/// One week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    first: Date,
}

impl Period {
    /// Reads `2020-09-22`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let mut number = |len: usize| parts.next().filter(|part| part.len() == len && is_digits(part));
        let (year, month, day) = (number(4)?.parse().ok()?, number(2)?.parse::<u8>().ok()?, number(2)?.parse().ok()?);
        if parts.next().is_some() {
            return None;
        }
        let first = Date::from_calendar_date(year, Month::try_from(month).ok()?, day).ok()?;
        (1970..=9000).contains(&first.year()).then_some(Self { first })
    }

    /// The weekday of its first day.
    pub(crate) fn weekday(self) -> Weekday {
        Weekday(self.first.weekday().number_days_from_monday().into())
    }

    /// The week that begins on a `weekday` and has the instant `at_ms`.
    pub(crate) fn containing(at_ms: i64, weekday: Weekday) -> Option<Self> {
        let day = (at_ms + SHANGHAI_MS).div_euclid(DAY_MS);
        // 1970-01-01 was a Thursday.
        let back = (day + 3 - weekday.0).rem_euclid(DAYS);
        let julian = i64::from(Date::from_calendar_date(1970, Month::January, 1).ok()?.to_julian_day());
        Some(Self { first: Date::from_julian_day(i32::try_from(julian + day - back).ok()?).ok()? })
    }

    /// Its first instant, Unix ms.
    pub(crate) fn first_ms(self) -> i64 {
        self.first.midnight().assume_utc().unix_timestamp() * 1000 - SHANGHAI_MS
    }

    /// The first instant after it.
    pub(crate) fn to_ms(self) -> i64 {
        self.first_ms() + DAYS * DAY_MS
    }

    /// `2020-09-22`.
    pub(crate) fn name(self) -> String {
        format!("{:04}-{:02}-{:02}", self.first.year(), u8::from(self.first.month()), self.first.day())
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shared::clock;

    #[test]
    fn a_period_is_a_week_in_shanghai() {
        let period = Period::parse("2020-09-22").unwrap();
        assert_eq!(clock::rfc3339(period.first_ms()), "2020-09-22T00:00:00.000+08:00");
        assert_eq!(clock::rfc3339(period.to_ms()), "2020-09-29T00:00:00.000+08:00");
        assert_eq!(period.weekday().as_str(), "tuesday");
        for wrong in ["2020-9-22", "2020-02-30", "20200922", "2020-09-22T00", "", "2020-09-22-1", "+020-09-22"] {
            assert_eq!(Period::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_in_one_week_that_begins_on_the_weekday(at_ms in 0..4_000_000_000_000_i64, number in 0..7_i64) {
            let weekday = Weekday::of_number(number).unwrap();
            let period = Period::containing(at_ms, weekday).unwrap();
            prop_assert_eq!(period.weekday(), weekday);
            prop_assert!(period.first_ms() <= at_ms && at_ms < period.to_ms());
            if at_ms > 8 * DAY_MS {
                prop_assert_eq!(Period::parse(&period.name()), Some(period));
            }
        }
    }
}
