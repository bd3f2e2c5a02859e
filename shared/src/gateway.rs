//! The push gateway, and the operators' webhook: `POST` of a message's JSON, signed by Standard Webhooks under the
//! message's id.
//!
//! Without one configured, messages go to the log alone, which says so. What is tried again, and when, is the
//! [outbox](crate::outbox)'s to know.

use std::{
    io::Write,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Uri, header, uri::PathAndQuery};
use serde::{Serialize, Serializer, ser::SerializeMap};
use spin_sdk::wasip3::random::random;

use crate::{
    clock,
    config::variable,
    http::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, SendError, is_origin, send},
    id::Id,
    log::{EntryPath, Line},
    message::Role,
    outbox::{Answer, Attempted, Courier},
    problem::{Fault, Problem},
    signature::Secret,
};

/// Where messages go.
pub struct Gateway(Option<Endpoint>);

struct Endpoint {
    uri: Uri,
    secret: Secret,
}

impl Gateway {
    /// Reads the values of the variables `name`, `<name>_path` and `<name>_secret`.
    ///
    /// # Errors
    /// Every fault of the three. An empty origin is none: it means that there is no gateway.
    pub fn new(name: &str, origin: &str, path: &str, secret: &str) -> Result<Self, Vec<Fault>> {
        let origin = origin.trim();
        if origin.is_empty() {
            return Ok(Self(None));
        }
        let mut faults = Vec::new();
        let base = origin.strip_suffix('/').unwrap_or(origin);
        if !is_origin(base) {
            faults.push(Fault::at(format!("/variables/{name}"), "must be an origin such as https://push.example.org"));
        }
        let path_fault = |detail: String| Fault::at(format!("/variables/{name}_path"), detail);
        if !path.starts_with('/') {
            faults.push(path_fault("must start with /".into()));
        } else if let Err(error) = path.parse::<PathAndQuery>() {
            faults.push(path_fault(format!("is no path: {error}")));
        }
        let secret = Secret::parse(secret)
            .map_err(|error| faults.push(Fault::at(format!("/variables/{name}_secret"), error.to_string())));
        let uri = format!("{base}{path}").parse::<Uri>();
        match (secret, uri) {
            (Ok(secret), Ok(uri)) if faults.is_empty() => Ok(Self(Some(Endpoint { uri, secret }))),
            // Each part is good, and the whole is too long.
            (_, Err(error)) if faults.is_empty() => Err(vec![path_fault(format!("makes no URL: {error}"))]),
            _ => Err(faults),
        }
    }

    /// Posts `body` under `id`, signed, and gives up after `within`.
    pub async fn post(&self, id: &str, body: String, within: Duration) -> Answer {
        match &self.0 {
            None => Answer::NoGateway,
            Some(endpoint) => endpoint.post(id, body, within).await.unwrap_or_else(Answer::Unreachable),
        }
    }
}

impl Endpoint {
    async fn post(&self, id: &str, body: String, within: Duration) -> Result<Answer, String> {
        let signature = self
            .secret
            .sign(id, clock::now_ms(), body.as_bytes())
            .map_err(|error| format!("the message cannot be signed: {error}"))?;
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| format!("the request cannot be made: {error}"))?;
        request.headers_mut().extend(signature);
        match send(request, within).await {
            Ok(answer) if answer.status().is_success() => Ok(Answer::Accepted),
            Ok(answer) => {
                let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after_ms = after.and_then(|value| retry_after_ms(value, clock::now_ms()));
                Ok(Answer::Refused { status: answer.status().as_u16(), retry_after_ms })
            }
            Err(SendError::TimedOut) => Err("the gateway did not answer in time".into()),
            Err(error) => Err(format!("the gateway {error}")),
        }
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3), in seconds or as a date, as milliseconds from now.
pub fn retry_after_ms(value: &str, now_ms: i64) -> Option<i64> {
    let text = value.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1000));
    }
    let at = httpdate::parse_http_date(value.trim()).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let at_ms = i64::try_from(at.as_millis()).ok()?;
    Some((at_ms - now_ms).max(0))
}

/// Where messages go: people's to the push gateway, operators' to their webhook.
pub struct Gateways {
    /// Of `push_gateway`.
    pub people: Gateway,
    /// Of `operators_webhook`.
    pub operators: Gateway,
}

impl Gateways {
    /// By the variables of the component.
    ///
    /// # Errors
    /// Every fault of them; the outer error if the manifest does not give one.
    pub async fn load() -> Result<Result<Self, Vec<Fault>>, Problem> {
        let people = Self::one("push_gateway").await?;
        let operators = Self::one("operators_webhook").await?;
        Ok(match (people, operators) {
            (Ok(people), Ok(operators)) => Ok(Self { people, operators }),
            (people, operators) => Err([people.err(), operators.err()].into_iter().flatten().flatten().collect()),
        })
    }

    /// As [`Self::load`], for a component that delivers no message to operators, and is not given their webhook.
    ///
    /// # Errors
    /// As those of [`Self::load`].
    pub async fn load_for_people() -> Result<Result<Self, Vec<Fault>>, Problem> {
        let people = Self::one("push_gateway").await?;
        Ok(people.map(|people| Self { people, operators: Gateway(None) }))
    }

    async fn one(name: &str) -> Result<Result<Gateway, Vec<Fault>>, Problem> {
        let (path, secret) = (format!("{name}_path"), format!("{name}_secret"));
        Ok(Gateway::new(name, &variable(name).await?, &variable(&path).await?, &variable(&secret).await?))
    }
}

/// The gateways as the outbox meets them, on one entry path.
pub struct Deliveries<'a> {
    /// Where messages go.
    pub gateways: &'a Gateways,
    /// How what is delivered came in.
    pub path: EntryPath,
    /// Of the component.
    pub version: &'static str,
}

impl Courier for Deliveries<'_> {
    async fn post(&self, id: &str, recipient: &str, body: String, within: Duration) -> Answer {
        let operators = recipient.starts_with(Role::Operator.as_str());
        let gateway = if operators { &self.gateways.operators } else { &self.gateways.people };
        gateway.post(id, body, within).await
    }

    fn now_ms(&self) -> i64 {
        clock::now_ms()
    }

    fn log(&self, attempted: &Attempted<'_>) {
        Line {
            known_as: KnownAs(attempted),
            what: "message",
            key: attempted.id,
            outcome: attempted.outcome,
            detail: attempted.detail,
            took: attempted.took,
            path: self.path,
            version: self.version,
        }
        .write();
    }

    fn alarm(&self, reason: &str) {
        let detail = format!("{reason}: the secret here is not the gateway's; messages wait until it is");
        Line {
            known_as: (),
            what: "alarm",
            key: "gateway_secret",
            outcome: "misconfigured",
            detail: Some(&detail),
            took: Duration::ZERO,
            path: self.path,
            version: self.version,
        }
        .write();
        let _ = writeln!(std::io::stderr(), "ALARM: {detail}");
    }

    fn patience(&self) -> Duration {
        CONNECT_TIMEOUT.saturating_add(ANSWER_TIMEOUT)
    }

    fn token(&self) -> String {
        format!("{:016x}", random::get_random_u64())
    }
}

/// A message as the operators know it: who, what, when.
struct KnownAs<'a>(&'a Attempted<'a>);

impl Serialize for KnownAs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let attempted = self.0;
        let who = match attempted.recipient.split(':').next() {
            Some("nurse") => "nurseId",
            Some("doctor") => "doctorId",
            Some("operator") => "operatorId",
            _ => "userId",
        };
        let mut map = serializer.serialize_map(None)?;
        let id = attempted.recipient_id.and_then(Id::parse);
        match (id.as_ref().and_then(Id::as_integer), &id) {
            (Some(number), _) => map.serialize_entry(who, &number)?,
            (None, Some(id)) => map.serialize_entry(who, id)?,
            (None, None) => map.serialize_entry(who, &())?,
        }
        map.serialize_entry("operate", attempted.label)?;
        if attempted.outcome == "sent" {
            map.serialize_entry("successTime", &clock::shanghai_millis(clock::now_ms()))?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn an_empty_origin_is_no_gateway() {
        assert!(Gateway::new("push_gateway", "", "", "").unwrap().0.is_none());
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now_ms = 1_445_412_420_000;
        assert_eq!(retry_after_ms("120", now_ms), Some(120_000));
        assert_eq!(retry_after_ms("Wed, 21 Oct 2015 07:28:00 GMT", now_ms), Some(60_000));
        assert_eq!(retry_after_ms("Wed, 21 Oct 2015 07:00:00 GMT", now_ms), Some(0));
        assert_eq!(retry_after_ms("soon", now_ms), None);
    }

    #[test]
    fn every_fault_of_a_gateway_is_named() {
        let pointers = |origin, path, secret| {
            let faults = Gateway::new("push_gateway", origin, path, secret).err().unwrap_or_default();
            faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert!(pointers("https://push.example.org", "/messages", SECRET).is_empty());
        assert!(pointers("http://127.0.0.1:3900/", "/messages", SECRET).is_empty());
        assert_eq!(
            pointers("push.example.org", "messages", ""),
            ["/variables/push_gateway", "/variables/push_gateway_path", "/variables/push_gateway_secret"]
        );
        let long = format!("/{}", "x".repeat(65_530));
        for path in ["/mess ages", "/消息\u{7f}", "messages", &long] {
            assert_eq!(pointers("https://push.example.org", path, SECRET), ["/variables/push_gateway_path"], "{path}");
        }
        for origin in [
            "https://push.example.org/path",
            "https://user@push.example.org",
            "ftp://x",
            "https://",
            "http://:80",
            "http://127.0.0.1:99999",
            "http://*",
        ] {
            assert_eq!(pointers(origin, "/messages", SECRET), ["/variables/push_gateway"], "{origin}");
        }
    }
}
