//! Which hosts become which: a rule set, read and checked as a whole.
//!
//! In a set that passes, no two rules claim a host in the same context, and nothing that a rule writes is rewritten
//! again.

use std::sync::Arc;

use hashbrown::HashMap;
use serde::Serialize;
use shared::{
    id::Id,
    json::{self, Object, Value},
    problem::{Fault, escaped},
    rollout::{Decision, Percent, Rollout, Version},
};

use crate::{
    lanes::{equal, spread},
    rewrite::rewriter_of,
    sign::{Keys, Scheme, Signer},
    unlawful,
};

/// What a body is: rules may apply to some contexts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Context {
    Avatar,
    History,
    Signature,
    Prescription,
    Stamp,
    Bulk,
}

impl Context {
    pub(crate) const ALL: [Self; 6] =
        [Self::Avatar, Self::History, Self::Signature, Self::Prescription, Self::Stamp, Self::Bulk];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Avatar => "avatar",
            Self::History => "history",
            Self::Signature => "signature",
            Self::Prescription => "prescription",
            Self::Stamp => "stamp",
            Self::Bulk => "bulk",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|context| context.as_str() == name)
    }
}

/// What `context` must be, for a fault.
pub(crate) const CONTEXTS: &str = "must be avatar, history, signature, prescription, stamp or bulk";

/// The contexts that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Contexts {
    Any,
    These(Vec<Context>),
}

impl Contexts {
    fn hold(&self, context: Option<Context>) -> bool {
        match (self, context) {
            (Self::Any, _) => true,
            (Self::These(these), Some(context)) => these.contains(&context),
            (Self::These(_), None) => false,
        }
    }

    fn meet(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::These(these), Self::These(others)) => these.iter().any(|context| others.contains(context)),
            (Self::Any, Self::Any) => true,
            // One with faults may have none.
            (Self::Any, Self::These(these)) | (Self::These(these), Self::Any) => !these.is_empty(),
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    from: Vec<Pattern>,
    /// Host, and port if it has one.
    pub(crate) to: String,
    /// The host's hash, as unlawful images' hosts have one.
    pub(crate) to_hash: u64,
    /// Whether that is written in the same way in every escaping, as it has no port.
    pub(crate) is_plain: bool,
    /// `http` or `https`, for URLs that name a scheme.
    pub(crate) scheme: Option<&'static str>,
    contexts: Contexts,
    pub(crate) sign: Option<Signer>,
    rollout: Rollout,
}

impl Rule {
    /// The host alone.
    pub(crate) fn to_host(&self) -> &str {
        self.to.split(':').next().unwrap_or_default()
    }

    /// The hosts that it claims; for those below another, one of them.
    pub(crate) fn claimed_hosts(&self) -> impl Iterator<Item = String> {
        self.from.iter().map(|pattern| match pattern {
            Pattern::Host(host) => host.clone(),
            Pattern::Below(suffix) => format!("x.{suffix}"),
        })
    }
}

/// A host, or all hosts below one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Host(String),
    Below(String),
}

impl Pattern {
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix("*.") {
            Some(suffix) => is_host(suffix).then(|| Self::Below(suffix.to_owned())),
            None => is_host(&text).then_some(Self::Host(text)),
        }
    }

    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Host(this) => this == host,
            Self::Below(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    /// Whether some host is both.
    fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Below(a), Self::Below(b)) => a == b || self.holds(b) || other.holds(a),
            (pattern, Self::Host(host)) | (Self::Host(host), pattern) => pattern.holds(host),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Host(host) => host.clone(),
            Self::Below(suffix) => format!("*.{suffix}"),
        }
    }
}

/// The most bytes of a host's name (RFC 1035, section 2.3.4).
pub(crate) const HOST_MAX: usize = 253;

/// A lower-case host: labels of letters, digits, `-` and `_`, with a dot among them.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    text.len() <= HOST_MAX && text.contains('.') && text.split('.').all(label)
}

/// A host with a port or without.
fn is_authority(text: &str) -> bool {
    match text.split_once(':') {
        None => is_host(text),
        Some((host, port)) => is_host(host) && port.len() <= 5 && port.parse::<u16>().is_ok_and(|port| port > 0),
    }
}

/// What a rule does with the URLs of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing.
    Out,
    /// It rewrites them.
    In,
    /// It rewrites those that fall within the percentage.
    ByUrl(Percent),
}

/// Who asks, and for what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) context: Option<Context>,
    pub(crate) user: Option<String>,
    pub(crate) app_version: Option<Version>,
}

/// A name, and the places of the rules that claim it.
type Claim = (Box<[u8]>, Vec<usize>);

/// Names and the places of the rules that claim them, by the names' hash: what is asked for each host of a body.
#[derive(Clone, Debug, Default)]
struct Claims(HashMap<u64, Vec<Claim>>);

impl Claims {
    fn add(&mut self, name: &str, place: usize) {
        let name = name.as_bytes();
        let same = self.0.entry(spread(name)).or_default();
        match same.iter_mut().find(|(found, _)| **found == *name) {
            Some((_, places)) => places.push(place),
            None => same.push((name.into(), vec![place])),
        }
    }

    fn of(&self, name: &[u8]) -> &[usize] {
        let same = self.0.get(&spread(name)).map(Vec::as_slice).unwrap_or_default();
        same.iter().find(|(found, _)| equal(found, name)).map(|(_, places)| places.as_slice()).unwrap_or_default()
    }
}

/// A rule set that holds together, ready to look hosts up in.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) version: i64,
    pub(crate) rules: Vec<Rule>,
    /// The URL that stands in for an unlawful image.
    pub(crate) placeholder: String,
    /// Whose URLs the rules claim, by host.
    hosts: Claims,
    /// And by what hosts end with.
    suffixes: Claims,
}

impl Rules {
    /// The set that is compiled in.
    pub(crate) const DEFAULT: &str = include_str!("../rules.json");

    /// Reads a set.
    ///
    /// # Errors
    /// Every fault, each at its place.
    pub(crate) fn parse(bytes: &[u8], keys: &Keys) -> Result<Self, Vec<Fault>> {
        let value = json::parse(bytes).map_err(|error| vec![Fault::at("", format!("not JSON: {error}"))])?;
        let Some(set) = value.as_object() else { return Err(vec![Fault::at("", "must be an object")]) };
        let mut faults = Vec::new();
        unknown(set, &["version", "rules", "placeholder"], "", &mut faults);
        let version = match set.get("version") {
            None => 0,
            Some(Value::Integer(version @ 0..=VERSION_MAX)) => *version,
            Some(_) => {
                faults.push(Fault::at("/version", format!("must be a whole number from 0 to {VERSION_MAX}")));
                0
            }
        };
        let placeholder = placeholder(set, &mut faults);
        let mut rules = Vec::new();
        match set.get("rules").and_then(Value::as_array) {
            Some(items) if items.len() <= RULES_MAX => {
                for (place, item) in items.iter().enumerate() {
                    rules.push(rule(item, &format!("/rules/{place}"), keys, &mut faults));
                }
            }
            Some(_) => faults.push(Fault::at("/rules", format!("may have {RULES_MAX} rules"))),
            None => faults.push(Fault::at("/rules", "must be an array of rules")),
        }
        check_together(&rules, &placeholder, &mut faults);
        let rules = Arc::new(Self::of(version, rules.into_iter().flatten().collect(), placeholder));
        let is_named = faults.iter().any(|fault| fault.pointer == PLACEHOLDER);
        // Its path or query may hold a URL, too.
        if let Some(rule) = rewriter_of(&rules, &rules.placeholder).filter(|_| !is_named) {
            faults.push(Fault::at(PLACEHOLDER, format!("holds a URL that the rule `{}` rewrites", rule.name)));
        }
        if faults.is_empty() { Ok(Arc::unwrap_or_clone(rules)) } else { Err(faults) }
    }

    fn of(version: i64, rules: Vec<Rule>, placeholder: String) -> Self {
        let mut hosts = Claims::default();
        let mut suffixes = Claims::default();
        for (place, rule) in rules.iter().enumerate() {
            for pattern in &rule.from {
                let (map, host) = match pattern {
                    Pattern::Host(host) => (&mut hosts, host),
                    Pattern::Below(suffix) => (&mut suffixes, suffix),
                };
                map.add(host, place);
            }
        }
        Self { version, rules, placeholder, hosts, suffixes }
    }

    /// The hosts that are claimed, and what other claimed hosts end with.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|rule| &rule.from).map(|pattern| match pattern {
            Pattern::Host(host) => host.as_str(),
            Pattern::Below(suffix) => suffix.as_str(),
        })
    }

    /// Calls `each` with every rule that claims this lower-case host, in whatever context.
    pub(crate) fn claims(&self, host: &[u8], mut each: impl FnMut(usize)) {
        self.hosts.of(host).iter().for_each(|place| each(*place));
        // A name beyond ASCII is `xn--…` in a URL (RFC 3986, section 3.2.2).
        if self.suffixes.0.is_empty() || !host.is_ascii() {
            return;
        }
        for (place, _) in
            host.iter().enumerate().filter(|(_, byte)| **byte == b'.').skip_while(|(place, _)| *place == 0)
        {
            let suffix = host.get(place + 1..).unwrap_or_default();
            self.suffixes.of(suffix).iter().for_each(|place| each(*place));
        }
    }

    /// Whether any rule claims this lower-case host.
    pub(crate) fn claims_any(&self, host: &str) -> bool {
        let mut any = false;
        self.claims(host.as_bytes(), |_| any = true);
        any
    }

    /// Adds the hosts that rules make of this lower-case one.
    pub(crate) fn addresses(&self, host: &str, hosts: &mut Vec<String>) {
        self.claims(host.as_bytes(), |place| hosts.extend(self.rules.get(place).map(|rule| rule.to_host().to_owned())));
    }

    /// What each rule does for this caller.
    pub(crate) fn fates(&self, caller: &Caller) -> Vec<Fate> {
        let fate = |rule: &Rule| {
            if !rule.contexts.hold(caller.context) {
                return Fate::Out;
            }
            match rule.rollout.decide(&rule.name, caller.user.as_deref(), caller.app_version) {
                Decision::In => Fate::In,
                Decision::Out => Fate::Out,
                Decision::ByThing(percent) => Fate::ByUrl(percent),
            }
        };
        self.rules.iter().map(fate).collect()
    }
}

/// What fits into SQL and into every JSON reader's numbers.
pub(crate) const VERSION_MAX: i64 = (1 << 53) - 1;
const RULES_MAX: usize = 1_000;
const HOSTS_MAX: usize = 1_000;
const ALL_HOSTS_MAX: usize = 5_000;
const USERS_MAX: usize = 10_000;
const PLACEHOLDER_MAX: usize = 1_024;
/// Where a set's faults tell of it.
const PLACEHOLDER: &str = "/placeholder";
/// How long a signature is good for if its rule does not say.
const EXPIRES_S: i64 = 1_800;
const EXPIRES_S_MAX: i64 = 366 * 86_400;

fn unknown(object: &Object<'_>, known: &[&str], at: &str, faults: &mut Vec<Fault>) {
    for (key, _) in object.iter().filter(|(key, _)| !known.contains(key)) {
        faults.push(Fault::at(format!("{at}/{}", escaped(key)), format!("is unknown; known: {}", known.join(", "))));
    }
}

fn placeholder(set: &Object<'_>, faults: &mut Vec<Fault>) -> String {
    let text = set.text("placeholder").unwrap_or_default();
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let (authority, path) = rest.map_or(("", ""), |rest| rest.split_at(rest.find('/').unwrap_or(rest.len())));
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/?=%!*:@".contains(&byte);
    if !is_authority(authority) || text.len() > PLACEHOLDER_MAX || !path.bytes().all(fits) {
        let detail = "must be an http or https URL with a lower-case host, of letters, digits and -._~/?=%!*:@";
        faults.push(Fault::at(PLACEHOLDER, detail));
    }
    text.to_owned()
}

/// Reads one rule. One with faults has what can be read of it, so that it is checked beside the others.
fn rule(item: &Value<'_>, at: &str, keys: &Keys, faults: &mut Vec<Fault>) -> Option<Rule> {
    let Some(item) = item.as_object() else {
        faults.push(Fault::at(at, "must be an object"));
        return None;
    };
    unknown(item, &["name", "from", "to", "scheme", "contexts", "sign", "rollout"], at, faults);
    let name = item.text("name").and_then(Id::parse);
    if name.is_none() {
        faults.push(Fault::at(format!("{at}/name"), "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"));
    }
    let from = from(item, at, faults);
    let to = item.text("to").map(str::to_ascii_lowercase).unwrap_or_default();
    if !is_authority(&to) {
        faults.push(Fault::at(format!("{at}/to"), "must be a host, with a port or without"));
    }
    let scheme = match item.present("scheme").map(Value::as_str) {
        None => None,
        Some(Some("https")) => Some("https"),
        Some(Some("http")) => Some("http"),
        Some(_) => {
            faults.push(Fault::at(format!("{at}/scheme"), "must be http or https"));
            None
        }
    };
    let contexts = contexts(item, at, faults);
    let sign = item.present("sign").and_then(|sign| signer(sign, &format!("{at}/sign"), keys, faults));
    let rollout = match item.present("rollout") {
        None => Rollout::everyone(),
        Some(value) => rollout(value, &format!("{at}/rollout"), faults),
    };
    let name = name.map_or_else(|| at.to_owned(), |name| name.to_string());
    let is_plain = !to.contains(':');
    let to_hash = unlawful::hash(to.split(':').next().unwrap_or_default().as_bytes());
    Some(Rule { name, from, to, to_hash, is_plain, scheme, contexts, sign, rollout })
}

fn from(item: &Object<'_>, at: &str, faults: &mut Vec<Fault>) -> Vec<Pattern> {
    let Some(hosts) = item.get("from").and_then(Value::as_array).filter(|hosts| (1..=HOSTS_MAX).contains(&hosts.len()))
    else {
        faults.push(Fault::at(format!("{at}/from"), format!("must be an array of 1 to {HOSTS_MAX} hosts")));
        return Vec::new();
    };
    let mut patterns = Vec::new();
    for (place, host) in hosts.iter().enumerate() {
        match host.as_str().and_then(Pattern::parse) {
            Some(pattern) => patterns.push(pattern),
            None => faults.push(Fault::at(format!("{at}/from/{place}"), "must be a host, or *. and a host")),
        }
    }
    patterns
}

fn contexts(item: &Object<'_>, at: &str, faults: &mut Vec<Fault>) -> Contexts {
    let at = format!("{at}/contexts");
    let names = match item.get("contexts") {
        Some(Value::Array(names)) if !names.is_empty() => names.as_slice(),
        Some(all @ Value::String(_)) => std::slice::from_ref(all),
        _ => {
            faults.push(Fault::at(at, "must be an array of contexts, or of \"*\""));
            return Contexts::These(Vec::new());
        }
    };
    let mut these = Vec::new();
    let mut any = false;
    for (place, name) in names.iter().enumerate() {
        match name.as_str() {
            Some("*") => any = true,
            Some(name) if Context::parse(name).is_some() => these.extend(Context::parse(name)),
            _ => faults.push(Fault::at(format!("{at}/{place}"), format!("{CONTEXTS}, or *"))),
        }
    }
    if any { Contexts::Any } else { Contexts::These(these) }
}

/// A scheme's name, or an object that also names the key and the time that a signature is good for.
fn signer(value: &Value<'_>, at: &str, keys: &Keys, faults: &mut Vec<Fault>) -> Option<Signer> {
    let (name, key, expires_s, name_at, key_at) = match value {
        Value::String(name) => (name.as_ref(), None, None, at.to_owned(), at.to_owned()),
        Value::Object(object) => {
            unknown(object, &["signer", "key", "expires_s"], at, faults);
            let name = object.text("signer").unwrap_or_default();
            let key = object.present("key").map(|key| key.as_str().unwrap_or_default());
            (name, key, object.present("expires_s"), format!("{at}/signer"), format!("{at}/key"))
        }
        _ => {
            faults.push(Fault::at(at, "must be a signer's name, or an object with `signer`, `key` and `expires_s`"));
            return None;
        }
    };
    let scheme = Scheme::parse(name);
    if scheme.is_none() {
        faults.push(Fault::at(name_at, "must be aliyun-a or hmac-sha256"));
    }
    // A signer that is none has no key of its name.
    let is_named = key.is_some() || scheme.is_some();
    let key = keys.get(key.unwrap_or(name));
    if key.is_none() && is_named {
        faults.push(Fault::at(key_at, "names a key that images_sign_keys does not have"));
    }
    let expires_s = match expires_s {
        // The CDN adds its own setting.
        None if scheme == Some(Scheme::AliyunA) => Some(0),
        None => Some(EXPIRES_S),
        Some(value) => value.as_integer().filter(|seconds| (0..=EXPIRES_S_MAX).contains(seconds)),
    };
    if expires_s.is_none() {
        faults.push(Fault::at(format!("{at}/expires_s"), format!("must be a whole number from 0 to {EXPIRES_S_MAX}")));
    }
    Signer::new(scheme?, key?, expires_s?)
}

fn rollout(value: &Value<'_>, at: &str, faults: &mut Vec<Fault>) -> Rollout {
    let Some(object) = value.as_object() else {
        faults.push(Fault::at(at, "must be an object"));
        return Rollout::everyone();
    };
    unknown(object, &["users", "percent", "min_app_version"], at, faults);
    let mut users = Vec::new();
    match object.present("users") {
        None => {}
        Some(Value::Array(items)) if items.len() <= USERS_MAX => {
            for (place, item) in items.iter().enumerate() {
                match Id::from_json(item) {
                    Some(user) => users.push(user.to_string()),
                    None => faults.push(Fault::at(format!("{at}/users/{place}"), "must be a user's id")),
                }
            }
        }
        Some(_) => faults.push(Fault::at(format!("{at}/users"), format!("must be an array of up to {USERS_MAX} ids"))),
    }
    let percent = match object.get("percent") {
        Some(Value::Integer(number @ 0..=100)) => u8::try_from(*number).ok().map(f64::from).and_then(Percent::new),
        Some(Value::Float(number)) => Percent::new(*number),
        _ => None,
    };
    if percent.is_none() {
        faults.push(Fault::at(format!("{at}/percent"), "must be a number from 0 to 100 with at most two decimals"));
    }
    let min_app_version = object.present("min_app_version").map(|version| version.as_str().map(str::parse));
    if matches!(min_app_version, Some(None | Some(Err(())))) {
        faults.push(Fault::at(format!("{at}/min_app_version"), "must be up to four numbers between dots"));
    }
    let min_app_version = min_app_version.flatten().and_then(Result::ok);
    Rollout { users, percent: percent.unwrap_or(Percent::ALL), min_app_version }
}

/// What no rule shows by itself.
fn check_together(rules: &[Option<Rule>], placeholder: &str, faults: &mut Vec<Fault>) {
    let rules: Vec<(usize, &Rule)> =
        rules.iter().enumerate().filter_map(|(place, rule)| Some((place, rule.as_ref()?))).collect();
    let mut claims: Vec<(usize, &Rule, &Pattern)> = Vec::new();
    if rules.iter().map(|(_, rule)| rule.from.len()).sum::<usize>() > ALL_HOSTS_MAX {
        faults.push(Fault::at("/rules", format!("may claim {ALL_HOSTS_MAX} hosts together")));
        return;
    }
    for &(place, rule) in &rules {
        if let Some((_, first)) = rules.iter().find(|(other, first)| *other < place && first.name == rule.name) {
            faults.push(Fault::at(
                format!("/rules/{place}/name"),
                format!("is the name of another rule, `{}`", first.name),
            ));
        }
        for (number, pattern) in rule.from.iter().enumerate() {
            // Within a rule it does no harm: the host becomes the same.
            let twice = claims.iter().find(|(claimant, other, claimed)| {
                *claimant != place && pattern.meets(claimed) && rule.contexts.meet(&other.contexts)
            });
            if let Some((_, other, claimed)) = twice {
                let detail = format!(
                    "is claimed already, by `{}` of the rule `{}` in the same context",
                    claimed.text(),
                    other.name
                );
                faults.push(Fault::at(format!("/rules/{place}/from/{number}"), detail));
            }
            claims.push((place, rule, pattern));
        }
    }
    let claimant = |host: &str| claims.iter().find(|(.., pattern)| pattern.holds(host)).map(|(_, rule, _)| &rule.name);
    for &(place, rule) in &rules {
        if let Some(name) = claimant(rule.to_host()) {
            let detail = format!("is a host that the rule `{name}` rewrites: a loop");
            faults.push(Fault::at(format!("/rules/{place}/to"), detail));
        }
    }
    let host = placeholder.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
    if let Some(name) = claimant(host) {
        faults.push(Fault::at(PLACEHOLDER, format!("is on a host that the rule `{name}` rewrites")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(placeholder: &str) -> Vec<String> {
        let rule = r#"{"name": "a", "from": ["old.example.com", "*.many.example"], "to": "new.example.com", "contexts": ["bulk"]}"#;
        let text = format!(r#"{{"rules": [{rule}], "placeholder": "{placeholder}"}}"#);
        let faults = Rules::parse(text.as_bytes(), &Keys::default()).err().unwrap_or_default();
        faults.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn every_fault_of_a_set_is_named_and_no_other() {
        let rule = |more: &str| {
            format!(
                r#"{{"name": "b", "from": ["b.example.org"], "to": "new.example.org", "contexts": ["bulk"]{more}}}"#
            )
        };
        let of = |rules: &[String]| {
            let text = format!(r#"{{"rules": [{}], "placeholder": "https://x.example/gone.png"}}"#, rules.join(","));
            let keys = Keys::parse("hmac-sha256=secret").unwrap();
            let faults = Rules::parse(text.as_bytes(), &keys).err().unwrap_or_default();
            faults.into_iter().map(|fault| fault.pointer.replacen("/rules/", "", 1)).collect::<Vec<_>>().join(" ")
        };
        let with = |more: &str| of(&[rule(&format!(", {more}"))]);
        for good in [
            r#""scheme": "http""#,
            r#""sign": "hmac-sha256""#,
            r#""sign": {"signer": "aliyun-a", "key": "hmac-sha256", "expires_s": 0}"#,
            r#""rollout": {"users": ["a", 7], "percent": 12.34, "min_app_version": "3.2"}"#,
        ] {
            assert_eq!(with(good), "", "{good}");
        }
        for (wrong, at) in [
            (r#""scheme": "ftp""#, "0/scheme"),
            (r#""more": 1, "even/more": 2"#, "0/more 0/even~1more"),
            (r#""sign": "md5""#, "0/sign"),
            (r#""sign": "aliyun-a""#, "0/sign"),
            (
                r#""sign": {"signer": "md5", "key": "none", "expires_s": -1}"#,
                "0/sign/signer 0/sign/key 0/sign/expires_s",
            ),
            (r#""sign": {"signer": "hmac-sha256", "expires_s": 31622401}"#, "0/sign/expires_s"),
            (r#""rollout": 7"#, "0/rollout"),
            (r#""rollout": {}"#, "0/rollout/percent"),
            (r#""rollout": {"percent": 0.123}"#, "0/rollout/percent"),
            (
                r#""rollout": {"users": ["a b"], "percent": 101, "min_app_version": "x", "more": 1}"#,
                "0/rollout/more 0/rollout/users/0 0/rollout/percent 0/rollout/min_app_version",
            ),
        ] {
            assert_eq!(with(wrong), at, "{wrong}");
        }
        // What a rule claims is checked with the others', whatever else is wrong with it.
        let other = |fields: &str| of(&[rule(""), format!("{{{fields}}}")]);
        for (fields, at) in [
            (r#""name": "c", "from": ["b.example.org"], "to": "d.example.org", "contexts": ["avatar"]"#, ""),
            (r#""name": "c", "from": ["*.example.org"], "to": "d.example", "contexts": ["*"]"#, "1/from/0 0/to"),
            (
                r#""from": ["c.example.org", "b.example.org"], "to": "b.example.org", "contexts": ["bulk"], "scheme": 1"#,
                "1/name 1/scheme 1/from/1 1/to",
            ),
            (r#""name": "b", "from": ["b.example.org"], "to": "", "contexts": ["none"]"#, "1/to 1/contexts/0 1/name"),
            (r#""name": "c", "from": [], "to": "d.example.org""#, "1/from 1/contexts"),
        ] {
            assert_eq!(other(fields), at, "{fields}");
        }
        let first = rule("").replace(r#"["bulk"]"#, r#"["*"]"#);
        let second = r#"{"name": "c", "from": ["b.example.org"], "to": "d.example.org", "contexts": "none"}"#;
        assert_eq!(of(&[first, second.to_owned()]), "1/contexts/0");
    }

    #[test]
    fn a_placeholder_that_a_rule_rewrites_is_refused_wherever_it_holds_the_url() {
        for placeholder in [
            "https://old.example.com/gone.png",
            "https://x.many.example:8443/gone.png",
            "https://OLD.example.com/gone.png",
            "https://safe.example.com/r/http://old.example.com/gone.png",
            "https://safe.example.com/?u=https%3A%2F%2Fx.many.example%2Fgone.png",
            "https://safe.example.com/?u=%20%2F%2Fold.example.com%2Fgone.png",
        ] {
            assert_eq!(pointers(placeholder), ["/placeholder"], "{placeholder}");
        }
        for placeholder in ["https://safe.example.com/gone.png", "https://safe.example.com/old.example.com/?u=gone.png"]
        {
            assert!(pointers(placeholder).is_empty(), "{placeholder}");
        }
    }
}
