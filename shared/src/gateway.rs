//! Hands a message to the push gateway: `POST` of its JSON, signed by Standard Webhooks under the message's id.
//!
//! Without a gateway configured, messages go to the log alone, which says so.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri, header};
use serde::{Serialize, Serializer, ser::SerializeMap};
use spin_sdk::http::FullBody;

use crate::{
    clock,
    http::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, SendError, send},
    log::{EntryPath, Line},
    message::{Message, Role},
    problem::Fault,
    signature::Secret,
};

/// What became of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The gateway accepted it.
    Sent,
    /// There is no gateway: the log has it.
    Logged,
    /// The gateway did not accept it, for this reason.
    Failed(String),
}

impl Delivery {
    /// As answers and logs call it.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Logged => "logged",
            Self::Failed(_) => "failed",
        }
    }

    /// The reason of a failure.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Logged => Some("no push_gateway is configured"),
            Self::Sent => None,
        }
    }
}

/// Where messages go.
pub struct Gateway(Option<Endpoint>);

struct Endpoint {
    uri: Uri,
    secret: Secret,
}

impl Gateway {
    /// Reads the values of `push_gateway`, `push_gateway_path` and `push_gateway_secret`.
    ///
    /// # Errors
    /// Every fault of the three. An empty origin is none: it means that there is no gateway.
    pub fn new(origin: &str, path: &str, secret: &str) -> Result<Self, Vec<Fault>> {
        let origin = origin.trim();
        if origin.is_empty() {
            return Ok(Self(None));
        }
        let mut faults = Vec::new();
        let base = origin.strip_suffix('/').unwrap_or(origin);
        let is_origin = base.parse::<Uri>().is_ok_and(|uri| {
            let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
            let bare = base.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#', '@', '*']));
            let named = uri.host().is_some_and(|host| !host.is_empty());
            // A port that is there must be one.
            let port = uri.authority().is_some_and(|authority| {
                authority.as_str().len() == authority.host().len() || authority.port_u16().is_some()
            });
            scheme && bare && named && port
        });
        if !is_origin {
            faults.push(Fault::at("/variables/push_gateway", "must be an origin such as https://push.example.org"));
        }
        if !path.starts_with('/') {
            faults.push(Fault::at("/variables/push_gateway_path", "must start with /"));
        }
        let secret = Secret::parse(secret)
            .map_err(|error| faults.push(Fault::at("/variables/push_gateway_secret", error.to_string())));
        let uri = format!("{base}{path}")
            .parse()
            .map_err(|error| faults.push(Fault::at("/variables/push_gateway", format!("is no URL: {error}"))));
        match (secret, uri) {
            (Ok(secret), Ok(uri)) if faults.is_empty() => Ok(Self(Some(Endpoint { uri, secret }))),
            _ => Err(faults),
        }
    }

    /// Posts `message`, gives up after `within` (does not try if that is nothing), and logs what became of it.
    pub async fn deliver(
        &self,
        message: &Message,
        within: Duration,
        path: EntryPath,
        version: &'static str,
    ) -> Delivery {
        let started = Instant::now();
        let delivery = match &self.0 {
            None => Delivery::Logged,
            Some(_) if within.is_zero() => {
                Delivery::Failed("not tried: earlier messages took all the time there was".into())
            }
            Some(endpoint) => match endpoint.post(message, within).await {
                Ok(()) => Delivery::Sent,
                Err(reason) => Delivery::Failed(reason),
            },
        };
        Line {
            known_as: KnownAs { message, delivered: delivery == Delivery::Sent },
            what: "message",
            key: message.id.as_str(),
            outcome: delivery.outcome(),
            detail: delivery.detail(),
            started,
            path,
            version,
        }
        .write();
        delivery
    }

    /// The longest that one delivery takes.
    pub const fn patience() -> Duration {
        CONNECT_TIMEOUT.saturating_add(ANSWER_TIMEOUT)
    }
}

impl Endpoint {
    async fn post(&self, message: &Message, within: Duration) -> Result<(), String> {
        let body = serde_json::to_vec(message).map_err(|error| format!("the message cannot be written: {error}"))?;
        let signature = self
            .secret
            .sign(message.id.as_str(), clock::now_ms(), &body)
            .map_err(|error| format!("the message cannot be signed: {error}"))?;
        let mut request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(FullBody::new(Bytes::from(body)))
            .map_err(|error| format!("the request cannot be made: {error}"))?;
        request.headers_mut().extend(signature);
        match send(request, within).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("the gateway answered {}", answer.status().as_u16())),
            Err(SendError::TimedOut) => Err("the gateway did not answer in time".into()),
            Err(error) => Err(format!("the gateway {error}")),
        }
    }
}

/// A delivered message as the operators know it: who, what, when.
struct KnownAs<'a> {
    message: &'a Message,
    delivered: bool,
}

impl Serialize for KnownAs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let recipient = &self.message.recipient;
        let who = match recipient.role {
            Role::Patient => "userId",
            Role::Nurse => "nurseId",
            Role::Doctor => "doctorId",
        };
        let mut map = serializer.serialize_map(None)?;
        match recipient.id.as_ref().map(|id| (id.as_integer(), id)) {
            Some((Some(number), _)) => map.serialize_entry(who, &number)?,
            Some((None, id)) => map.serialize_entry(who, id)?,
            None => map.serialize_entry(who, &())?,
        }
        map.serialize_entry("operate", &self.message.label)?;
        if self.delivered {
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
        assert!(Gateway::new("", "", "").unwrap().0.is_none());
    }

    #[test]
    fn every_fault_of_a_gateway_is_named() {
        let pointers = |origin, path, secret| {
            let faults = Gateway::new(origin, path, secret).err().unwrap_or_default();
            faults.into_iter().map(|fault| fault.pointer).collect::<Vec<_>>()
        };
        assert!(pointers("https://push.example.org", "/messages", SECRET).is_empty());
        assert!(pointers("http://127.0.0.1:3900/", "/messages", SECRET).is_empty());
        assert_eq!(
            pointers("push.example.org", "messages", ""),
            ["/variables/push_gateway", "/variables/push_gateway_path", "/variables/push_gateway_secret"]
        );
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
