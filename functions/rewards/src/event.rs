//! What happens in a campaign, as callers and other systems tell it.

use serde::Serialize;
use shared::{
    fields::Fields,
    id::Id,
    json::Value,
    message::Channel,
    problem::{Fault, Problem},
};

use crate::activity::POINTS_MAX;

/// Somebody opened an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Registration {
    pub(crate) activity_id: Id,
    pub(crate) event_id: Id,
    pub(crate) invitee: Id,
    pub(crate) opened_at_ms: i64,
    pub(crate) new_customer: bool,
}

/// Somebody earned points elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PointsEvent {
    pub(crate) activity_id: Id,
    pub(crate) event_id: Id,
    pub(crate) user_id: Id,
    pub(crate) kind: Id,
    pub(crate) points: i64,
    pub(crate) at_ms: i64,
}

/// Either, as they come by Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Registration(Registration),
    Points(PointsEvent),
}

/// Somebody invited somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invitation {
    pub(crate) inviter: Id,
    pub(crate) invitee: Id,
    /// When; where it is left out, before whatever comes later.
    pub(crate) invited_at_ms: Option<i64>,
}

/// Somebody joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Joining {
    pub(crate) user_id: Id,
    pub(crate) channel: Option<Channel>,
}

impl Registration {
    /// Reads one of `activity_id`, or of the activity that it names.
    pub(crate) fn read(value: &Value<'_>, base: String, activity_id: Option<&Id>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(value, base);
        let activity_id = activity(&mut fields, activity_id);
        let read =
            (fields.id("event_id"), fields.id("invitee"), fields.instant("opened_at"), fields.flag("new_customer"));
        let read = (|| {
            let (event_id, invitee, opened_at_ms, new_customer) = read;
            Some(Self {
                activity_id: activity_id?,
                event_id: event_id?,
                invitee: invitee?,
                opened_at_ms: opened_at_ms?,
                new_customer: new_customer?,
            })
        })();
        fields.finish(read)
    }
}

impl PointsEvent {
    /// Likewise.
    pub(crate) fn read(value: &Value<'_>, base: String, activity_id: Option<&Id>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(value, base);
        let activity_id = activity(&mut fields, activity_id);
        let read = (
            fields.id("event_id"),
            fields.id("user_id"),
            fields.id("kind"),
            fields.integer("points", 1..=POINTS_MAX),
            fields.instant("at"),
        );
        let read = (|| {
            let (event_id, user_id, kind, points, at_ms) = read;
            Some(Self {
                activity_id: activity_id?,
                event_id: event_id?,
                user_id: user_id?,
                kind: kind?,
                points: points?,
                at_ms: at_ms?,
            })
        })();
        fields.finish(read)
    }
}

/// The activity: the route's, or the body's own. A body that names one may stand under a route of the same.
fn activity(fields: &mut Fields<'_>, route: Option<&Id>) -> Option<Id> {
    // A body of the stream serves here, too.
    fields.optional("type", "must be registration or points", |value| Event::kind(value.as_str()?));
    let Some(route) = route else { return fields.id("activity_id") };
    if let Some(named) = fields.optional_id("activity_id")
        && named != *route
    {
        fields.fault("activity_id", "is not the activity of the route");
    }
    Some(route.clone())
}

/// What an event on Redis is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Registration,
    Points,
}

impl Event {
    fn kind(name: &str) -> Option<Kind> {
        match name {
            "registration" => Some(Kind::Registration),
            "points" => Some(Kind::Points),
            _ => None,
        }
    }

    /// Reads one as it comes by Redis, with `activity_id` and `type`; without a `type` it is a registration.
    pub(crate) fn read(value: &Value<'_>, base: String) -> Result<Self, Vec<Fault>> {
        let name = value.as_object().and_then(|object| object.text("type"));
        match name.and_then(Self::kind) {
            Some(Kind::Points) => PointsEvent::read(value, base, None).map(Self::Points),
            _ => Registration::read(value, base, None).map(Self::Registration),
        }
    }
}

impl Invitation {
    /// Reads the body of `POST …/invitations`.
    pub(crate) fn read(body: &Value<'_>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(body, "");
        let (inviter, invitee) = (fields.id("inviter"), fields.id("invitee"));
        let invited_at_ms = fields.optional_instant("invited_at");
        if inviter.is_some() && inviter == invitee {
            fields.fault("invitee", "must not be the inviter");
        }
        let read = inviter.zip(invitee).map(|(inviter, invitee)| Self { inviter, invitee, invited_at_ms });
        fields.finish(read)
    }
}

impl Joining {
    /// Reads the body of `POST …/participants`.
    pub(crate) fn read(body: &Value<'_>) -> Result<Self, Vec<Fault>> {
        let mut fields = Fields::of(body, "");
        let user_id = fields.id("user_id");
        let must = "must be wechat, mini_program or app";
        let channel = fields.optional("channel", must, |value| Channel::parse(value.as_str()?));
        fields.finish(user_id.map(|user_id| Self { user_id, channel }))
    }
}

/// The most events of one array.
pub(crate) const EVENTS_MAX: usize = 10_000;

/// Reads one value, or each of an array; the flag says which it was.
///
/// # Errors
/// 400 with every fault of all of them.
pub(crate) fn one_or_many<T>(
    body: &Value<'_>,
    read: impl Fn(&Value<'_>, String) -> Result<T, Vec<Fault>>,
) -> Result<(Vec<T>, bool), Problem> {
    let Some(items) = body.as_array() else {
        return read(body, String::new()).map(|one| (vec![one], false)).map_err(shared::fields::unacceptable);
    };
    if items.is_empty() || items.len() > EVENTS_MAX {
        let fault = Fault::at("", format!("must have 1 to {EVENTS_MAX} events"));
        return Err(shared::fields::unacceptable(vec![fault]));
    }
    let mut all = Vec::with_capacity(items.len());
    let mut faults = Vec::new();
    for (place, item) in items.iter().enumerate() {
        match read(item, format!("/{place}")) {
            Ok(one) => all.push(one),
            Err(found) => faults.extend(found),
        }
    }
    if faults.is_empty() { Ok((all, true)) } else { Err(shared::fields::unacceptable(faults)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::json;

    #[test]
    fn an_event_of_the_stream_says_what_it_is() {
        let read = |text: &str| Event::read(&json::parse(text.as_bytes()).unwrap(), String::new());
        let points = r#"{"type":"points","activity_id":"a","event_id":"e","user_id":7,"kind":"learning","points":5,
            "at":"2020-09-22T10:00:00+08:00"}"#;
        assert!(matches!(read(points), Ok(Event::Points(event)) if event.user_id.as_str() == "7"));
        let registration = r#"{"activity_id":"a","event_id":"e","invitee":"u","opened_at":"2020-09-22T10:00:00+08:00",
            "new_customer":true}"#;
        assert!(matches!(read(registration), Ok(Event::Registration(_))));
        let faults = read(r#"{"type":"other","activity_id":"a","new_customer":1}"#).unwrap_err();
        let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/type", "/event_id", "/invitee", "/opened_at", "/new_customer"]);
    }

    #[test]
    fn nobody_invites_themselves() {
        let body = json::parse(br#"{"inviter":"u1","invitee":"u1"}"#).unwrap();
        assert_eq!(Invitation::read(&body).unwrap_err().first().map(|fault| fault.pointer.as_str()), Some("/invitee"));
    }
}
