//! Which images are unlawful: a set of 100,000 and more, asked for each image URL of a body.
//!
//! An image is known by a 64-bit key of its host and path, and of its query if it was reported with one. The keys lie
//! sorted in one piece, as the database keeps them, so that an instance has them at once. A key's lower half is of the
//! path alone: most images are known to be none by one look, whatever hosts theirs may be reported under.

use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use xxhash_rust::xxh64::xxh64;

use crate::{
    rules::{Rule, Rules},
    sign::PARAMETERS,
};

/// The bytes of a key.
const KEY: usize = 8;

/// The unlawful images.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unlawful {
    /// Big-endian keys, sorted.
    sorted: Bytes,
    /// Those that have come since.
    more: HashSet<u64>,
    /// The hosts that they are on.
    hosts: Vec<Box<[u8]>>,
    /// Their hashes.
    hashes: HashSet<u64>,
    /// A few bits for each key, all in one word: most images that are none are known by it.
    filter: Vec<u64>,
}

/// Keys for each word of the filter, about, so that 1 in 70 of the others passes at most: of 100,000 reports it has 160 KB,
/// or twice that where each image has two addresses.
const FILTERED: usize = 5;
/// The filter's words are at most so many: half a megabyte.
const FILTER_MAX: usize = 1 << 16;
/// A set that grows begins with so many.
const FILTER_MIN: usize = 1 << 8;

impl Unlawful {
    /// Of keys as [`sorted`] lays them, and of their hosts.
    pub(crate) fn new<'a>(sorted: Bytes, hosts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut unlawful = Self { sorted, ..Self::default() };
        hosts.into_iter().for_each(|host| unlawful.add_host(host));
        unlawful.filter_for(unlawful.sorted.len() / KEY);
        unlawful
    }

    /// Makes the filter anew for so many keys.
    fn filter_for(&mut self, count: usize) {
        self.filter = vec![0; (count / FILTERED).clamp(FILTER_MIN, FILTER_MAX)];
        let sorted = self.sorted.clone();
        sorted.as_chunks::<KEY>().0.iter().for_each(|bytes| self.mark(u64::from_be_bytes(*bytes)));
        let more: Vec<u64> = self.more.iter().copied().collect();
        more.into_iter().for_each(|key| self.mark(key));
    }

    fn mark(&mut self, key: u64) {
        let (word, bits) = self.place(key);
        if let Some(word) = self.filter.get_mut(word) {
            *word |= bits;
        }
    }

    /// The word of a path, and its three bits there. All of it is told by the half that keys have of it.
    fn place(&self, path: u64) -> (usize, u64) {
        let half = path & PATH;
        let word = (half * self.filter.len() as u64) >> 32;
        let bits = 1 << (half & 63) | 1 << (half >> 6 & 63) | 1 << (half >> 12 & 63);
        (usize::try_from(word).unwrap_or_default(), bits)
    }

    /// Whether an image with this path may be there, on whatever host.
    pub(crate) fn may_have(&self, path: u64) -> bool {
        let (word, bits) = self.place(path);
        self.filter.get(word).is_some_and(|word| word & bits == bits)
    }

    /// Adds an image.
    pub(crate) fn add(&mut self, keys: &Keys) {
        self.more.extend(&keys.images);
        if self.filter.is_empty() {
            self.filter_for(0);
        }
        keys.images.iter().for_each(|key| self.mark(*key));
        keys.hosts.iter().for_each(|host| self.add_host(host));
    }

    fn add_host(&mut self, host: &str) {
        if self.hashes.insert(hash(host.as_bytes())) {
            self.hosts.push(host.as_bytes().into());
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether any is on the host with this [`hash`].
    pub(crate) fn has_host(&self, host: u64) -> bool {
        self.hashes.contains(&host)
    }

    /// The hosts.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &[u8]> {
        self.hosts.iter().map(|host| &**host)
    }

    /// Whether an image is there whose path, and query if it has one, has this [`hash`]: a path without escapes. `hosts` are
    /// the hashes of those that it may be reported under.
    pub(crate) fn has(&self, hosts: &[u64], path: u64) -> bool {
        self.may_have(path)
            && hosts.iter().map(|host| key(*host, path)).any(|key| self.is_sorted_in(key) || self.more.contains(&key))
    }

    /// Keys are spread evenly, so that a key's value tells about where it lies.
    fn is_sorted_in(&self, key: u64) -> bool {
        let count = self.sorted.len() / KEY;
        let at =
            |place: usize| self.sorted.get(place * KEY..)?.first_chunk::<KEY>().map(|bytes| u64::from_be_bytes(*bytes));
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

    /// Whether an image with this path and query is one. `scratch` is overwritten.
    pub(crate) fn holds(&self, hosts: &[u64], path: &[u8], query: &[u8], scratch: &mut Vec<u8>) -> bool {
        write_path(path, scratch);
        if self.has(hosts, hash(scratch)) {
            return true;
        }
        write_query(query, scratch) && self.has(hosts, hash(scratch))
    }
}

/// The hash of a lower-case host, or of a path and query.
pub(crate) fn hash(text: &[u8]) -> u64 {
    xxh64(text, 0)
}

/// The half of a key that is of the path alone.
const PATH: u64 = u32::MAX as u64;

/// The key of the image on a host and with a path of these hashes.
fn key(host: u64, path: u64) -> u64 {
    (host ^ path).wrapping_mul(0x9E37_79B9_7F4A_7C15) & !PATH | path & PATH
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
    pub(crate) hosts: Vec<String>,
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

    /// Its keys: under its own host, and under those that rules make of it.
    pub(crate) fn keys(&self, rules: &Rules) -> Keys {
        self.keys_under(hosts_of(&self.host, &[], None, rules))
    }

    fn keys_under(&self, hosts: Vec<String>) -> Keys {
        let mut text = Vec::new();
        write_path(self.path.as_bytes(), &mut text);
        write_query(self.query.as_bytes(), &mut text);
        let path = hash(&text);
        let image = |host: &String| key(hash(host.as_bytes()), path);
        Keys { images: hosts.iter().map(image).collect(), hosts }
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
fn write_query(query: &[u8], text: &mut Vec<u8>) -> bool {
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
        let holds = unlawful.holds(&[host], path, query, &mut Vec::new());
        assert!(!query.is_empty() || path.contains(&b'%') || holds == unlawful.has(&[host], super::hash(path)));
        holds
    }

    #[test]
    fn an_image_is_known_under_its_old_and_its_new_host() {
        let set = unlawful(&["https://OLD.example.com:8080/a%20b.jpg#x", "http://x.many.example/c.jpg"]);
        for (host, path) in
            [("old.example.com", "/a b.jpg"), ("new.example.com", "/a%20b.jpg"), ("new.example.com", "/c.jpg")]
        {
            assert!(set.has_host(hash(host.as_bytes())) && holds(&set, host, path, ""), "{host}{path}");
        }
        assert!(!holds(&set, "old.example.com", "/c.jpg", "") && !holds(&set, "new.example.com", "/a.jpg", ""));
        assert!(!set.has_host(hash(b"other.example.com")));
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

    #[test]
    fn every_key_of_many_is_found_and_no_other() {
        let keys: Vec<u64> = (0..100_000_u64).map(|number| xxh64(&number.to_be_bytes(), 0)).collect();
        let set = Unlawful::new(sorted(keys.clone()).into(), ["a"]);
        assert!(keys.iter().all(|key| set.is_sorted_in(*key) && set.may_have(*key)));
        let passed = (100_000..200_000_u64).filter(|number| set.may_have(xxh64(&number.to_be_bytes(), 0)));
        assert!(passed.count() < 2_500);
        assert!((100_000..200_000_u64).all(|number| !set.is_sorted_in(xxh64(&number.to_be_bytes(), 0))));
        // Keys that are not spread evenly are found, too.
        let uneven: Vec<u64> = (0..5_000_u64).chain((0..5_000).map(|number| u64::MAX - 7 * number)).collect();
        let set = Unlawful::new(sorted(uneven.clone()).into(), ["a"]);
        assert!(uneven.iter().all(|key| set.is_sorted_in(*key)));
        assert!((5_000..9_000).all(|key| !set.is_sorted_in(key) && !set.is_sorted_in(u64::MAX - 7 * key)));
        for (key, count) in [(0, 0), (u64::MAX, 0), (0, 1), (u64::MAX, 1)] {
            assert_eq!(Unlawful::new(sorted(vec![0; count]).into(), ["a"]).is_sorted_in(key), count == 1 && key == 0);
        }
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
