//! Finds where the second slash of a URL's `//` may end, in every escaping, 16 bytes at a time.
//!
//! All rules share one scan: what it costs does not grow with their number. It may find too much, which the
//! [escaping](crate::escaping) then refuses, but never too little.

use wide::u8x16;

/// The bytes of one step.
const LANES: usize = 16;
/// Steps that are taken together.
const STEPS: usize = 4;

/// Whether these two neighbours may end a slash: `//`, `\/`, `2F` of `%2F`, `\u002F` and `&#x2F;`, or `7;` of `&#47;`.
const fn ends_slash(before: u8, byte: u8) -> bool {
    match byte {
        b'/' => matches!(before, b'/' | b'\\'),
        b'F' | b'f' => before == b'2',
        b';' => before == b'7',
        _ => false,
    }
}

/// The first place at or after `from` whose byte ends such a pair.
pub(crate) fn next(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from.max(1);
    while let Some(window) = bytes.get(at - 1..at + LANES * STEPS) {
        let mut masks = [0_u32; STEPS];
        let mut any = u8x16::splat(0);
        let mut found = [any; STEPS];
        for (step, found) in found.iter_mut().enumerate() {
            let begin = step * LANES;
            let pair = |begin: usize| window.get(begin..)?.first_chunk::<LANES>().copied();
            if let (Some(before), Some(current)) = (pair(begin), pair(begin + 1)) {
                *found = ends(u8x16::new(before), u8x16::new(current));
            }
            any |= *found;
        }
        if any.to_bitmask() != 0 {
            for (mask, found) in masks.iter_mut().zip(found) {
                *mask = found.to_bitmask();
            }
            let (step, mask) = masks.iter().enumerate().find(|(_, mask)| **mask != 0)?;
            return Some(at + step * LANES + mask.trailing_zeros() as usize);
        }
        at += LANES * STEPS;
    }
    let rest = bytes.get(at - 1..)?;
    let place = rest.windows(2).position(|pair| matches!(pair, [before, byte] if ends_slash(*before, *byte)))?;
    Some(at + place)
}

/// [`ends_slash`], lane by lane.
fn ends(before: u8x16, byte: u8x16) -> u8x16 {
    let is = |vector: u8x16, wanted: u8| vector.simd_eq(u8x16::splat(wanted));
    let slash = is(byte, b'/') & (is(before, b'/') | is(before, b'\\'));
    let hexadecimal = is(byte | u8x16::splat(0x20), b'f') & is(before, b'2');
    let decimal = is(byte, b';') & is(before, b'7');
    slash | hexadecimal | decimal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slowly(bytes: &[u8], from: usize) -> Option<usize> {
        (from.max(1)..bytes.len()).find(|at| ends_slash(bytes[at - 1], bytes[*at]))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn every_pair_is_found_wherever_it_stands(text in "[/\\\\2Ff7;%a]{0,300}|[a-z/]{0,300}", from in 0..300_usize) {
            let bytes = text.as_bytes();
            let mut at = from;
            loop {
                let found = next(bytes, at);
                prop_assert_eq!(found, slowly(bytes, at));
                let Some(found) = found else { break };
                at = found + 1;
            }
        }
    }

    #[test]
    fn a_lone_pair_is_found_at_every_place_of_a_long_text() {
        for place in 1..200 {
            let mut bytes = vec![b'x'; 201];
            bytes[place - 1..=place].copy_from_slice(b"//");
            assert_eq!(next(&bytes, 0), Some(place));
            assert_eq!(next(&bytes, place + 1), None);
        }
    }
}
