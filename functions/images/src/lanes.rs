//! The inner loops, 16 bytes and more at a time.
//!
//! Spin's engine asks in every turn of a loop whether its time is over, and a copy of unknown length is a call of the
//! runtime: a loop over single bytes costs several times what it does elsewhere.

use wide::u8x16;

/// The bytes of a lane.
const LANES: usize = 16;
/// The bytes that are copied, or looked at, in one turn.
const BLOCK: usize = 64;
/// From so many bytes on a copy is worth a call of the runtime.
const CALLED: usize = 4_096;

/// Appends `bytes`.
pub(crate) fn append(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.len() < LANES || bytes.len() >= CALLED {
        return out.extend_from_slice(bytes);
    }
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    for block in blocks {
        out.extend_from_slice(block);
    }
    let (lanes, rest) = rest.as_chunks::<LANES>();
    for lane in lanes {
        out.extend_from_slice(lane);
    }
    // The last lane as a whole, over what is there of it already.
    if let (false, Some(last)) = (rest.is_empty(), bytes.last_chunk::<LANES>()) {
        out.truncate(out.len() - (LANES - rest.len()));
        out.extend_from_slice(last);
    }
}

/// Whether a host's name may hold the byte.
pub(crate) const fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') || byte >= 128
}

/// Which bytes are from `low` to `high`.
fn within(bytes: u8x16, low: u8, high: u8) -> u8x16 {
    // Those below `low` are far above it then.
    let above = bytes - u8x16::splat(low);
    above.min(u8x16::splat(high - low)).simd_eq(above)
}

/// [`is_host`] of 16 bytes, the first in the lowest bit.
fn are_host(bytes: [u8; LANES]) -> u32 {
    let bytes = u8x16::new(bytes);
    let letter = within(bytes | u8x16::splat(0x20), b'a', b'z');
    // `/` stands between `.` and the digits.
    let rest = within(bytes, b'-', b'9') & !bytes.simd_eq(u8x16::splat(b'/'));
    let other = bytes.simd_eq(u8x16::splat(b'_')) | bytes.max(u8x16::splat(128)).simd_eq(bytes);
    (letter | rest | other).to_bitmask()
}

/// How many bytes a host's name may hold there are at the beginning; not more than `most`, rounded up to lanes.
pub(crate) fn host_run(bytes: &[u8], most: usize) -> usize {
    let (lanes, rest) = bytes.as_chunks::<LANES>();
    let mut run = 0;
    for lane in lanes {
        let mask = are_host(*lane);
        if mask != 0xFFFF {
            return run + mask.trailing_ones() as usize;
        }
        run += LANES;
        if run >= most {
            return run;
        }
    }
    run + rest.iter().take_while(|byte| is_host(**byte)).count()
}

/// How many bytes there are at the beginning that a URL's path holds and that mean themselves in every escaping:
/// letters, digits, `-`, `.`, `_`, `~` and `/`. Whole lanes, and what the first other byte ends; `None` if the end of
/// the bytes comes before.
pub(crate) fn path_run(bytes: &[u8], most: usize) -> Option<usize> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut run = 0;
    // Most paths end in the first block: one answer for all its lanes, and no turn of a loop.
    for block in blocks {
        let lanes = block.as_chunks::<LANES>().0.iter().enumerate();
        let mask = lanes.fold(0, |mask, (number, lane)| mask | u64::from(are_path(*lane)) << (number * LANES));
        if mask != u64::MAX {
            return Some(run + mask.trailing_ones() as usize);
        }
        run += BLOCK;
        if run >= most {
            return None;
        }
    }
    for lane in rest.as_chunks::<LANES>().0 {
        let mask = are_path(*lane);
        if mask != 0xFFFF {
            return Some(run + mask.trailing_ones() as usize);
        }
        run += LANES;
    }
    None
}

fn are_path(bytes: [u8; LANES]) -> u32 {
    let bytes = u8x16::new(bytes);
    let is = |byte: u8| bytes.simd_eq(u8x16::splat(byte));
    let letter = within(bytes | u8x16::splat(0x20), b'a', b'z');
    // From `-` to `9` there are just these.
    (letter | within(bytes, b'-', b'9') | is(b'_') | is(b'~')).to_bitmask()
}

/// [`host_run`] at the end.
pub(crate) fn host_run_back(bytes: &[u8], most: usize) -> usize {
    let (rest, lanes) = bytes.as_rchunks::<LANES>();
    let mut run = 0;
    for lane in lanes.iter().rev() {
        let mask = are_host(*lane);
        if mask != 0xFFFF {
            return run + (mask << 16).leading_ones() as usize;
        }
        run += LANES;
        if run >= most {
            return run;
        }
    }
    run + rest.iter().rev().take_while(|byte| is_host(**byte)).count()
}

/// A number that tells most names apart, by their length, ends and middle.
pub(crate) fn spread(name: &[u8]) -> u64 {
    const WORD: usize = 8;
    let word = |at: usize| {
        let bytes = name.get(at..).and_then(<[u8]>::first_chunk::<WORD>);
        bytes.map_or_else(|| name.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)), |b| u64::from_le_bytes(*b))
    };
    let last = name.len().saturating_sub(WORD);
    let mixed = word(0) ^ word(last).rotate_left(21) ^ word(last / 2).rotate_left(42) ^ name.len() as u64;
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// Whether the two are the same.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    const WORD: usize = 8;
    if a.len() != b.len() || a.len() < WORD {
        return a == b;
    }
    let word = |bytes: Option<&[u8; WORD]>| bytes.map(|bytes| u64::from_le_bytes(*bytes));
    let (words, others) = (a.as_chunks::<WORD>().0, b.as_chunks::<WORD>().0);
    word(a.last_chunk()) == word(b.last_chunk())
        && words.iter().zip(others).all(|(a, b)| word(Some(a)) == word(Some(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lane_knows_every_byte_as_a_host_does() {
        for byte in 0..=255_u8 {
            for place in 0..LANES {
                let mut lane = [b'/'; LANES];
                lane[place] = byte;
                assert_eq!(are_host(lane), u32::from(is_host(byte)) << place, "{byte} {place}");
            }
        }
    }

    #[test]
    fn a_lane_knows_every_byte_of_a_plain_path() {
        for byte in 0..=255_u8 {
            let mut lane = [b'"'; LANES];
            lane[5] = byte;
            let is_path = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            assert_eq!(are_path(lane), u32::from(is_path) << 5, "{byte}");
        }
        assert_eq!(path_run(b"/a/b.jpg\" and sixteen", 100), Some(8));
        assert_eq!(path_run(b"/a/b.jpg", 100), None);
    }

    proptest! {
        #[test]
        fn runs_are_as_long_as_byte_by_byte(bytes in "[a-zA-Z0-9._看-]{0,70}[/ ]?[a-z]{0,70}", most in 1..80_usize) {
            let bytes = bytes.as_bytes();
            let expected = bytes.iter().take_while(|byte| is_host(**byte)).count();
            let run = host_run(bytes, most);
            prop_assert!(run == expected || (expected >= run && run >= most && run < most + LANES), "{run} {expected}");
            let expected = bytes.iter().rev().take_while(|byte| is_host(**byte)).count();
            let run = host_run_back(bytes, most);
            prop_assert!(run == expected || (expected >= run && run >= most && run < most + LANES), "{run} {expected}");
        }

        #[test]
        fn what_is_appended_is_there(lengths in prop::collection::vec(0..300_usize, 1..6)) {
            let (mut out, mut expected) = (Vec::new(), Vec::new());
            for length in lengths {
                let bytes: Vec<u8> = (0..length).map(|number| number as u8).collect();
                append(&mut out, &bytes);
                expected.extend_from_slice(&bytes);
            }
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn equal_is_equal(a in "[ab]{0,20}", b in "[ab]{0,20}", tail in "[a-z]{0,30}") {
            prop_assert_eq!(equal(a.as_bytes(), b.as_bytes()), a == b);
            let (a, b) = (a + &tail, b + &tail);
            prop_assert_eq!(equal(a.as_bytes(), b.as_bytes()), a == b);
            prop_assert!(equal(a.as_bytes(), a.clone().as_bytes()));
        }
    }
}
