//! Now, and instants as machines and people read them.
//!
//! An instant is Unix milliseconds, UTC. On the wire it is RFC 3339 with offset; people read Asia/Shanghai, which
//! has been UTC+8 without daylight saving since 1992.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339, macros::offset};

const SHANGHAI: UtcOffset = offset!(+8);

/// The latest instant that has a four-digit year everywhere: 9999-12-31T00:00:00Z.
pub const LATEST_MS: i64 = 253_402_214_400_000;

/// Unix milliseconds now.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(LATEST_MS)
}

/// Unix milliseconds after so much time from now.
pub fn after_ms(time: Duration) -> i64 {
    now_ms().saturating_add(i64::try_from(time.as_millis()).unwrap_or(LATEST_MS))
}

/// `2016-12-10T17:12:46.224+08:00`.
pub fn rfc3339(at_ms: i64) -> String {
    let at = in_shanghai(at_ms);
    let mut text = String::with_capacity(29);
    date(&mut text, at);
    text.push('T');
    time_of_day(&mut text, at);
    text.push_str("+08:00");
    text
}

/// `2016-12-10 17:12:46.224`, Asia/Shanghai: how operators read a time in a log.
pub fn shanghai_millis(at_ms: i64) -> String {
    let at = in_shanghai(at_ms);
    let mut text = String::with_capacity(23);
    date(&mut text, at);
    text.push(' ');
    time_of_day(&mut text, at);
    text
}

/// `2016年12月10日 17:12`, Asia/Shanghai: how people read a time in a message.
pub fn shanghai_minutes(at_ms: i64) -> String {
    let at = in_shanghai(at_ms);
    let unpadded = |text: &mut String, number: u8| digits(text, number.into(), if number < 10 { 1 } else { 2 });
    let mut text = String::with_capacity(25);
    digits(&mut text, year(at), 4);
    text.push('年');
    unpadded(&mut text, at.month().into());
    text.push('月');
    unpadded(&mut text, at.day());
    text.push_str("日 ");
    digits(&mut text, at.hour().into(), 2);
    text.push(':');
    digits(&mut text, at.minute().into(), 2);
    text
}

/// `2016-12-10`.
fn date(text: &mut String, at: OffsetDateTime) {
    digits(text, year(at), 4);
    text.push('-');
    digits(text, u8::from(at.month()).into(), 2);
    text.push('-');
    digits(text, at.day().into(), 2);
}

/// `17:12:46.224`.
fn time_of_day(text: &mut String, at: OffsetDateTime) {
    digits(text, at.hour().into(), 2);
    text.push(':');
    digits(text, at.minute().into(), 2);
    text.push(':');
    digits(text, at.second().into(), 2);
    text.push('.');
    digits(text, at.millisecond(), 3);
}

fn year(at: OffsetDateTime) -> u16 {
    u16::try_from(at.year()).unwrap_or_default()
}

/// The last `count` digits of `number`. The crate `time` knows the calendar; its formatter takes four times as long
/// to place the digits, which shows in every message.
fn digits(text: &mut String, number: u16, count: u32) {
    for place in (0..count).rev() {
        let digit = number / 10_u16.pow(place) % 10;
        text.push(char::from(b'0' + u8::try_from(digit).unwrap_or_default()));
    }
}

/// Reads RFC 3339 with offset, between the years 1970 and 9999.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let at_ms = i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok()?;
    (0..=LATEST_MS).contains(&at_ms).then_some(at_ms)
}

fn in_shanghai(at_ms: i64) -> OffsetDateTime {
    let nanos = i128::from(at_ms.clamp(0, LATEST_MS)) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(SHANGHAI)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: i64 = 1_481_361_166_224;

    #[test]
    fn an_instant_reads_as_documented() {
        assert_eq!(rfc3339(AT), "2016-12-10T17:12:46.224+08:00");
        assert_eq!(shanghai_millis(AT), "2016-12-10 17:12:46.224");
        assert_eq!(shanghai_minutes(AT), "2016年12月10日 17:12");
        assert_eq!(shanghai_minutes(1_583_074_860_000), "2020年3月1日 23:01");
    }

    #[test]
    fn only_instants_with_an_offset_are_read() {
        assert_eq!(parse_rfc3339("2016-12-10T09:12:46.224Z"), Some(AT));
        for wrong in ["2016-12-10 17:12:46", "2016-12-10T17:12:46", "1481361166", "", "1969-12-31T23:59:59Z"] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(at_ms in 0..=LATEST_MS) {
            prop_assert_eq!(parse_rfc3339(&rfc3339(at_ms)), Some(at_ms));
        }
    }
}
