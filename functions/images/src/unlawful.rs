//! Which images are unlawful: a set of 100,000 and more, asked for each image URL of a body.
//!
//! An image is known by a 64-bit key of its host and path, and of its query if it was reported with one. A key's lower
//! half is the path's [`fingerprint`]: most images are known to be none by one look at a filter of these, whatever hosts
//! theirs may be reported under. The keys themselves lie sorted in one piece.
//!
//! An instance has the reports' hosts from the beginning, and a small filter with them. It reads a large one and the
//! keys when a body first needs them: most never need the keys, which are many. Of more than [`LISTED_MAX`] hosts it
//! reads a filter, too, as soon as a body has any URL.

use std::sync::OnceLock;

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use xxhash_rust::xxh64::xxh64;

use crate::{
    escaping::{is_mark, is_of_letter},
    rewrite::LETTERS_MAX,
    rules::{Rule, Rules},
    sign::PARAMETERS,
};

/// The bytes of a key.
const KEY: usize = 8;

/// The unlawful images.
#[derive(Clone, Debug)]
pub(crate) struct Unlawful {
    /// Of all keys, once it was needed.
    filter: OnceLock<Bloom>,
    /// Big-endian keys, sorted, once they were needed.
    sorted: OnceLock<Bytes>,
    /// Those that have come since.
    more: HashSet<u64>,
    /// The hosts that they are on; of those that are too many to be listed, the ones that have come since.
    hosts: Vec<Box<[u8]>>,
    /// Their hashes.
    hashes: HashSet<u64>,
    /// Of the hosts that are too many, once it was needed.
    many: Option<OnceLock<Bloom>>,
}

/// The most hosts that every instance is told of from the beginning.
pub(crate) const LISTED_MAX: usize = 256;

/// What a body needs to know of the reports, and this instance has not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// The filter of hosts.
    Hosts,
    /// The filter of keys.
    Filter,
    Keys,
}

/// No images: nothing is left to be read.
impl Default for Unlawful {
    fn default() -> Self {
        let none = Self::on([]);
        none.learn_keys(Bytes::new());
        none
    }
}

impl Unlawful {
    /// Images on these hosts, of which nothing else is known yet.
    pub(crate) fn on<'a>(hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut unlawful = Self {
            filter: OnceLock::new(),
            sorted: OnceLock::new(),
            more: HashSet::new(),
            hosts: Vec::new(),
            hashes: HashSet::new(),
            many: None,
        };
        hosts.into_iter().for_each(|host| unlawful.add_host(host));
        unlawful
    }

    /// Images on more hosts than are listed.
    pub(crate) fn on_many() -> Self {
        Self { many: Some(OnceLock::new()), ..Self::on([]) }
    }

    /// Learns what [`Bloom::of_hosts`] has made of the hosts.
    pub(crate) fn learn_hosts(&self, filter: Bloom) {
        if let Some(many) = &self.many {
            many.get_or_init(|| filter);
        }
    }

    /// Learns what [`Bloom::of`] has made of the keys.
    pub(crate) fn learn_filter(&self, mut filter: Bloom) {
        self.more.iter().for_each(|key| filter.mark(fingerprint_of(*key)));
        self.filter.get_or_init(|| filter);
    }

    /// Learns the keys, as [`sorted`] lays them.
    pub(crate) fn learn_keys(&self, sorted: Bytes) {
        if self.filter.get().is_none() {
            self.learn_filter(Bloom::of(&sorted));
        }
        self.sorted.get_or_init(|| sorted);
    }

    /// What tells of most images that they are none.
    pub(crate) fn filter(&self) -> Result<&Bloom, Lack> {
        self.filter.get().ok_or(Lack::Filter)
    }

    /// Adds an image.
    pub(crate) fn add(&mut self, keys: &Keys) {
        self.more.extend(keys.all());
        if let Some(filter) = self.filter.get_mut() {
            keys.all().for_each(|key| filter.mark(fingerprint_of(*key)));
        }
        keys.hosts.iter().for_each(|host| self.add_host(host));
    }

    fn add_host(&mut self, host: &str) {
        if self.hashes.insert(hash(host.as_bytes())) {
            self.hosts.push(host.as_bytes().into());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.many.is_none()
    }

    /// Whether any may be on the host with this [`hash`].
    pub(crate) fn has_host(&self, host: u64) -> Result<bool, Lack> {
        match &self.many {
            Some(many) if !self.hashes.contains(&host) => {
                many.get().map(|many| many.may_have(fingerprint_of(host))).ok_or(Lack::Hosts)
            }
            _ => Ok(self.hashes.contains(&host)),
        }
    }

    /// The hosts, if they are listed.
    pub(crate) fn hosts(&self) -> Option<impl Iterator<Item = &[u8]>> {
        self.many.is_none().then(|| self.hosts.iter().map(|host| &**host))
    }

    /// Whether an image is there with this path, and query if it has one, without escapes. `hosts` are the hashes of those
    /// that it may be reported under.
    pub(crate) fn has(&self, hosts: &[u64], path: &[u8]) -> Result<bool, Lack> {
        let fingerprint = fingerprint(path);
        if hosts.is_empty() || !self.filter()?.may_have(fingerprint) {
            return Ok(false);
        }
        self.has_path(hosts, PathKey { hash: hash(path), fingerprint })
    }

    /// Whether an image is there whose path begins so, as far as its first [letter](crate::escaping::Letter).
    /// `scratch` is overwritten.
    pub(crate) fn has_beginning(&self, hosts: &[u64], path: &[u8], scratch: &mut Vec<u8>) -> Result<bool, Lack> {
        write_path(path, scratch);
        let path = PathKey::of_beginning(beginning(scratch).unwrap_or(scratch));
        if hosts.is_empty() || !self.filter()?.may_have(path.fingerprint) {
            return Ok(false);
        }
        self.has_path(hosts, path)
    }

    fn has_path(&self, hosts: &[u64], path: PathKey) -> Result<bool, Lack> {
        let mut keys = hosts.iter().map(|host| path.on(*host));
        if keys.clone().any(|key| self.more.contains(&key)) {
            return Ok(true);
        }
        let sorted = self.sorted.get().ok_or(Lack::Keys)?;
        Ok(keys.any(|key| is_sorted_in(sorted, key)))
    }

    /// Whether an image with this path and query is one. `scratch` is overwritten.
    pub(crate) fn holds(&self, hosts: &[u64], path: &[u8], query: &[u8], scratch: &mut Vec<u8>) -> Result<bool, Lack> {
        write_path(path, scratch);
        if self.has(hosts, scratch)? {
            return Ok(true);
        }
        if write_query(query, scratch) { self.has(hosts, scratch) } else { Ok(false) }
    }
}

/// A Bloom filter of fingerprints. Each has four bits in each of two words: most of those that are not there are known by
/// the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bloom(Vec<u8>);

/// The bytes of a word, little-endian.
const WORD: usize = 8;
/// Paths, or hosts, for each word of the filter, about, so that 1 in 3,500 of the others passes: of 100,000 it has 260 KB.
const FILTERED: usize = 3;
/// How many fingerprints are asked for before anything depends on the answers.
const ASKED: usize = 8;
/// The filter has at most so many words: a megabyte.
const FILTER_MAX: usize = 1 << 17;
/// One of few paths has so many, as others may come.
const FILTER_MIN: usize = 1 << 8;

impl Bloom {
    /// Of keys. An image has one path, whatever hosts it is on.
    pub(crate) fn of(keys: &[u8]) -> Self {
        let keys = keys.as_chunks::<KEY>().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
        Self::with(keys.map(fingerprint_of).collect())
    }

    /// Of lower-case hosts.
    pub(crate) fn of_hosts(hosts: &[String]) -> Self {
        Self::with(hosts.iter().map(|host| fingerprint_of(hash(host.as_bytes()))).collect())
    }

    fn with(mut fingerprints: Vec<u32>) -> Self {
        fingerprints.sort_unstable();
        fingerprints.dedup();
        let mut filter = Self(vec![0; (fingerprints.len() / FILTERED).clamp(FILTER_MIN, FILTER_MAX) * WORD]);
        fingerprints.into_iter().for_each(|fingerprint| filter.mark(fingerprint));
        filter
    }

    /// As it was kept.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To be kept.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn mark(&mut self, fingerprint: u32) {
        let first = mixed(fingerprint.into());
        for (place, bits) in [self.place(first), self.place(mixed(first))] {
            if let Some(word) = self.0.as_chunks_mut::<WORD>().0.get_mut(place) {
                *word = (u64::from_le_bytes(*word) | bits).to_le_bytes();
            }
        }
    }

    /// A word's place, and four bits there.
    fn place(&self, mixed: u64) -> (usize, u64) {
        let word = ((mixed >> 32) * (self.0.len() / WORD) as u64) >> 32;
        let bits = 1 << (mixed & 63) | 1 << (mixed >> 6 & 63) | 1 << (mixed >> 12 & 63) | 1 << (mixed >> 18 & 63);
        (usize::try_from(word).unwrap_or_default(), bits)
    }

    /// Whether all bits are set there; one without a word tells nothing.
    fn is_marked(&self, mixed: u64) -> bool {
        let (place, bits) = self.place(mixed);
        self.0.as_chunks::<WORD>().0.get(place).is_none_or(|word| u64::from_le_bytes(*word) & bits == bits)
    }

    /// Whether an image whose path has this fingerprint may be there, on whatever host; or a host whose hash ends with it.
    fn may_have(&self, fingerprint: u32) -> bool {
        let first = mixed(fingerprint.into());
        self.is_marked(first) && self.is_marked(mixed(first))
    }

    /// Whether any of these may be there. So many are asked for at once, and nothing waits for an answer in between.
    pub(crate) fn may_have_any(&self, fingerprints: &[u32]) -> bool {
        let (many, rest) = fingerprints.as_chunks::<ASKED>();
        let may_be =
            |many: &&[u32; ASKED]| many.iter().fold(false, |any, one| any | self.is_marked(mixed((*one).into())));
        many.iter().filter(may_be).flatten().chain(rest).any(|one| self.may_have(*one))
    }
}

/// A number whose bits tell of all of this one's.
fn mixed(number: u64) -> u64 {
    let product = number.wrapping_mul(MIXER);
    product ^ product >> 32
}

/// Keys are spread evenly, so that a key's value tells about where it lies.
fn is_sorted_in(sorted: &[u8], key: u64) -> bool {
    let keys = sorted.as_chunks::<KEY>().0;
    let count = keys.len();
    let at = |place: usize| keys.get(place).map(|bytes| u64::from_be_bytes(*bytes));
    let guess = ((key >> 32) * u64::try_from(count).unwrap_or(u64::MAX).min(1 << 31)) >> 32;
    let guess = usize::try_from(guess).unwrap_or_default().min(count);
    // The true place is off by the root of their number, so that growing steps soon pass it on either side.
    let (mut low, mut high, mut step) = (guess, guess, 16);
    while low > 0 && at(low).is_none_or(|found| found > key) {
        (high, low, step) = (low, low.saturating_sub(step), step * 2);
    }
    while high < count && at(high).is_some_and(|found| found <= key) {
        (low, high, step) = (high, (high + step).min(count), step * 2);
    }
    // The key is not below `low`, nor at `high` or above.
    while high - low > 1 {
        let middle = low.midpoint(high);
        if at(middle).is_some_and(|found| found <= key) { low = middle } else { high = middle }
    }
    at(low) == Some(key)
}

/// The hash of a lower-case host, or of a path, and query.
pub(crate) fn hash(text: &[u8]) -> u64 {
    xxh64(text, 0)
}

/// The half of a key that is its path's fingerprint.
const FINGERPRINT: u64 = u32::MAX as u64;

/// That half, or the one of a host's [`hash`] that a filter knows it by.
fn fingerprint_of(number: u64) -> u32 {
    (number & FINGERPRINT) as u32
}

/// Spreads a number's bits: 2 to the 64th, divided by the golden ratio.
const MIXER: u64 = 0x9E37_79B9_7F4A_7C15;

/// What tells the key of a path, and query if it has one, on each host.
#[derive(Clone, Copy)]
struct PathKey {
    hash: u64,
    fingerprint: u32,
}

impl PathKey {
    fn of(path: &[u8]) -> Self {
        Self { hash: hash(path), fingerprint: fingerprint(path) }
    }

    /// Of what stands before a path's first letter: no path has the same.
    fn of_beginning(text: &[u8]) -> Self {
        let Self { hash, fingerprint } = Self::of(trimmed(text));
        Self { hash: !hash, fingerprint: !fingerprint }
    }

    /// The key on the host with this [`hash`].
    fn on(self, host: u64) -> u64 {
        (host ^ self.hash).wrapping_mul(MIXER) & !FINGERPRINT | u64::from(self.fingerprint)
    }
}

/// Half of the bytes that [`fingerprint`] reads at once.
const HALF: usize = 32;

/// What a path is known by at first. Of one as long as most are it is made by few steps, much as by the universal hash
/// NH of RFC 4418: each word, under a key of its own, gives the product of its halves. A hash that is good for bytes of
/// any length takes several times as long in Spin's engine.
pub(crate) fn fingerprint(path: &[u8]) -> u32 {
    // Digits of pi.
    const LEFT: [u64; HALF / WORD] =
        [0x243F_6A88_85A3_08D3, 0x1319_8A2E_0370_7344, 0xA409_3822_299F_31D0, 0x082E_FA98_EC4E_6C89];
    const RIGHT: [u64; HALF / WORD] =
        [0x4528_21E6_38D0_1377, 0xBE54_66CF_34E9_0C6C, 0xC0AC_29B7_C97C_50DD, 0x3F84_D5B5_B547_0917];
    let sum = |half: &[u8; HALF], keys: [u64; HALF / WORD]| {
        half.as_chunks::<WORD>().0.iter().zip(keys).fold(0_u64, |sum, (word, key)| {
            let keyed = u64::from_le_bytes(*word) ^ key;
            sum.wrapping_add((keyed & u64::from(u32::MAX)) * (keyed >> 32))
        })
    };
    let wide = match (path.first_chunk(), path.last_chunk()) {
        (Some(first), Some(last)) if path.len() <= 2 * HALF => {
            sum(first, LEFT).wrapping_add(sum(last, RIGHT)).wrapping_add(path.len() as u64).wrapping_mul(MIXER)
        }
        _ => hash(path),
    };
    (wide >> 32) as u32
}

/// Big-endian keys in their order, each once.
pub(crate) fn sorted(mut keys: Vec<u64>) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().flat_map(u64::to_be_bytes).collect()
}

/// An image has at most so many addresses: its own, and those that sets of rules have made of it.
const HOSTS_MAX: usize = 64;

/// What an image is known by, under each of its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) images: Vec<u64>,
    /// Of what stands before the path's first letter, if it has any: where a body's URL ends there, it is read on.
    pub(crate) beginnings: Vec<u64>,
    pub(crate) hosts: Vec<String>,
}

impl Keys {
    /// All that are kept.
    pub(crate) fn all(&self) -> impl Iterator<Item = &u64> {
        self.images.iter().chain(&self.beginnings)
    }
}

/// What stands before the first letter of a path with its escapes undone.
fn beginning(path: &[u8]) -> Option<&[u8]> {
    path.iter().position(|byte| is_of_letter(*byte)).and_then(|at| path.get(..at))
}

/// Without the marks at the end that a body's URL does not have there.
fn trimmed(text: &[u8]) -> &[u8] {
    let marks = text.iter().rev().take_while(|byte| is_mark(**byte)).count();
    text.get(..text.len() - marks).unwrap_or_default()
}

/// An image's address, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    host: String,
    path: String,
    query: String,
}

impl Image {
    /// Reads an absolute http or https URL.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let clean = rest.bytes().all(|byte| byte > b' ' && byte != 127 && !b"\"<>\\^`{|}".contains(&byte));
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let named = !host.is_empty()
            && host.len() <= crate::rules::HOST_MAX
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        (clean && named && port.parse::<u16>().is_ok()).then(|| Self { host, path: path.into(), query: query.into() })
    }

    /// All whose reports make its URL the placeholder: itself, as it is known without its query, and those that end before
    /// one of its letters.
    pub(crate) fn hidden_by(&self) -> Vec<Self> {
        let of = |path: &str| Self { path: path.into(), query: String::new(), ..self.clone() };
        let is_letter = |char: char| !char.is_ascii() || is_of_letter(char as u8);
        let letters = self.path.match_indices(is_letter).take(LETTERS_MAX);
        let ends = letters.filter_map(|(at, _)| self.path.get(..at));
        let shorter = ends.map(|path| of(path.trim_end_matches(|char: char| char.is_ascii() && is_mark(char as u8))));
        let without_query = (!self.query.is_empty()).then(|| of(&self.path));
        std::iter::once(self.clone()).chain(without_query).chain(shorter).collect()
    }

    /// Whether its query has characters that end a URL in every body.
    pub(crate) fn has_unescaped_query(&self) -> bool {
        self.query.bytes().any(|byte| is_of_letter(byte) || byte == b'\'')
    }

    /// Its keys: under its own host, and under those that rules make of it.
    pub(crate) fn keys(&self, rules: &Rules) -> Keys {
        self.keys_under(hosts_of(&self.host, &[], None, rules))
    }

    fn keys_under(&self, hosts: Vec<String>) -> Keys {
        let mut text = Vec::new();
        write_path(self.path.as_bytes(), &mut text);
        let beginning = beginning(&text).map(PathKey::of_beginning);
        write_query(self.query.as_bytes(), &mut text);
        let image = PathKey::of(&text);
        let of = |path: PathKey| hosts.iter().map(move |host| path.on(hash(host.as_bytes())));
        let (images, beginnings) = (of(image).collect(), beginning.into_iter().flat_map(of).collect());
        Keys { images, beginnings, hosts }
    }

    /// Whether it is the image that this URL shows.
    pub(crate) fn is(&self, url: &str) -> bool {
        Self::parse(url).as_ref() == Some(self)
    }
}

/// The hosts under which an image is known that was reported on `host`: that one first, then those that rules make of
/// it, and of the hosts under which it was `known` by the rules `before`.
fn hosts_of(host: &str, known: &[String], before: Option<&Rules>, rules: &Rules) -> Vec<String> {
    let mut hosts = vec![host.to_owned()];
    rules.addresses(host, &mut hosts);
    hosts.extend_from_slice(known);
    known.iter().for_each(|known| rules.addresses(known, &mut hosts));
    // Reported under a new host, it has what is made now of the old ones that led there.
    if let Some(before) = before.filter(|before| !before.claims_any(host)) {
        let leads_here = |rule: &&Rule| hosts.iter().any(|host| host == rule.to_host());
        let old: Vec<String> = before.rules.iter().filter(leads_here).flat_map(Rule::claimed_hosts).collect();
        old.iter().for_each(|old| rules.addresses(old, &mut hosts));
    }
    let mut seen = HashSet::new();
    hosts.retain(|host| seen.insert(host.clone()));
    hosts.truncate(HOSTS_MAX);
    hosts
}

/// Makes images' keys anew when the rules are new: most images are on a few hosts.
pub(crate) struct Anew<'a> {
    before: Option<&'a Rules>,
    rules: &'a Rules,
    /// By the host that was reported, and those that were known.
    hosts: HashMap<(String, Vec<String>), Vec<String>>,
}

impl<'a> Anew<'a> {
    /// `before` are the rules that the keys were made by so far.
    pub(crate) fn new(before: Option<&'a Rules>, rules: &'a Rules) -> Self {
        Self { before, rules, hosts: HashMap::new() }
    }

    /// The keys of an image that was known under these hosts: under all of them, and under those that it has now.
    pub(crate) fn keys(&mut self, image: &Image, known: Vec<String>) -> Keys {
        let (before, rules) = (self.before, self.rules);
        let hosts = self
            .hosts
            .entry((image.host.clone(), known))
            .or_insert_with_key(|(host, known)| hosts_of(host, known, before, rules));
        image.keys_under(hosts.clone())
    }
}

/// The path, its escapes undone: `%20` and what else may be written in two ways is the same.
fn write_path(path: &[u8], text: &mut Vec<u8>) {
    text.clear();
    if path.is_empty() {
        text.push(b'/');
    }
    unescape(path, text);
}

/// Adds a path, its escapes undone.
pub(crate) fn unescape(path: &[u8], text: &mut Vec<u8>) {
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        rest = match after {
            [high, low, after @ ..] if byte == b'%' => match (hex(high), hex(low)) {
                (Some(high), Some(low)) => {
                    text.push(high << 4 | low);
                    after
                }
                _ => {
                    text.push(byte);
                    rest.get(1..).unwrap_or_default()
                }
            },
            _ => {
                text.push(byte);
                after
            }
        };
    }
}

/// Adds the query without what signatures put there; `false` if nothing is left of it.
pub(crate) fn write_query(query: &[u8], text: &mut Vec<u8>) -> bool {
    let before = text.len();
    for parameter in query.split(|byte| *byte == b'&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !PARAMETERS.contains(&name) {
            text.push(if text.len() == before { b'?' } else { b'&' });
            text.extend_from_slice(parameter);
        }
    }
    text.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sign;

    fn rules() -> Rules {
        let text = r#"{"rules":[{"name":"a","from":["old.example.com","*.many.example"],"to":"new.example.com","contexts":["*"]}],
            "placeholder":"https://new.example.com/removed.png"}"#;
        Rules::parse(text.as_bytes(), &sign::Keys::default()).unwrap()
    }

    fn unlawful(urls: &[&str]) -> Unlawful {
        let mut unlawful = Unlawful::default();
        urls.iter().for_each(|url| unlawful.add(&Image::parse(url).unwrap().keys(&rules())));
        unlawful
    }

    fn holds(unlawful: &Unlawful, host: &str, path: &str, query: &str) -> bool {
        let (host, path, query) = (hash(host.as_bytes()), path.as_bytes(), query.as_bytes());
        let holds = unlawful.holds(&[host], path, query, &mut Vec::new()).unwrap();
        assert!(!query.is_empty() || path.contains(&b'%') || Ok(holds) == unlawful.has(&[host], path));
        holds
    }

    #[test]
    fn an_image_is_known_under_its_old_and_its_new_host() {
        let set = unlawful(&["https://OLD.example.com:8080/a%20b.jpg#x", "http://x.many.example/c.jpg"]);
        for (host, path) in
            [("old.example.com", "/a b.jpg"), ("new.example.com", "/a%20b.jpg"), ("new.example.com", "/c.jpg")]
        {
            assert!(set.has_host(hash(host.as_bytes())) == Ok(true) && holds(&set, host, path, ""), "{host}{path}");
        }
        assert!(!holds(&set, "old.example.com", "/c.jpg", "") && !holds(&set, "new.example.com", "/a.jpg", ""));
        assert_eq!(set.has_host(hash(b"other.example.com")), Ok(false));
    }

    fn rules_to(to: &str) -> Rules {
        let text = format!(
            r#"{{"rules":[{{"name":"a","from":["old.example.com","*.many.example"],"to":"{to}","contexts":["*"]}}],
            "placeholder":"https://a.example/removed.png"}}"#
        );
        Rules::parse(text.as_bytes(), &sign::Keys::default()).unwrap()
    }

    #[test]
    fn an_image_keeps_its_addresses_when_rules_change_and_gets_those_of_the_new_ones() {
        let (one, two, three) = (rules_to("one.example"), rules_to("two.example"), rules_to("three.example"));
        for url in ["https://old.example.com/a.jpg", "https://y.many.example/a.jpg", "https://one.example/a.jpg"] {
            let image = Image::parse(url).unwrap();
            let first = image.keys(&one);
            let second = Anew::new(Some(&one), &two).keys(&image, first.hosts.clone());
            let third = Anew::new(Some(&two), &three).keys(&image, second.hosts.clone());
            assert!(first.images.iter().all(|key| second.images.contains(key)), "{url}");
            for to in ["one.example", "two.example", "three.example"] {
                assert!(third.hosts.iter().any(|host| host == to), "{url}: {:?}", third.hosts);
            }
            assert_eq!((third.images.len(), third.images[0]), (third.hosts.len(), first.images[0]));
        }
        let elsewhere = Image::parse("https://b.example/a.jpg").unwrap();
        let known = vec!["b.example".into()];
        assert_eq!(Anew::new(Some(&one), &two).keys(&elsewhere, known), elsewhere.keys(&two));
    }

    #[test]
    fn a_query_counts_if_the_report_has_one_and_a_signature_never() {
        let set = unlawful(&["https://old.example.com/a.jpg", "https://old.example.com/get?id=5&auth_key=1-0-0-x"]);
        for (path, query, is) in [
            ("/a.jpg", "", true),
            ("/a.jpg", "w=100", true),
            ("/get", "id=5", true),
            ("/get", "expires=1&id=5&signature=y", true),
            ("/get", "id=6", false),
            ("/get", "", false),
        ] {
            assert_eq!(holds(&set, "old.example.com", path, query), is, "{path}?{query}");
        }
    }

    fn hash_of(number: u64) -> u64 {
        xxh64(&number.to_be_bytes(), 0)
    }

    #[test]
    fn every_key_of_many_is_found_and_no_other() {
        let keys = sorted((0..100_000).map(hash_of).collect());
        assert!((0..100_000).all(|number| is_sorted_in(&keys, hash_of(number))));
        assert!((100_000..200_000).all(|number| !is_sorted_in(&keys, hash_of(number))));
        // Keys that are not spread evenly are found, too.
        let uneven = sorted((0..5_000).chain((0..5_000).map(|number| u64::MAX - 7 * number)).collect());
        let is_there = |key: u64| key < 5_000 || (u64::MAX - key).is_multiple_of(7) && u64::MAX - key < 35_000;
        let near = (0..40_000).chain((0..40_000).map(|number| u64::MAX - number));
        assert!({ near }.all(|key| is_sorted_in(&uneven, key) == is_there(key)));
        for (key, count) in [(0, 0), (u64::MAX, 0), (0, 1), (u64::MAX, 1)] {
            assert_eq!(is_sorted_in(&sorted(vec![0; count]), key), count == 1 && key == 0);
        }
    }

    #[test]
    fn a_filter_lets_every_key_pass_and_few_others() {
        // Each path on two hosts.
        let on = |host: u64| move |number| PathKey::of(path(number).as_bytes()).on(host);
        let keys = (0..50_000).flat_map(|number| [on(1)(number), on(2)(number)]);
        let filter = Bloom::of(&sorted(keys.collect()));
        let print = |number: u32| fingerprint(path(number).as_bytes());
        assert!((0..50_000).all(|number| filter.may_have(print(number)) && filter.may_have_any(&[print(number)])));
        let passed: Vec<u32> = (100_000..200_000).map(print).filter(|print| filter.may_have(*print)).collect();
        assert!(passed.len() < 60, "{}", passed.len());
        // One of many is found wherever it stands.
        let others: Vec<u32> = (100_000..100_100).map(print).filter(|print| !passed.contains(print)).collect();
        assert!(!filter.may_have_any(&others) && !filter.may_have_any(&[]));
        for place in 0..others.len() {
            let mut many = others.clone();
            many[place] = print(1);
            assert!(filter.may_have_any(&many), "{place}");
        }
        assert_eq!(Bloom::from_bytes(filter.clone().into_bytes()), filter);
        assert!(Bloom::default().may_have(1) && Bloom::from_bytes(vec![1]).may_have(1));
    }

    fn path(number: u32) -> String {
        format!("/pop/jfs/{number:08}/{:016x}.jpg", number.wrapping_mul(0x9E37_79B1))
    }

    #[test]
    fn paths_that_look_alike_have_other_fingerprints() {
        let of = |text: String| fingerprint(text.as_bytes());
        let numbers = 0..200_000;
        let kinds: [&dyn Fn(u32) -> String; 7] = [
            &|number| format!("/{number}"),
            &|number| format!("/pop/jfs/{number:06}/00000000{number:06}.jpg"),
            &|number| format!("/a/long/directory/before/{number:06}/and/one/behind.jpg"),
            &|number| format!("/u/{number:05x}/avatar/large/photo1.jpg"),
            &|number| format!("/{number:x}{}", "a".repeat(40)),
            // At the ends of two words.
            &|number| {
                let (left, right) = (number / 1_000, number % 1_000);
                format!("/hospital/img{left:03}/consult/records/vv{right:03}/abcdefgh.0.jpeg")
            },
            &|number| format!("/a/path/that/is/longer/than/sixty/four/bytes/{number:06}/and/goes/on/for/a/while.jpg"),
        ];
        for (place, kind) in kinds.into_iter().enumerate() {
            let mut prints: Vec<u32> = numbers.clone().map(|number| of(kind(number))).collect();
            prints.sort_unstable();
            prints.dedup();
            // Of random ones, five would be there twice.
            assert!(prints.len() > numbers.len() - 15, "{place}: {}", numbers.len() - prints.len());
        }
        // Each byte and the length count.
        let same: Vec<String> = (1..=80).map(|length| "a".repeat(length)).collect();
        for (place, text) in same.iter().enumerate() {
            assert!(same[..place].iter().all(|shorter| of(shorter.clone()) != of(text.clone())));
            for at in 0..text.len() {
                let other = |byte: u8| {
                    let mut other = text.clone();
                    other.replace_range(at..=at, char::from(byte).encode_utf8(&mut [0; 4]));
                    of(other)
                };
                let seen: HashSet<u32> = (b'!'..=b'~').map(other).collect();
                assert_eq!(seen.len(), (b'!'..=b'~').len(), "{at} of {}", text.len());
            }
        }
    }

    #[test]
    fn what_is_lacking_is_said_and_only_if_it_is_needed() {
        let image = |url: &str| Image::parse(url).unwrap().keys(&rules());
        let known = image("https://old.example.com/a.jpg");
        let host = [hash(b"old.example.com")];
        let (a, b, c): (&[u8], &[u8], &[u8]) = (b"/a.jpg", b"/b.jpg", b"/c.jpg");
        let mut set = Unlawful::on(known.hosts.iter().map(String::as_str));
        assert!(set.has_host(host[0]) == Ok(true) && !set.is_empty());
        set.add(&image("https://old.example.com/b.jpg"));
        assert_eq!([a, b, c].map(|path| set.has(&host, path)), [Err(Lack::Filter); 3]);
        let sorted = sorted(known.images.clone());
        set.learn_filter(Bloom::of(&sorted));
        assert_eq!([a, b, c].map(|path| set.has(&host, path)), [Err(Lack::Keys), Ok(true), Ok(false)]);
        // What comes later passes the filter that is there.
        set.add(&image("https://old.example.com/c.jpg"));
        set.learn_keys(sorted.into());
        assert_eq!([a, b, c].map(|path| set.has(&host, path)), [Ok(true); 3]);
        assert_eq!(set.has(&host, b"/d.jpg"), Ok(false));
        // Of many hosts nothing is known at first but those that come later.
        let mut set = Unlawful::on_many();
        set.add(&image("https://old.example.com/b.jpg"));
        let other = hash(b"other.example.com");
        assert!(!set.is_empty() && set.hosts().is_none());
        assert_eq!([host[0], other].map(|host| set.has_host(host)), [Ok(true), Err(Lack::Hosts)]);
        set.learn_hosts(Bloom::of_hosts(&["other.example.com".to_owned()]));
        let third = hash(b"third.example.com");
        assert_eq!([host[0], other, third].map(|host| set.has_host(host)), [Ok(true), Ok(true), Ok(false)]);
        // The keys alone are enough.
        let set = Unlawful::on(["old.example.com"]);
        set.learn_keys(super::sorted(known.images).into());
        assert_eq!([a, b].map(|path| set.has(&host, path)), [Ok(true), Ok(false)]);
    }

    #[test]
    fn what_is_no_image_url_is_refused() {
        for url in [
            "",
            "a.jpg",
            "ftp://a.b/c",
            "https://",
            "https:///a",
            "https://a b/c",
            "https://u@a.b/c",
            "//a.b/c",
            "https://a.b:x/c",
        ] {
            assert_eq!(Image::parse(url), None, "{url}");
        }
    }
}
