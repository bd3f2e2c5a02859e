//! The rewriter: bytes in, bytes out, as they come.
//!
//! It holds back what may belong to a URL that is not yet there as a whole, at most [`URL_MAX`] and a few hundred bytes
//! of a body, and a piece for which something of the reports is to be read first; what it has not changed goes out in
//! the piece that it came in. Where a URL begins and what its host is are told by docs/images.md, and once more, slowly,
//! by the oracle of the tests.

use std::{cmp::Reverse, ops::Range, sync::Arc};

use bytes::Bytes;
use shared::rollout::{Percent, bucket};

use crate::{
    escaping::{
        Ampersand, REFERENCE_MAX, Style, Token, colon_before, goes_on, is_beyond, is_mark, is_url, letter,
        percent_sign, slash_before, token,
    },
    finder::Finder,
    lanes::{append, equal, host_run, host_run_back, is_host, path_run, spread},
    media::Media,
    rules::{Caller, Fate, HOST_MAX, Rule, Rules},
    scan,
    unlawful::{Lack, Unlawful, fingerprint, hash, unescape, write_query},
};

/// The most bytes, as they stand in the body, of a URL behind its host that is looked at as a whole.
pub(crate) const URL_MAX: usize = 4_096;

/// The most bytes from a scheme to the last of its slashes: `https\\\u003A\\\u002F\\\u002F`.
const HEAD_MAX: usize = 5 + 3 * 8;

/// So much is known of what stood before: an escaped character, an attribute's name and an equals sign.
const CONTEXT: usize = REFERENCE_MAX + NAME_MAX + REFERENCE_MAX;

/// The longest name of an attribute or field whose value may begin with a URL that has no scheme.
const NAME_MAX: usize = 64;

/// How far a bare host is followed to see whether it is the user's name before an `@`. One that goes on for longer is
/// taken for such a name.
const USER_MAX: usize = 256;

/// Of URLs that stand in one another so many are read to their end: each of them is as long as all within it.
pub(crate) const NESTED_MAX: usize = 8;

/// What was done to a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// URLs rewritten, by the rule's place.
    pub(crate) rewritten: Vec<u64>,
    /// URLs that became the placeholder.
    pub(crate) removed: u64,
    pub(crate) bytes: u64,
}

/// What finds the hosts of these rules and reports; `None` if every URL must be looked at.
pub(crate) fn finder(rules: &Rules, unlawful: &Unlawful) -> Option<Finder> {
    Finder::new(rules.patterns().map(str::as_bytes).chain(unlawful.hosts()?))
}

/// The rule that rewrites a URL in `text` for somebody, in whatever escaping it is written.
pub(crate) fn rewriter_of<'a>(rules: &'a Arc<Rules>, text: &str) -> Option<&'a Rule> {
    let finds = |style: Style| {
        let mut written = Vec::new();
        style.write(text.as_bytes(), style.ampersand(), &mut written);
        let mut rewriter = Rewriter::new(rules.clone(), Arc::default(), Arc::new(None), &Caller::default(), 0);
        rewriter.fates.fill(Fate::In);
        let (_, counts) = rewriter.whole(written.into()).ok()?;
        rules.rules.iter().zip(counts.rewritten).find(|(_, count)| *count > 0).map(|(rule, _)| rule)
    };
    Style::EACH.into_iter().find_map(finds)
}

/// Rewrites one body.
pub(crate) struct Rewriter {
    rules: Arc<Rules>,
    unlawful: Arc<Unlawful>,
    finder: Arc<Option<Finder>>,
    fates: Vec<Fate>,
    media: Media,
    now_s: i64,
    /// Came in and is not decided.
    held: Vec<u8>,
    /// The last bytes that are.
    context: Vec<u8>,
    /// What is to be inserted into what is held.
    inserts: Vec<Insert>,
    /// So much of what is held is to go.
    dropped: usize,
    counts: Counts,
    /// The hosts seen last.
    hosts: Vec<Host>,
    trust: Trust,
    read: Read,
    scratch: Scratch,
}

/// Images that were taken for lawful, to be asked for together: the memory that tells is far, and is asked for the next
/// one while it fetches the one before. If one may not be, that part of the piece is edited once more.
#[derive(Default)]
struct Trust {
    /// Whether to trust, and not to ask for each image on its own.
    on: bool,
    /// Not before this place of the piece.
    from: usize,
    /// Of each image's path.
    fingerprints: Vec<u32>,
    /// What would have told, where it is not there.
    lack: Option<Lack>,
}

impl Trust {
    /// Asks for all of them: whether any may be unlawful.
    fn is_deceived(&mut self, unlawful: &Unlawful) -> bool {
        if self.fingerprints.is_empty() {
            return false;
        }
        let may_be = unlawful.filter().map(|filter| filter.may_have_any(&self.fingerprints));
        self.fingerprints.clear();
        self.settle(may_be)
    }

    /// Takes for lawful what cannot be told, and notes what is lacking.
    fn settle(&mut self, is_unlawful: Result<bool, Lack>) -> bool {
        is_unlawful.unwrap_or_else(|lack| {
            self.lack = Some(lack);
            false
        })
    }
}

/// How many images are trusted before they are asked for.
const TRUSTED: usize = 64;

/// How far a body's URLs were read.
#[derive(Clone, Copy, Default)]
struct Read {
    /// Where the piece that is edited begins in the body.
    base: u64,
    /// The furthest end, in the body.
    until: u64,
    /// How many URLs that were read end there or before and begin in one another.
    nested: usize,
}

impl Read {
    /// Whether the URL at a place of the piece is to be read: not if too many stand around it.
    fn may_read(&self, at: usize) -> bool {
        self.base + at as u64 >= self.until || self.nested < NESTED_MAX
    }

    /// It was, to this end.
    fn note(&mut self, at: usize, end: usize) {
        self.nested = if self.base + at as u64 >= self.until { 1 } else { self.nested + 1 };
        self.until = self.until.max(self.base + end as u64);
    }
}

/// How many hosts of a body are remembered: far more than most have.
const HOSTS: usize = 32;

/// In how many places a host may be remembered.
const NEIGHBOURS: usize = 4;

/// Whether a host tells what becomes of its URLs, and the place of the rule that rewrites them.
#[derive(Clone, Copy, Default)]
enum ByHost {
    Settled(Option<usize>),
    /// If the image is lawful.
    UnlessReported(Option<usize>),
    /// The whole URL matters.
    #[default]
    No,
}

/// What is known of all of a host's URLs. A body has many URLs on few hosts.
#[derive(Default)]
struct Host {
    /// As it stands in the body.
    seen: Vec<u8>,
    /// In lower case.
    name: Vec<u8>,
    /// The place of the rule that concerns it, and what the rule does.
    rule: Option<(usize, Fate)>,
    /// Whether that rule signs.
    signed: bool,
    /// The hashes of the hosts under which its images may have been reported.
    reported: Vec<u64>,
    by_host: ByHost,
}

impl Host {
    /// Learns of another host, in the memory of the one that was known.
    ///
    /// # Errors
    /// What must be known of the reports first: it counts as one without any until then, and is not remembered.
    fn learn(&mut self, seen: &[u8], rules: &Rules, fates: &[Fate], unlawful: &Unlawful) -> Result<(), Lack> {
        let Self { seen: kept, name, reported, .. } = self;
        kept.clear();
        kept.extend_from_slice(seen);
        name.clear();
        name.extend(seen.iter().map(u8::to_ascii_lowercase));
        let mut claims = Vec::new();
        rules.claims(name, |place| claims.push(place));
        let fate = |place: &usize| fates.get(*place).copied().filter(|fate| *fate != Fate::Out);
        let rule = claims.iter().find_map(|place| Some((*place, fate(place)?)));
        let to_hash = |place: &usize| rules.rules.get(*place).map(|rule| rule.to_hash);
        reported.clear();
        let mut known = Ok(());
        if !unlawful.is_empty() {
            reported.extend(std::iter::once(hash(name)).chain(claims.iter().filter_map(to_hash)));
            reported.retain(|host| {
                unlawful.has_host(*host).unwrap_or_else(|lack| {
                    known = Err(lack);
                    false
                })
            });
        }
        if known.is_err() {
            kept.clear();
        }
        self.signed = rule.and_then(|(place, _)| rules.rules.get(place)).is_some_and(|rule| rule.sign.is_some());
        self.rule = rule;
        self.by_host = self.by_host();
        known
    }

    /// What becomes of its URLs, as far as the host tells.
    fn by_host(&self) -> ByHost {
        let by_url = self.rule.is_some_and(|(_, fate)| fate != Fate::In);
        let rule = self.rule.map(|(place, _)| place);
        match self.reported.is_empty() {
            _ if by_url || self.signed => ByHost::No,
            true => ByHost::Settled(rule),
            false => ByHost::UnlessReported(rule),
        }
    }
}

/// Memory that is used for one URL after another.
#[derive(Default)]
struct Scratch {
    path: Vec<u8>,
    query: Vec<u8>,
    key: Vec<u8>,
}

/// Not yet decidable: more bytes must come.
struct More;

/// Where a URL begins, up to its host.
struct Head {
    /// The scheme, or the first slash if it has none.
    start: usize,
    /// How long the scheme's name is; 0 for none.
    scheme: usize,
    style: Style,
    host: usize,
}

/// A URL that may concern us.
struct Found {
    head: Head,
    /// Where it is plain to see.
    authority: Option<Authority>,
    /// Where to look on if it does not.
    next: usize,
}

/// A URL's host and port.
#[derive(Clone, Copy)]
struct Authority {
    host_end: usize,
    /// Behind what a rule replaces: the host, and its port if it has one.
    replaced_end: usize,
    /// Behind all of it, a last dot and an empty port too.
    end: usize,
}

/// What follows the authority.
#[derive(Clone, Copy)]
struct Rest {
    end: usize,
    /// Where reading has ended: behind a sentence's marks, too.
    stop: usize,
    /// Where a query's end is.
    insert: usize,
    query: Option<usize>,
    ampersand: Ampersand,
    /// Whether it was read to its end.
    is_whole: bool,
}

/// Of a URL, what the reading of its rest needs to know.
#[derive(Clone, Copy)]
struct Unread {
    authority: Authority,
    depth: usize,
    ampersand: Ampersand,
    /// Whether `&` ends it.
    is_value: bool,
    /// So many letters of its path do not end it.
    through: usize,
}

/// What a URL becomes.
enum Verdict {
    Leave,
    Rewrite { rule: usize, inserts: Vec<Insert> },
    Remove { end: usize },
}

/// Text that comes into the body at a place, instead of what stands there.
#[derive(Clone)]
struct Insert {
    at: usize,
    /// Where that ends: at the place itself, if nothing goes.
    until: usize,
    text: Vec<u8>,
}

/// A piece of a body, and what it becomes.
struct Edit<'a> {
    input: &'a [u8],
    out: Vec<u8>,
    /// How far the input has been dealt with.
    copied: usize,
    /// The nearest last.
    inserts: Vec<Insert>,
}

/// How far a piece is edited.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Where to look for the next URL.
    from: usize,
    /// Nothing before it can begin a URL any more.
    settled: usize,
}

/// All that editing changes, at one place of a piece.
struct Checkpoint {
    progress: Progress,
    out: usize,
    copied: usize,
    inserts: Vec<Insert>,
    read: Read,
    counts: Counts,
}

impl Edit<'_> {
    fn is_unchanged(&self) -> bool {
        self.copied == 0 && self.inserts.is_empty()
    }

    /// Copies the input up to `end`, with what was to be inserted there.
    fn copy_to(&mut self, end: usize) {
        if self.out.capacity() == 0 {
            self.out.reserve(self.input.len() + self.input.len() / 8 + 256);
        }
        while let Some(insert) = self.inserts.pop_if(|insert| insert.at <= end) {
            append(&mut self.out, self.input.get(self.copied..insert.at).unwrap_or_default());
            self.out.extend_from_slice(&insert.text);
            // Never back: what was replaced may have reached beyond.
            self.copied = self.copied.max(insert.until);
        }
        append(&mut self.out, self.input.get(self.copied..end).unwrap_or_default());
        self.copied = self.copied.max(end);
    }

    /// The input up to where the next text comes in behind a place.
    fn until_insert(&self, at: usize) -> Option<&[u8]> {
        let next = self.inserts.iter().rfind(|insert| insert.at > at && insert.until == insert.at)?;
        self.input.get(..next.at)
    }

    /// Whether what stands at a place goes.
    fn drops(&self, at: usize) -> bool {
        at < self.copied || self.inserts.iter().any(|insert| (insert.at..insert.until).contains(&at))
    }

    /// Passes over the input up to `end`.
    fn skip_to(&mut self, end: usize) {
        self.copied = end;
    }
}

impl Rewriter {
    /// For one body. `finder` is of these rules and reports; without it every URL is looked at.
    pub(crate) fn new(
        rules: Arc<Rules>,
        unlawful: Arc<Unlawful>,
        finder: Arc<Option<Finder>>,
        caller: &Caller,
        now_s: i64,
    ) -> Self {
        let fates = rules.fates(caller);
        let counts = Counts { rewritten: vec![0; fates.len()], ..Counts::default() };
        Self {
            rules,
            unlawful,
            finder,
            fates,
            media: Media::Other,
            now_s,
            held: Vec::new(),
            context: Vec::new(),
            inserts: Vec::new(),
            dropped: 0,
            counts,
            hosts: Vec::new(),
            trust: Trust::default(),
            read: Read::default(),
            scratch: Scratch::default(),
        }
    }

    /// For a body of this type.
    pub(crate) fn of(self, media: Media) -> Self {
        Self { media, ..self }
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Forgets what it has read of the reports.
    #[cfg(test)]
    pub(crate) fn forget(&mut self, unlawful: Arc<Unlawful>) {
        self.unlawful = unlawful;
    }

    /// How many bytes it holds back, and what is to be inserted into them.
    #[cfg(test)]
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.held.len(), self.inserts.len())
    }

    /// A whole body at once.
    pub(crate) fn whole(mut self, body: Bytes) -> Result<(Bytes, Counts), Lack> {
        let out = self.push(body, true)?;
        Ok((out, self.counts))
    }

    /// Takes the body's next piece, of which `last` says that no other comes, and gives out what is decided.
    ///
    /// # Errors
    /// What must be known of the reports first: the piece was taken, and waits for the next call.
    pub(crate) fn push(&mut self, piece: Bytes, last: bool) -> Result<Bytes, Lack> {
        self.counts.bytes += piece.len() as u64;
        let input = if self.held.is_empty() {
            piece
        } else {
            let mut joined = Vec::with_capacity(self.held.len() + piece.len());
            joined.append(&mut self.held);
            joined.extend_from_slice(&piece);
            joined.into()
        };
        self.read.base = self.counts.bytes - input.len() as u64;
        let (copied, inserts) = (std::mem::take(&mut self.dropped), std::mem::take(&mut self.inserts));
        let mut edit = Edit { input: &input, out: Vec::new(), copied, inserts };
        let before = self.checkpoint(&edit, Progress::default());
        let hold = match self.edit(&mut edit, last) {
            Ok(hold) => hold,
            Err(lack) => {
                self.restore(before, &mut edit);
                (self.dropped, self.inserts) = (edit.copied, edit.inserts);
                self.held = input.into();
                return Err(lack);
            }
        };
        let out = if edit.is_unchanged() {
            input.slice(..hold)
        } else {
            edit.copy_to(hold);
            for insert in &mut edit.inserts {
                insert.at = insert.at.saturating_sub(hold);
                insert.until = insert.until.saturating_sub(hold);
            }
            self.dropped = edit.copied.saturating_sub(hold);
            self.inserts = edit.inserts;
            edit.out.into()
        };
        self.remember(input.get(..hold).unwrap_or_default());
        self.held.extend_from_slice(input.get(hold..).unwrap_or_default());
        Ok(out)
    }

    /// Edits what is decided, and tells where that ends.
    fn edit(&mut self, edit: &mut Edit<'_>, last: bool) -> Result<usize, Lack> {
        let mut progress = Progress::default();
        self.trust.from = 0;
        loop {
            let before = self.checkpoint(edit, progress);
            let hold = self.edit_part(edit, &mut progress, last);
            let was_deceived = self.trust.is_deceived(&self.unlawful);
            if let Some(lack) = self.trust.lack.take() {
                return Err(lack);
            }
            if was_deceived {
                self.trust.from = progress.from;
                progress = self.restore(before, edit);
                continue;
            }
            if let Some(hold) = hold {
                return Ok(hold);
            }
            // Where some were, there may be more.
            if !self.trust.on && self.counts.removed > before.counts.removed + 1 {
                self.trust.from = progress.from + (progress.from - before.progress.from);
            }
        }
    }

    fn checkpoint(&self, edit: &Edit<'_>, progress: Progress) -> Checkpoint {
        Checkpoint {
            progress,
            out: edit.out.len(),
            copied: edit.copied,
            inserts: edit.inserts.clone(),
            read: self.read,
            counts: self.counts.clone(),
        }
    }

    fn restore(&mut self, to: Checkpoint, edit: &mut Edit<'_>) -> Progress {
        edit.out.truncate(to.out);
        (edit.copied, edit.inserts) = (to.copied, to.inserts);
        (self.read, self.counts) = (to.read, to.counts);
        to.progress
    }

    /// Edits on until enough images are trusted, or enough are not; tells where that ends which is decided, once it knows.
    fn edit_part(&mut self, edit: &mut Edit<'_>, progress: &mut Progress, last: bool) -> Option<usize> {
        let input = edit.input;
        let Progress { from, settled } = progress;
        let has_reports = !self.unlawful.is_empty();
        self.trust.on = has_reports && *from >= self.trust.from;
        loop {
            let is_enough =
                if self.trust.on { self.trust.fingerprints.len() >= TRUSTED } else { *from >= self.trust.from };
            if has_reports && is_enough {
                return None;
            }
            let Some(Found { head, authority: plain, next }) = self.next_head(input, *from) else { break };
            *from = next;
            // The scheme went with the URL before, or is a part of its host.
            if head.start < *settled || edit.drops(head.start) {
                continue;
            }
            // What comes into a URL around it ends it, as it will when it is seen again.
            let (seen, last) = edit.until_insert(head.start).map_or((input, last), |seen| (seen, true));
            let authority = match plain {
                Some(plain) if edit.inserts.is_empty() => plain,
                _ => match authority(seen, &head, last) {
                    Ok(Some(authority)) => authority,
                    Ok(None) => continue,
                    Err(More) => return Some(head.start),
                },
            };
            let Ok(verdict) = self.judge(seen, &head, authority, last) else { return Some(head.start) };
            match verdict {
                // What looks like its host may be the scheme of another.
                Verdict::Leave => {}
                Verdict::Remove { end } => {
                    edit.copy_to(head.start);
                    let style = head.style;
                    style.write(self.rules.placeholder.as_bytes(), style.ampersand(), &mut edit.out);
                    edit.skip_to(end);
                    self.counts.removed += 1;
                    (*from, *settled) = (end, end);
                }
                Verdict::Rewrite { rule: place, inserts } => {
                    let Some(rule) = self.rules.rules.get(place) else { continue };
                    (*from, *settled) = (authority.end, authority.end);
                    let name = input.get(head.start..head.start + head.scheme).unwrap_or_default();
                    if let Some(scheme) = rule.scheme.filter(|scheme| !name.is_empty() && scheme.as_bytes() != name) {
                        edit.copy_to(head.start);
                        edit.out.extend_from_slice(scheme.as_bytes());
                        edit.skip_to(head.start + head.scheme);
                    }
                    edit.copy_to(head.host);
                    if rule.is_plain {
                        append(&mut edit.out, rule.to.as_bytes());
                    } else {
                        head.style.write(rule.to.as_bytes(), Ampersand::Raw, &mut edit.out);
                    }
                    edit.skip_to(authority.replaced_end);
                    if !inserts.is_empty() {
                        edit.inserts.extend(inserts);
                        // A URL may end behind one that it stands in. Of two at one place the inner one comes first.
                        edit.inserts.sort_by_key(|insert| Reverse(insert.at));
                    }
                    if let Some(count) = self.counts.rewritten.get_mut(place) {
                        *count += 1;
                    }
                }
            }
        }
        Some(match last {
            true => input.len(),
            // A host may go on in the next piece.
            false => match self.last_head(input, *settled) {
                Some(head) => head.start,
                None => unfinished(input, *settled),
            },
        })
    }

    /// The next URL that may concern us.
    fn next_head(&self, input: &[u8], mut from: usize) -> Option<Found> {
        let Some(finder) = self.finder.as_ref() else {
            loop {
                let found = scan::next(input, from)?;
                from = found + 1;
                let is_entity = matches!(input.get(found..from + 1), Some([b'F' | b'f', b';']));
                if let Some(head) = self.head(input, if is_entity { from + 1 } else { from }) {
                    return Some(Found { head, authority: None, next: from });
                }
            }
        };
        loop {
            let found = finder.next(input, from)?;
            let (begin, end) = host_around(input, found);
            // On from the run's end: a host is a whole run of a host's characters.
            from = end.max(found + 1);
            // As most begin: what `head` asks first, without a call.
            if let Some(head) = plain_head(input, begin) {
                return Some(Found { head, authority: plain_authority(input, begin, end), next: from });
            }
            if let Some(head) = self.head(input, begin) {
                return Some(Found { head, authority: None, next: from });
            }
        }
    }

    /// The URL whose host is cut off by the input's end.
    fn last_head(&self, input: &[u8], settled: usize) -> Option<Head> {
        let (begin, _) = host_around(input, input.len());
        let head = if begin < input.len() { self.head(input, begin)? } else { return None };
        (head.start >= settled).then_some(head)
    }

    /// The URL whose host begins at `host`.
    fn head(&self, input: &[u8], host: usize) -> Option<Head> {
        if let Some(head) = plain_head(input, host) {
            return Some(head);
        }
        let (style, second) = slash_before(input, host)?;
        let (other, first) = slash_before(input, second)?;
        if !other.matches(style) {
            return None;
        }
        if let Some(colon) = colon_before(input, first) {
            let before = input.get(..colon)?;
            // Setting this bit makes a letter lower case, and nothing else a letter of these.
            let is_https = before.last_chunk().is_some_and(|name: &[u8; 5]| name.map(|byte| byte | 0x20) == *b"https");
            let is_http = before.last_chunk().is_some_and(|name: &[u8; 4]| name.map(|byte| byte | 0x20) == *b"http");
            let scheme = match (is_https, is_http) {
                (true, _) => 5,
                (_, true) => 4,
                _ => return None,
            };
            let start = colon - scheme;
            let style = match input.get(colon..first) {
                Some(b"%3A") if style == Style::Plain => Style::Quoted(true),
                Some(b"%3a") if style == Style::Plain => Style::Quoted(false),
                _ => style,
            };
            return Some(Head { start, scheme, style, host });
        }
        self.may_begin(input, first, style).then_some(Head { start: first, scheme: 0, style, host })
    }

    /// Whether a URL without a scheme may begin at `start`, and is not a part of another URL.
    fn may_begin(&self, input: &[u8], start: usize, style: Style) -> bool {
        let before = Before { context: &self.context, input, at: start };
        match before.character(0, style.depth()) {
            None => true,
            Some((b'=', size)) if size == 1 || style.depth() == 0 => {
                before.is_attribute(size, style.depth(), self.media)
            }
            Some((byte, _)) => is_left_of_url(byte),
        }
    }

    /// Whether a URL is the value of a parameter, as it is, in another URL's query or in a form: there `&` ends it.
    fn is_value(&self, input: &[u8], head: &Head) -> bool {
        let before = Before { context: &self.context, input, at: head.start };
        match before.character(0, 0) {
            Some((b'=', size)) if head.style.depth() == 0 => self.media == Media::Form || before.is_parameter(size),
            _ => false,
        }
    }

    /// How `&` is written in a URL that shows no way of its own.
    fn ampersand(&self, input: &[u8], head: &Head) -> Ampersand {
        let is_xml = self.media == Media::Xml && matches!(head.style, Style::Plain | Style::Backslash(_));
        let before = Before { context: &self.context, input, at: head.start };
        if is_xml && !before.is(b"<![CDATA[") { Ampersand::Entity } else { head.style.ampersand() }
    }

    /// The place among the remembered hosts of the one that a URL has.
    fn known(&mut self, seen: &[u8]) -> usize {
        self.hosts.resize_with(HOSTS, Host::default);
        let first = spread(seen) as usize % HOSTS;
        let found = (first..first + NEIGHBOURS).map(|place| place % HOSTS).find_map(|place| {
            let host = self.hosts.get(place)?;
            let is_known = equal(&host.seen, seen);
            (is_known || host.seen.is_empty()).then_some((place, is_known))
        });
        // Where others are in the way, the first of them goes.
        let (place, is_known) = found.unwrap_or((first, false));
        if let Some(host) = self.hosts.get_mut(place).filter(|_| !is_known)
            && let Err(lack) = host.learn(seen, &self.rules, &self.fates, &self.unlawful)
        {
            self.trust.lack = Some(lack);
        }
        place
    }

    /// What becomes of a URL.
    fn judge(&mut self, input: &[u8], head: &Head, authority: Authority, last: bool) -> Result<Verdict, More> {
        let seen = input.get(head.host..authority.host_end).unwrap_or_default();
        let place = self.known(seen);
        let by_rule =
            |rule: Option<usize>| rule.map_or(Verdict::Leave, |rule| Verdict::Rewrite { rule, inserts: Vec::new() });
        let by_host = self.hosts.get(place).map_or(ByHost::No, |host| host.by_host);
        if let ByHost::Settled(rule) = by_host {
            return Ok(by_rule(rule));
        }
        let plain = if self.read.may_read(head.start) { plain_path(input, authority, head.style) } else { None };
        if let (ByHost::UnlessReported(rule), Some(end), true) = (by_host, plain, self.trust.on) {
            self.read.note(head.start, end);
            let path = input.get(authority.end..end).unwrap_or_default();
            self.trust.fingerprints.push(fingerprint(path));
            return Ok(by_rule(rule));
        }
        let before = self.read;
        // What is not decided yet is read again.
        self.judge_by_path(input, head, authority, last, (place, plain)).inspect_err(|More| self.read = before)
    }

    /// What becomes of a URL of which the host alone does not tell. On its own, so that the common way stays short.
    #[inline(never)]
    fn judge_by_path(
        &mut self,
        input: &[u8],
        head: &Head,
        authority: Authority,
        last: bool,
        (place, plain): (usize, Option<usize>),
    ) -> Result<Verdict, More> {
        let signed = self.hosts.get(place).is_some_and(|host| host.signed);
        let is_value = (plain.is_none() || signed) && self.is_value(input, head);
        let ampersand = if is_value { Ampersand::Percent } else { self.ampersand(input, head) };
        let Self { rules, unlawful, hosts, scratch, now_s, read, trust, context, media, .. } = self;
        let Scratch { path, query, key } = scratch;
        let Some(Host { name: host, rule, reported, .. }) = hosts.get(place) else { return Ok(Verdict::Leave) };
        let by_url = rule.is_some_and(|(_, fate)| fate != Fate::In);
        let style = head.style;
        let unread = Unread { authority, depth: style.depth(), ampersand, is_value, through: 0 };
        let found = match plain {
            Some(end) => Some(Rest { end, stop: end, insert: end, query: None, ampersand, is_whole: true }),
            None if read.may_read(head.start) => Some(rest(input, unread, last, path, query, &mut |_, _| {})?),
            None => None,
        };
        if let Some(rest) = &found {
            read.note(head.start, rest.stop);
        }
        let (path, query): (&[u8], &[u8]) = match plain {
            Some(end) => (input.get(authority.end..end).unwrap_or_default(), &[]),
            None => (path, query),
        };
        let Some(rest) = found.filter(|rest| rest.is_whole) else {
            // Too long to be looked at: without what it needs to work, it had better stay. A query does not hide an image.
            return Ok(match (found.and_then(|rest| rest.query), rule) {
                (Some(end), _) if trust.settle(unlawful.holds(reported, path, b"", key)) => Verdict::Remove { end },
                (_, Some((rule, _))) if !by_url && !signed => Verdict::Rewrite { rule: *rule, inserts: Vec::new() },
                _ => Verdict::Leave,
            });
        };
        let before = Before { context, input, at: head.start };
        if plain.is_none()
            && rest.query.is_none()
            && !reported.is_empty()
            && letter(input, rest.stop, style.depth(), last).ok_or(More)?.is_some()
            // A letter ends a URL around it, too, and may keep that from being signed: it stays.
            && before.ends_url(style.depth(), *media)
            && trust.settle(unlawful.has_beginning(reported, path, key))
        {
            let holds = |text: &[u8]| trust.settle(unlawful.has(reported, text));
            if let Some(end) = end_with_letters(input, unread, last, holds)? {
                return Ok(Verdict::Remove { end });
            }
        }
        let is_unlawful = match plain {
            _ if reported.is_empty() => Ok(false),
            Some(_) => unlawful.has(reported, path),
            None => unlawful.holds(reported, path, query, key),
        };
        if trust.settle(is_unlawful) {
            return Ok(Verdict::Remove { end: rest.end });
        }
        let rule = rule.and_then(|(place, fate)| Some((place, rules.rules.get(place)?, fate)));
        let Some((place, rule, fate)) = rule else { return Ok(Verdict::Leave) };
        if !by_url && !signed {
            return Ok(Verdict::Rewrite { rule: place, inserts: Vec::new() });
        }
        // What a URL in it becomes, or the signature of one around it, must not decide.
        let behind = input.get(rest.end..).unwrap_or_default();
        let inner = if plain.is_none() { nested(path).or_else(|| scheme_at_end(path, behind)) } else { None };
        if let Fate::ByUrl(percent) = fate
            && !falls_within(percent, &rule.name, host, own_path(path, inner))
        {
            return Ok(Verdict::Leave);
        }
        if signed && inner.is_some() {
            return Ok(Verdict::Leave);
        }
        if signed && may_go_on(input, &rest, path, style.depth(), last)? {
            return Ok(Verdict::Leave);
        }
        let mut inserts = Vec::new();
        if let Some(signer) = &rule.sign {
            let from = rest.query.filter(|_| !query.is_empty()).unwrap_or(rest.insert);
            let old = parameters(input, from, rest.insert, head.style.depth(), signer.names());
            let is_last_old = old.last().is_some_and(|old| old.end == rest.insert);
            inserts.extend(old.into_iter().map(|old| Insert { at: old.start, until: old.end, text: Vec::new() }));
            let parameters = signer.parameters(path, *now_s);
            let mut text = Vec::with_capacity(parameters.len() + 16);
            let joint: &[u8] = match rest.query {
                None => b"?",
                Some(_) if query.is_empty() || query.ends_with(b"&") || is_last_old => b"",
                Some(_) => b"&",
            };
            head.style.write(joint, rest.ampersand, &mut text);
            head.style.write(parameters.as_bytes(), rest.ampersand, &mut text);
            inserts.push(Insert { at: rest.insert, until: rest.insert, text });
        }
        Ok(Verdict::Rewrite { rule: place, inserts })
    }

    /// Keeps the last of what is decided, as the context of what comes.
    fn remember(&mut self, decided: &[u8]) {
        let keep = CONTEXT.saturating_sub(decided.len()).min(self.context.len());
        self.context.drain(..self.context.len() - keep);
        self.context.extend_from_slice(decided.get(decided.len().saturating_sub(CONTEXT)..).unwrap_or_default());
    }
}

/// The URL whose host begins at `host`, if it begins as most do: `https://` as it is.
fn plain_head(input: &[u8], host: usize) -> Option<Head> {
    let before: &[u8; 8] = input.get(..host)?.last_chunk()?;
    let is_https = before == b"https://";
    if !is_https && before.last_chunk() != Some(b"http://") {
        return None;
    }
    let scheme = if is_https { 5 } else { 4 };
    Some(Head { start: host - scheme - 3, scheme, style: Style::Plain, host })
}

/// Whether a URL, where there is no user to decide by, falls within a percentage of them.
pub(crate) fn falls_within(percent: Percent, rule: &str, host: &[u8], path: &[u8]) -> bool {
    let url = [host, path].concat();
    percent.holds(bucket(rule, &String::from_utf8_lossy(&url)))
}

/// Where another URL begins in a URL's path.
fn nested(path: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = scan::next(path, from) {
        from = found + 1;
        let Some((style, second)) = slash_before(path, from) else { continue };
        let Some((_, first)) = slash_before(path, second).filter(|(other, _)| other.matches(style)) else { continue };
        if let Some(colon) = colon_before(path, first) {
            match before_scheme(path.get(..colon).unwrap_or_default()) {
                None => continue,
                found => return found,
            }
        }
        let before = Before { context: &[], input: path, at: first }.character(0, style.depth());
        if before.is_some_and(|(byte, _)| is_left_of_url(byte)) {
            return Some(first);
        }
    }
    None
}

/// A path as far as it is a URL's own: up to another URL or an `&`.
fn own_path(path: &[u8], nested: Option<usize>) -> &[u8] {
    let path = nested.and_then(|at| path.get(..at)).unwrap_or(path);
    let ends = [&b"&"[..], b"%26", b"%2526"].map(|end| memchr::memmem::find(path, end));
    ends.into_iter().flatten().min().and_then(|at| path.get(..at)).unwrap_or(path)
}

/// Where the scheme of another URL begins whose slashes, in another escaping, are behind a URL that ends with its path.
fn scheme_at_end(path: &[u8], behind: &[u8]) -> Option<usize> {
    let is_slash = matches!(behind.strip_prefix(b":").unwrap_or(behind), [b'/' | b'\\' | b'&' | b'%', ..]);
    let bare = colon_before(path, path.len()).and_then(|colon| path.get(..colon)).unwrap_or(path);
    if is_slash { before_scheme(bare) } else { None }
}

/// Where the scheme begins that the bytes end with.
fn before_scheme(bytes: &[u8]) -> Option<usize> {
    let ends = |scheme: &[u8]| {
        let start = bytes.len().checked_sub(scheme.len())?;
        bytes.get(start..)?.eq_ignore_ascii_case(scheme).then_some(start)
    };
    ends(b"https").or_else(|| ends(b"http"))
}

/// The parameters of these names in the query from its `?` to `end`, as they stand in the body, each with the `&` behind.
fn parameters(input: &[u8], from: usize, end: usize, depth: usize, names: &[&[u8]]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut at, mut start, mut name, mut is_name) = (from, from, Vec::new(), true);
    while at < end {
        let Token::Char(byte, size) = token(input, at, depth, true) else { break };
        match byte {
            b'?' if at == from => start = at + size,
            b'&' => {
                if names.contains(&name.as_slice()) {
                    found.push(start..at + size);
                }
                (start, is_name) = (at + size, true);
                name.clear();
            }
            b'=' => is_name = false,
            _ if is_name => name.push(byte),
            _ => {}
        }
        at += size;
    }
    if names.contains(&name.as_slice()) {
        found.push(start..end);
    }
    found
}

/// What stands before a place, in the input and in what came before it.
struct Before<'a> {
    context: &'a [u8],
    input: &'a [u8],
    at: usize,
}

impl Before<'_> {
    /// The byte so many places before, counted from 1.
    fn byte(&self, places: usize) -> Option<u8> {
        match self.at.checked_sub(places) {
            Some(at) => self.input.get(at).copied(),
            None => self.context.len().checked_sub(places - self.at).and_then(|at| self.context.get(at).copied()),
        }
    }

    fn is(&self, text: &[u8]) -> bool {
        text.iter().rev().enumerate().all(|(place, byte)| self.byte(1 + place) == Some(*byte))
    }

    /// The character that ends so many bytes before, its escaping undone, and its length. Percent-encoding is undone at
    /// the URL's own depth. What is beyond ASCII is [`BEYOND`].
    fn character(&self, skip: usize, depth: usize) -> Option<(u8, usize)> {
        let last = self.byte(skip + 1)?;
        let percent = if depth > 0 { self.number(skip, percent_sign(depth), 2) } else { None };
        let number = percent.or_else(|| self.number(skip, b"\\u", 4));
        Some(number.unwrap_or_else(|| match last {
            b';' => self.reference(skip).unwrap_or((last, 1)),
            b'n' | b'r' | b't' if self.byte(skip + 2) == Some(b'\\') => (b'\n', 2),
            _ => (last, 1),
        }))
    }

    /// An escape of so many hexadecimal digits.
    fn number(&self, skip: usize, escape: &[u8], digits: usize) -> Option<(u8, usize)> {
        let digit = |place: usize| self.byte(skip + place).and_then(|byte| char::from(byte).to_digit(16));
        let value = (1..=digits).rev().try_fold(0, |value, place| Some(value * 16 + digit(place)?))?;
        let is_escape =
            escape.iter().rev().enumerate().all(|(place, byte)| self.byte(skip + digits + 1 + place) == Some(*byte));
        is_escape.then(|| (u8::try_from(value).unwrap_or(BEYOND), digits + escape.len()))
    }

    /// A character reference such as `&#39;`.
    fn reference(&self, skip: usize) -> Option<(u8, usize)> {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'#';
        let inner = (2..REFERENCE_MAX).take_while(|place| self.byte(skip + place).is_some_and(is_inner)).count();
        let length = inner + 2;
        let text: Vec<u8> = (1..=length).rev().filter_map(|place| self.byte(skip + place)).collect();
        match (token(&text, 0, 0, true), text.as_slice()) {
            (Token::Char(byte, size), _) if size == length => Some((byte, length)),
            (Token::End, b"&quot;" | b"&apos;") => Some((b'"', length)),
            (Token::End, [b'&', ..]) => Some((BEYOND, length)),
            _ => None,
        }
    }

    /// Whether no URL goes on from there to what stands behind.
    fn ends_url(&self, depth: usize, media: Media) -> bool {
        match self.character(0, depth) {
            None | Some((b',' | b';', 1)) => true,
            Some((b'=', size)) => self.is_attribute(size, depth, media),
            Some((byte, _)) => is_left_of_url(byte) && !is_url(byte),
        }
    }

    /// Whether the `=` of so many bytes before follows the name of a query's parameter.
    fn is_parameter(&self, equals: usize) -> bool {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:.[]%".contains(&byte);
        let length = (1..=NAME_MAX).take_while(|place| self.byte(equals + place).is_some_and(is_name)).count();
        length > 0 && matches!(self.character(equals + length, 0), Some((b'?' | b'&', _)))
    }

    /// Whether the `=` of so many bytes before follows the name of an HTML attribute, or of a form's field.
    fn is_attribute(&self, equals: usize, depth: usize, media: Media) -> bool {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'.');
        let length = (1..=NAME_MAX).take_while(|place| self.byte(equals + place).is_some_and(is_name)).count();
        match self.character(equals + length, depth) {
            None => true,
            Some(_) if length == 0 => false,
            // The letter of an escaped line feed was taken for the name's.
            Some((b'\\', 1)) => length > 1 && matches!(self.byte(equals + length), Some(b'n' | b'r' | b't')),
            Some((b'&', _)) => media == Media::Form,
            Some((byte, _)) => byte.is_ascii_whitespace() || (depth == 0 && b"\"'".contains(&byte)),
        }
    }
}

/// Stands for all characters beyond ASCII.
const BEYOND: u8 = u8::MAX;

/// The run of a host's characters around a place; what ends an escape right before it is none of them.
fn host_around(input: &[u8], at: usize) -> (usize, usize) {
    let (before, behind) = input.split_at_checked(at).unwrap_or((input, &[]));
    let left = host_run_back(before, HOST_MAX + 8);
    let right = host_run(behind, HOST_MAX + 8);
    let begin = at - left;
    let escape = match (before.get(..begin).and_then(<[u8]>::last), input.get(begin..).unwrap_or_default()) {
        (Some(b'%'), [b'2', b'5', b'2', b'F' | b'f', ..]) => 4,
        (Some(b'%'), [b'2', b'F' | b'f', ..]) => 2,
        (Some(b'\\'), [b'u', b'0', b'0', b'2', b'F' | b'f', ..]) => 5,
        _ => 0,
    };
    (begin + escape, at + right)
}

/// What a URL without a scheme may follow: nothing that a URL's own path or query holds.
pub(crate) const fn is_left_of_url(byte: u8) -> bool {
    byte <= b' '
        || byte >= 127
        || matches!(byte, b'"' | b'\'' | b'`' | b'(' | b'<' | b'>' | b',' | b'[' | b'{' | b'|' | b';')
}

const fn is_subdelimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b'~')
}

/// The URL's host, if it is this run of a host's characters and ends as most do: at the path.
fn plain_authority(input: &[u8], begin: usize, end: usize) -> Option<Authority> {
    let is_plain = (1..=HOST_MAX).contains(&(end - begin))
        && matches!(input.get(end - 1..=end), Some([last, b'/']) if *last != b'.');
    is_plain.then_some(Authority { host_end: end, replaced_end: end, end })
}

/// The URL's host and port; `None` if it has no host, or one that goes on in a way that no host does.
fn authority(input: &[u8], head: &Head, last: bool) -> Result<Option<Authority>, More> {
    let rest = input.get(head.host..).unwrap_or_default();
    let length = host_run(rest, HOST_MAX + 2);
    if length == rest.len() && !last && length <= HOST_MAX + 1 {
        return Err(More);
    }
    let host = rest.get(..length).unwrap_or_default();
    // `a.example.` is `a.example`; the dot stays where it is.
    let dots = usize::from(host.ends_with(b"."));
    if length == dots || length > HOST_MAX + dots {
        return Ok(None);
    }
    let mut end = head.host + length;
    // As most hosts end.
    let depth = head.style.depth();
    if let Some(plain) = plain_authority(input, head.host, end).filter(|_| depth == 0) {
        return Ok(Some(plain));
    }
    let mut behind = token(input, end, depth, last);
    let host_end = end - dots;
    // At the end of a sentence the dot is the sentence's.
    let mut replaced_end = host_end;
    if let Token::Char(b':', size) = behind {
        let digits =
            input.get(end + size..).unwrap_or_default().iter().take(6).take_while(|byte| byte.is_ascii_digit());
        let digits = digits.count();
        let after = end + size + digits;
        if digits == 6 {
            return Ok(None);
        }
        behind = token(input, after, depth, last);
        if digits > 0 {
            replaced_end = after;
        }
        end = after;
    }
    let ends = match behind {
        Token::More => return Err(More),
        Token::End => !is_more_host(input, end, depth, end == head.host + length),
        Token::Char(b'/' | b'?' | b'#', _) => {
            replaced_end = end;
            true
        }
        Token::Char(byte, _) if is_host(byte) || matches!(byte, b'@' | b'%' | b':') => false,
        Token::Char(byte, _) if is_subdelimiter(byte) => !is_user(input, end, depth, last)?,
        Token::Char(..) => true,
    };
    if !ends {
        return Ok(None);
    }
    Ok(Some(Authority { host_end, replaced_end, end }))
}

/// Whether what is no URL's character is one of a host all the same: an escaped one beyond ASCII. Behind a port it is not.
fn is_more_host(input: &[u8], at: usize, depth: usize, is_behind_host: bool) -> bool {
    match depth {
        0 => is_behind_host && is_beyond(input, at),
        _ => input.get(at..).is_some_and(|rest| rest.starts_with(percent_sign(depth))),
    }
}

/// Whether the host is the beginning of a user's name: an `@` comes before anything that a name cannot hold.
fn is_user(input: &[u8], from: usize, depth: usize, last: bool) -> Result<bool, More> {
    let mut at = from;
    while at - from < USER_MAX {
        match token(input, at, depth, last) {
            Token::More => return Err(More),
            Token::Char(b'@', _) => return Ok(true),
            Token::Char(byte, size)
                if byte.is_ascii_alphanumeric()
                    || is_subdelimiter(byte)
                    || matches!(byte, b'-' | b'.' | b'_' | b':' | b'%') =>
            {
                at += size;
            }
            Token::Char(..) | Token::End => return Ok(false),
        }
    }
    Ok(true)
}

/// The bytes that end a URL whatever follows, a bit each: in Spin's engine a choice among them is a jump.
const ENDS_PLAIN: u64 = {
    let (mut bits, mut bytes): (u64, &[u8]) = (0, b"\"' \n<>");
    while let [byte, rest @ ..] = bytes {
        bits |= 1 << *byte;
        bytes = rest;
    }
    bits
};

/// Where a path ends that is written as it is and that nothing but a quote, a space or a tag ends: what most are.
fn plain_path(input: &[u8], authority: Authority, style: Style) -> Option<usize> {
    let rest = input.get(authority.end..)?;
    let length = if style == Style::Plain && rest.starts_with(b"/") { path_run(rest, URL_MAX)? } else { return None };
    let is_mark = rest.get(length - 1) == Some(&b'.');
    let ends = rest.get(length).is_some_and(|byte| *byte < 64 && ENDS_PLAIN >> byte & 1 == 1);
    (ends && !is_mark).then_some(authority.end + length)
}

/// So many letters are read through, at most, where an image begins like that, and none so many bytes behind the first.
pub(crate) const LETTERS_MAX: usize = 64;
pub(crate) const LETTERS_SPAN: usize = 1_024;

/// Where a URL ends that is read on through letters of its path, if it is unlawful then; of several ends, the last.
fn end_with_letters(
    input: &[u8],
    unread: Unread,
    last: bool,
    mut holds: impl FnMut(&[u8]) -> bool,
) -> Result<Option<usize>, More> {
    let unread = Unread { through: LETTERS_MAX, ..unread };
    let (mut path, mut query, mut text) = (Vec::new(), Vec::new(), Vec::new());
    let (mut undone, mut end) = (0, None);
    // A letter is no part of an escape: what is undone up to one stays so.
    let mut ask = |path: &[u8], query: &[u8], at: usize| {
        unescape(path.get(undone..).unwrap_or_default(), &mut text);
        undone = path.len();
        let length = text.len();
        let is_unlawful = holds(&text) || (write_query(query, &mut text) && holds(&text));
        text.truncate(length);
        if is_unlawful {
            end = Some(at);
        }
    };
    let rest = rest(input, unread, last, &mut path, &mut query, &mut |path, at| ask(path, b"", at))?;
    match rest.query {
        Some(question) if !rest.is_whole => ask(&path, b"", question),
        _ if rest.is_whole => ask(&path, &query, rest.end),
        _ => {}
    }
    Ok(end)
}

/// What follows a URL's authority, with its path and query unescaped; of what is too long, the beginning.
/// Before each further letter that it is read through, `each` is told of the path so far, and of the URL's end there.
fn rest(
    input: &[u8],
    of: Unread,
    last: bool,
    path: &mut Vec<u8>,
    query: &mut Vec<u8>,
    each: &mut dyn FnMut(&[u8], usize),
) -> Result<Rest, More> {
    let Unread { authority, depth, ampersand, is_value, through } = of;
    path.clear();
    query.clear();
    let from = authority.end;
    let bare = authority.replaced_end;
    let mut found = Rest { end: bare, stop: from, insert: bare, query: None, ampersand, is_whole: true };
    let (mut letters, mut first_letter) = (0, usize::MAX);
    let (mut fragment, mut parentheses) = (false, 0_u32);
    let (mut path_length, mut query_length) = (0, 0);
    let mut at = from;
    loop {
        if at - from > URL_MAX {
            return Ok(Rest { stop: at, is_whole: false, ..found });
        }
        let is_path = at > from && found.query.is_none() && !fragment;
        if through > 0
            && is_path
            && let Some(letter) = letter(input, at, depth, last).ok_or(More)?
        {
            if letter.begins() {
                if letters == through || at.saturating_sub(first_letter) > LETTERS_SPAN {
                    break;
                }
                if letters > 0 {
                    each(path.get(..path_length).unwrap_or_default(), found.end);
                }
                letters += 1;
            }
            first_letter = first_letter.min(at);
            path.extend_from_slice(letter.bytes());
            at += letter.size;
            (found.end, found.insert, path_length) = (at, at, path.len());
            continue;
        }
        let (byte, size) = match token(input, at, depth, last) {
            Token::More => return Err(More),
            Token::End => break,
            Token::Char(byte, size) => (byte, size),
        };
        if !is_url(byte) || (at == from && !matches!(byte, b'/' | b'?' | b'#')) {
            break;
        }
        match byte {
            // Another URL's, rather.
            b'/' if letters > 0 && is_path && path.last() == Some(&b'/') => break,
            b'(' => parentheses += 1,
            b')' if parentheses == 0 => break,
            b')' => parentheses -= 1,
            b'&' if is_value => break,
            b',' | b';' if size == 1 && begins_another(input, at + 1, last)? => break,
            _ => {}
        }
        match byte {
            _ if fragment => {}
            b'#' => {
                fragment = true;
                found.insert = at;
                (path_length, query_length) = (path.len(), query.len());
            }
            b'?' if found.query.is_none() => found.query = Some(at),
            _ if found.query.is_some() => query.push(byte),
            _ => path.push(byte),
        }
        if byte == b'&' && depth == 0 {
            found.ampersand = match input.get(at..).unwrap_or_default() {
                _ if size == 1 => Ampersand::Raw,
                [b'\\', ..] => Ampersand::Unicode(size - 5),
                _ => Ampersand::Entity,
            };
        }
        at += size;
        // A sentence's marks behind a URL are the sentence's.
        if size > 1 || !is_mark(byte) {
            found.end = at;
            if !fragment {
                found.insert = at;
                (path_length, query_length) = (path.len(), query.len());
            }
        }
    }
    found.stop = at;
    path.truncate(path_length);
    query.truncate(query_length);
    Ok(found)
}

/// Whether a URL may go on where it seems to end, as `/头像.jpg` does, so that its path cannot be signed. Behind a file's
/// name such a letter is the text's: it often stands there without a space.
fn may_go_on(input: &[u8], rest: &Rest, path: &[u8], depth: usize, last: bool) -> Result<bool, More> {
    // Behind a mark it is the text's, too, and a fragment is not signed.
    if rest.stop != rest.end || rest.insert != rest.end || (path.is_empty() && rest.query.is_none()) {
        return Ok(false);
    }
    Ok((rest.query.is_some() || !is_file(path)) && goes_on(input, rest.stop, depth, last).ok_or(More)?)
}

/// The extensions of images, and of what else is kept beside them.
pub(crate) const EXTENSIONS: [&str; 20] = [
    "jpg", "jpeg", "jfif", "png", "apng", "gif", "webp", "bmp", "svg", "ico", "tif", "tiff", "heic", "heif", "avif",
    "pdf", "mp3", "amr", "m4a", "mp4",
];

/// Whether a path ends with a file's extension, such as `.jpg`.
fn is_file(path: &[u8]) -> bool {
    let extension = path.iter().rposition(|byte| *byte == b'.').and_then(|dot| path.get(dot + 1..)).unwrap_or_default();
    EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known.as_bytes()))
}

/// Whether a URL stands at `at`, behind a comma: then the comma is between the two.
fn begins_another(input: &[u8], at: usize, last: bool) -> Result<bool, More> {
    const SCHEME: &[u8] = b"http";
    let rest = input.get(at..).unwrap_or_default();
    let length = SCHEME.len().min(rest.len());
    if rest.get(..length).is_some_and(|head| head.eq_ignore_ascii_case(SCHEME.get(..length).unwrap_or_default())) {
        return if length == SCHEME.len() || last { Ok(length == SCHEME.len()) } else { Err(More) };
    }
    let slash = |at: usize| match token(input, at, 0, last) {
        Token::Char(b'/', size) => Ok(input.get(at..at + size)),
        Token::Char(..) | Token::End => Ok(None),
        Token::More => Err(More),
    };
    let Some(first) = slash(at)? else { return Ok(false) };
    Ok(slash(at + first.len())?.is_some_and(|second| second.eq_ignore_ascii_case(first)))
}

/// Where a URL's head may begin that these bytes do not end: all bytes from there on may belong to one.
fn unfinished(input: &[u8], settled: usize) -> usize {
    let may_belong = |byte: u8| {
        matches!(byte, b':' | b'/' | b'\\' | b'%' | b'&' | b'#' | b';' | b'0'..=b'9')
            || matches!(byte.to_ascii_lowercase(), b'h' | b't' | b'p' | b's' | b'u' | b'x' | b'a' | b'f')
    };
    let may_begin = |byte: u8| matches!(byte, b'h' | b'H' | b':' | b'/' | b'\\' | b'%' | b'&');
    let from = input.len().saturating_sub(HEAD_MAX).max(settled);
    let tail = input.get(from..).unwrap_or_default();
    let run = tail.iter().rev().take_while(|byte| may_belong(**byte)).count();
    let run = tail.get(tail.len() - run..).unwrap_or_default();
    let begin = run.iter().position(|byte| may_begin(*byte)).unwrap_or(run.len());
    input.len() - run.len() + begin
}
