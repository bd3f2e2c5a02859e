//! `allowed_outbound_hosts`: which peers a component may call. Matching is Spin's: scheme, host and port, each
//! with `*`, and a network in CIDR notation for the host.

use std::{collections::HashSet, ops::Range, sync::Mutex};

use ip_network::IpNetwork;
use url::{Host, Url};

use crate::{
    logs::say,
    variables::{Template, Variables},
};

/// The grants of one component.
pub(crate) struct AllowedHosts {
    component: String,
    /// An entry that its variables made invalid refuses every call, as in Spin.
    entries: Result<Vec<Entry>, String>,
    /// What has been refused and said, so that it is said once.
    refused: Mutex<HashSet<String>>,
}

impl AllowedHosts {
    pub(crate) fn new(component: &str, entries: &[String], variables: &Variables) -> Self {
        let entries = entries
            .iter()
            .map(|text| (Template::parse(text).is_ok_and(|t| t.is_literal()), variables.expand(text)))
            .filter(|(literal, entry)| *literal || !is_skipped(entry))
            .map(|(_, entry)| Entry::parse(&entry))
            .collect();
        Self { component: component.into(), entries, refused: Mutex::default() }
    }

    /// Whether the component may call `url`, which gets `scheme` where it has none. `Err` says why no call of
    /// this component can be allowed at all. What is refused is said once on stderr, with its remedy.
    pub(crate) fn check(&self, url: &str, scheme: &str) -> Result<bool, String> {
        let Some(peer) = Peer::parse(url, scheme) else {
            self.say_once(format!("called {url:?}, which is not a URL"));
            return Ok(false);
        };
        let entries = self.entries.as_ref().map_err(|reason| {
            self.say_once(format!("may call nobody, because of its allowed_outbound_hosts: {reason}"));
            reason.clone()
        })?;
        let allowed = entries.iter().any(|entry| entry.allows(&peer));
        if !allowed {
            let origin = peer.origin();
            self.say_once(format!(
                "called {origin}, which it is not granted. To allow it, add to its section of the manifest: \
                 allowed_outbound_hosts = [\"{origin}\"]"
            ));
        }
        Ok(allowed)
    }

    fn say_once(&self, what: String) {
        let mut refused = self.refused.lock().expect("no thread panics with this lock");
        if !refused.contains(&what) {
            say(format!("Component {:?} {what}", self.component));
            refused.insert(what);
        }
    }
}

/// What an optional peer's template gives when its variable is empty: no entry.
pub(crate) fn is_skipped(entry: &str) -> bool {
    matches!(entry, "" | "http://" | "https://")
}

/// One entry: `scheme://host[:port]`.
#[derive(Debug, PartialEq)]
pub(crate) struct Entry {
    /// `None` is `*`, in all three.
    scheme: Option<String>,
    host: Hosts,
    port: Option<Range<u32>>,
}

#[derive(Debug, PartialEq)]
enum Hosts {
    Any,
    /// With the leading dot.
    Below(String),
    Network(IpNetwork),
    One(Host),
}

impl Entry {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let fault = |reason: String| format!("{text:?}: {reason}");
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(fault("must be scheme://host[:port], each of them may be `*`".into()));
        };
        let (host, port) = split_port(rest);
        let port = match port.split_once('/') {
            None => port,
            Some((port, "")) => port,
            Some(_) => return Err(fault("must not have a path".into())),
        };
        Ok(Self {
            scheme: parse_scheme(scheme).map_err(fault)?,
            host: parse_host(host).map_err(fault)?,
            port: parse_port(port, scheme).map_err(fault)?,
        })
    }

    fn allows(&self, peer: &Peer) -> bool {
        self.scheme.as_ref().is_none_or(|scheme| *scheme == peer.scheme)
            && self.allows_host(&peer.host)
            && self.allows_port(peer)
    }

    fn allows_host(&self, host: &Host) -> bool {
        match (&self.host, host) {
            (Hosts::Any, _) => true,
            (Hosts::Below(suffix), Host::Domain(domain)) => domain.ends_with(suffix),
            (Hosts::Network(network), Host::Ipv4(ip)) => network.contains(*ip),
            (Hosts::Network(network), Host::Ipv6(ip)) => network.contains(*ip),
            (Hosts::One(one), host) => one == host,
            (Hosts::Below(_) | Hosts::Network(_), _) => false,
        }
    }

    fn allows_port(&self, peer: &Peer) -> bool {
        let Some(ports) = &self.port else {
            return true;
        };
        let port = peer.port.or_else(|| default_port(&peer.scheme));
        port.is_some_and(|port| ports.contains(&port.into()))
    }
}

/// The part behind the last colon, unless that colon belongs to an IPv6 address.
fn split_port(rest: &str) -> (&str, &str) {
    match rest.rsplit_once(':') {
        None => (rest, ""),
        Some((host, "")) => (host, ""),
        Some(_) if parse_host(rest).is_ok() => (rest, ""),
        Some(parts) => parts,
    }
}

fn parse_scheme(scheme: &str) -> Result<Option<String>, String> {
    match scheme {
        "*" => Ok(None),
        _ if scheme.chars().all(char::is_alphabetic) => Ok(Some(scheme.into())),
        _ => Err(format!("the scheme {scheme:?} must be letters or `*`")),
    }
}

fn parse_host(host: &str) -> Result<Hosts, String> {
    let host = host.trim();
    if host == "*" {
        return Ok(Hosts::Any);
    }
    if let Ok(network) = IpNetwork::from_str_truncate(host) {
        return Ok(Hosts::Network(network));
    }
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.contains('/') {
        return Err("must not have a path".into());
    }
    if matches!(host, "self" | "self.alt") || host.ends_with(".spin.internal") {
        return Err("calls within the application are not supported by this host".into());
    }
    if let Some(domain) = host.strip_prefix("*.") {
        return match Host::parse(domain) {
            Ok(Host::Domain(domain)) if !domain.contains('*') => Ok(Hosts::Below(format!(".{domain}"))),
            _ => Err(format!("{domain:?} is not a domain")),
        };
    }
    if host.contains('*') {
        return Err("a wildcard is a whole host or its first label".into());
    }
    Host::parse(host).map(Hosts::One).map_err(|error| format!("the host {host:?} is invalid: {error}"))
}

fn parse_port(port: &str, scheme: &str) -> Result<Option<Range<u32>>, String> {
    let number = |text: &str| {
        let port: Result<u16, _> = text.parse();
        port.map(u32::from).map_err(|_| format!("{text:?} is not a port"))
    };
    if port == "*" {
        return Ok(None);
    }
    if port.is_empty() {
        let port =
            default_port(scheme).ok_or_else(|| format!("the scheme {scheme:?} has no usual port, so name it"))?;
        return Ok(Some(port.into()..u32::from(port) + 1));
    }
    match port.split_once("..") {
        Some((from, to)) => Ok(Some(number(from)?..number(to)?)),
        None => number(port).map(|port| Some(port..port + 1)),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        "redis" => Some(6379),
        "postgres" => Some(5432),
        "mysql" => Some(3306),
        "mqtt" => Some(1883),
        _ => None,
    }
}

/// Who is called.
struct Peer {
    scheme: String,
    host: Host,
    port: Option<u16>,
}

impl Peer {
    fn parse(text: &str, scheme: &str) -> Option<Self> {
        let url = match Url::parse(text) {
            Ok(url) if url.has_host() => url,
            _ => Url::parse(&format!("{scheme}://{text}")).ok()?,
        };
        Some(Self {
            scheme: url.scheme().into(),
            // A scheme that `url` does not know keeps a numeric host as a name, so parse it again.
            host: Host::parse(url.host_str()?).ok()?,
            port: url.port(),
        })
    }

    fn origin(&self) -> String {
        match self.port {
            Some(port) => format!("{}://{}:{port}", self.scheme, self.host),
            None => format!("{}://{}", self.scheme, self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_allows_exactly_its_peers() {
        for (entry, url, allowed) in [
            ("http://a.example", "http://a.example/x?y", true),
            ("http://a.example", "http://a.example:80", true),
            ("http://a.example/", "http://a.example", true),
            ("http://A.example", "http://a.example", true),
            ("http://a.example", "http://a.example:8080", false),
            ("http://a.example", "https://a.example", false),
            ("http://a.example", "http://b.example", false),
            ("http://a.example", "http://x.a.example", false),
            ("http://a.example", "http://a.example@b.example", false),
            ("http://a.example:8080", "http://a.example:8080", true),
            ("http://a.example:8080/", "http://a.example:8080", true),
            ("http://a.example:*", "http://a.example:1", true),
            ("http://a.example:8000..8010", "http://a.example:8009", true),
            ("http://a.example:8000..8010", "http://a.example:8010", false),
            ("https://*.example", "https://a.b.example", true),
            ("https://*.example", "https://example", false),
            ("https://*.example", "https://notexample", false),
            ("*://a.example:*", "redis://a.example", true),
            ("*://*:*", "mysql://10.0.0.1:1", true),
            ("https://*", "https://anything", true),
            ("https://*", "http://anything", false),
            ("http://127.0.0.1", "http://127.0.0.1", true),
            ("http://127.0.0.1", "http://localhost", false),
            ("http://localhost", "http://127.0.0.1", false),
            ("http://10.0.0.0/8:80", "http://10.1.2.3", true),
            ("http://10.0.0.0/8:80", "http://11.1.2.3", false),
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379", true),
            ("redis://127.0.0.1:6379", "redis://127.0.0.1", true),
            ("redis://127.0.0.1:6379", "redis://user:pass@127.0.0.1:6379/2", true),
            ("redis://[::1]:6379", "redis://[::1]:6379", true),
            ("redis://localhost", "localhost:6379", true),
        ] {
            let peer = Peer::parse(url, "redis").unwrap();
            assert_eq!(Entry::parse(entry).unwrap().allows(&peer), allowed, "{entry} {url}");
        }
    }

    #[test]
    fn an_entry_that_is_no_origin_is_refused() {
        for entry in [
            "",
            "*",
            "a.example",
            "http://",
            "http://a.example/path",
            "http://a.example:80/path",
            "redis://127.0.0.1:6379/0",
            "http://a.*.example",
            "http://*.*.example",
            "http://a.example:x",
            "tcp://a.example",
            "*://a.example",
            "ht-tp://a.example:1",
            "http://self",
            "http://b.spin.internal",
        ] {
            assert!(Entry::parse(entry).is_err(), "{entry}");
        }
    }
}
