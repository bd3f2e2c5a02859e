//! Finds claimed hosts in a body by looking at a few of its bytes only.
//!
//! A host of 19 bytes that stands somewhere has one of its groups of four bytes at each 16th place: so it is enough to
//! look there, and to ask one table whether the four bytes found belong to any host at all. That does not depend on
//! the number of hosts, until the table is full. It may find too much, never too little.

/// The bytes of a group.
const GROUP: usize = 4;
/// The table has 2^16 bits, 8 KiB: a part of what a core's nearest memory holds.
const BITS: u32 = 16;
const WORDS: usize = 1 << (BITS - WORD_BITS);
/// A word has 2^5 bits: which of them is a group's is told by the last 5 of its hash.
const WORD_BITS: u32 = u32::BITS.ilog2();
/// The steps that there are, each with what takes it: constants, so that nothing of one is computed or checked while
/// looking. The longest is taken that no host is too short for.
const STEPS: [(usize, Find); 5] = [
    (16, Finder::find::<16, { 16 * TURN }>),
    (14, Finder::find::<14, { 14 * TURN }>),
    (12, Finder::find::<12, { 12 * TURN }>),
    (10, Finder::find::<10, { 10 * TURN }>),
    (8, Finder::find::<8, { 8 * TURN }>),
];
type Find = fn(&Finder, &[u8]) -> Option<usize>;
/// Steps that are taken in one turn: in Spin's engine a turn costs more than a step.
const TURN: usize = 8;
/// A table fuller than this finds too much. Hosts share most of their groups: 5,000 that differ by a number have fewer.
const GROUPS_MAX: u32 = 1 << (BITS - 3);

/// The groups of all hosts.
pub(crate) struct Finder {
    table: Box<[u32; WORDS]>,
    find: Find,
}

/// The longest step, and what takes it, for hosts of which the shortest has so many bytes.
fn longest_step(shortest: usize) -> Option<(usize, Find)> {
    // Wherever such a host stands, one of the looked-at groups lies within it.
    STEPS.into_iter().find(|(step, _)| shortest >= step + GROUP - 1)
}

/// Which word is a group's, and in its last bits which of its bits. Upper case is lower case here; other bytes may be taken
/// for one another.
fn bit_of(bytes: [u8; GROUP]) -> (usize, u32) {
    let hash = (u32::from_le_bytes(bytes) | 0x2020_2020).wrapping_mul(0x9E37_79B1);
    ((hash >> (u32::BITS - BITS + WORD_BITS)) as usize, hash >> (u32::BITS - BITS))
}

impl Finder {
    /// For these lower-case hosts, or ends of hosts; `None` if they are too short or too many to gain by it.
    pub(crate) fn new<'a>(hosts: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut table = Box::new([0_u32; WORDS]);
        let mut shortest = usize::MAX;
        for host in hosts {
            shortest = shortest.min(host.len());
            for bytes in host.windows(GROUP).filter_map(|window| window.first_chunk::<GROUP>()) {
                let (word, bit) = bit_of(*bytes);
                if let Some(word) = table.get_mut(word) {
                    *word |= 1_u32.wrapping_shl(bit);
                }
            }
        }
        let groups: u32 = table.iter().map(|word| word.count_ones()).sum();
        let (_, find) = longest_step(shortest).filter(|_| groups <= GROUPS_MAX)?;
        Some(Self { table, find })
    }

    /// A place at or after `from` within what may be a host. A host that begins at or after `from` has such a place.
    pub(crate) fn next(&self, bytes: &[u8], from: usize) -> Option<usize> {
        let found = (self.find)(self, bytes.get(from..)?);
        found.map(|place| from + place)
    }

    /// A step's group is its last bytes: a host as long as a step and a group, less one, has such a group. A function of its
    /// own, so that what it works with stays in registers.
    #[inline(never)]
    fn find<const STEP: usize, const LENGTH: usize>(&self, bytes: &[u8]) -> Option<usize> {
        let ask = |step: &[u8; STEP]| step.last_chunk::<GROUP>().map_or(0, |group| self.ask(*group)) & 1;
        let (turns, rest) = bytes.as_chunks::<LENGTH>();
        let mut at = 0;
        for turn in turns {
            let steps = turn.as_chunks::<STEP>().0.iter().enumerate();
            let found = steps.fold(0, |found, (number, step)| found | ask(step) << number);
            if found != 0 {
                return Some(at + (found.trailing_zeros() as usize + 1) * STEP - GROUP);
            }
            at += LENGTH;
        }
        let place = rest.as_chunks::<STEP>().0.iter().position(|step| ask(step) == 1)?;
        Some(at + (place + 1) * STEP - GROUP)
    }

    /// The last bit tells whether a host may have the group; the others mean nothing.
    fn ask(&self, bytes: [u8; GROUP]) -> u32 {
        let (word, bit) = bit_of(bytes);
        self.table.get(word).map_or(0, |word| word.wrapping_shr(bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_host_is_found_wherever_it_stands(before in "[a-z./ ]{0,70}", after in "[a-z./ ]{0,30}", upper in any::<bool>()) {
            let hosts: [&[u8]; 2] = [b"img10.360buyimg.com", b".many.example"];
            let finder = Finder::new(hosts).unwrap();
            for host in ["img10.360buyimg.com", "a.many.example"] {
                let host = if upper { host.to_uppercase() } else { host.to_owned() };
                let text = format!("{before}{host}{after}");
                let mut from = 0;
                let found = std::iter::from_fn(|| {
                    let at = finder.next(text.as_bytes(), from)?;
                    from = at + 1;
                    Some(at)
                });
                let place = before.len()..before.len() + host.len();
                prop_assert!(found.into_iter().any(|at| place.contains(&at)));
            }
        }
    }

    proptest! {
        #[test]
        fn each_step_finds_the_shortest_hosts_that_it_is_for(
            (step, length) in prop::sample::select(vec![(8, 11), (8, 12), (10, 13), (10, 14), (12, 15), (14, 17), (14, 18), (16, 19), (16, 40)]),
            host in "[a-z0-9.]{40}",
            before in "[a-z./ ]{0,300}",
            after in "[a-z./ ]{0,300}",
        ) {
            let host = &host[..length];
            let finder = Finder::new([host.as_bytes()]).unwrap();
            prop_assert_eq!(longest_step(length).map(|(step, _)| step), Some(step));
            let (text, place) = (format!("{before}{host}{after}"), before.len()..before.len() + length);
            let found = (0..=before.len()).step_by(7).map(|from| finder.next(text.as_bytes(), from));
            // What comes earlier is something that looks alike.
            for found in found {
                prop_assert!(found.is_some_and(|at| at < place.end), "{:?} {:?}", found, place);
            }
            prop_assert!(finder.next(text.as_bytes(), before.len()).is_some_and(|at| place.contains(&at)));
        }
    }

    #[test]
    fn short_and_too_many_hosts_are_not_for_it() {
        assert!(Finder::new([&b"a.cn"[..]]).is_none());
        let finder = |hosts: Vec<String>| Finder::new(hosts.iter().map(String::as_bytes));
        assert!(finder((0..5_000).map(|number| format!("host-{number}.example.org")).collect()).is_some());
        assert!(finder((0..5_000_u64).map(|number| format!("{:019}", number.pow(5))).collect()).is_none());
        let none = Finder::new([]).unwrap();
        assert_eq!(none.next(&[b'a'; 100], 0), None);
    }
}
