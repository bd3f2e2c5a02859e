//! The plain form, for systems without change data capture:
//! `{event_id, order_id, from, to, operation?, patient_id?, nurse_id?, nurse_name?, channel?, occurred_at}`.

use shared::{
    clock,
    id::Id,
    json::{Object, Value},
    message::Channel,
    problem::Fault,
};

use crate::{
    event::{OrderChange, Person, Reading, person},
    scenario,
    status::Status,
};

pub(super) fn is(event: &Object<'_>) -> bool {
    ["order_id", "from", "to"].iter().filter(|key| event.get(key).is_some()).count() >= 2
}

pub(super) fn read<'v>(event: &'v Object<'v>) -> Reading<'v> {
    let mut faults = Vec::new();
    let event_id = required(event, "event_id", ID, Id::from_json, &mut faults);
    let order_id = required(event, "order_id", ID, Id::from_json, &mut faults);
    let status = |value: &Value<'_>| value.as_str().and_then(Status::parse);
    let from = required(event, "from", STATUS, status, &mut faults);
    let to = required(event, "to", STATUS, status, &mut faults);
    let instant = |value: &Value<'_>| value.as_str().and_then(clock::parse_rfc3339);
    let occurred_at_ms = required(event, "occurred_at", INSTANT, instant, &mut faults);
    let operation = optional(event, "operation", "must be a string", text, &mut faults);
    let patient_id = optional(event, "patient_id", ID, person, &mut faults).flatten();
    let nurse_id = optional(event, "nurse_id", ID, person, &mut faults).flatten();
    let nurse_name = optional(event, "nurse_name", "must be a string", text, &mut faults);
    let channel = |value: &Value<'_>| value.as_str().and_then(patient_channel);
    let channel = optional(event, "channel", "must be `wechat` or `mini_program`", channel, &mut faults);
    match (event_id, order_id, from, to, occurred_at_ms) {
        (Some(event_id), Some(order_id), Some(from), Some(to), Some(occurred_at_ms)) if faults.is_empty() => {
            // The plain form has no row to compare: saying the operation again is reporting it anew.
            let restated = from == to && operation.as_deref().is_some_and(scenario::restates);
            Reading::Order(OrderChange {
                event_id,
                order_id,
                from,
                to,
                operation: operation.filter(|operation| !operation.is_empty()),
                restated,
                patient: Person { id: patient_id, ..Person::default() },
                nurse: Person { id: nurse_id, name: nurse_name, ..Person::default() },
                channel: channel.map(Ok),
                occurred_at_ms,
            })
        }
        _ => Reading::Unreadable(faults),
    }
}

const ID: &str = "must be an id: 1 to 64 of A-Z a-z 0-9 . _ : -";
const STATUS: &str = "must be a status, by key or label";
const INSTANT: &str = "must be an RFC 3339 time with offset";

fn text(value: &Value<'_>) -> Option<String> {
    value.as_str().map(|text| text.trim().to_owned())
}

/// The channels that a patient can be reached by.
pub(crate) fn patient_channel(name: &str) -> Option<Channel> {
    Channel::parse(name).filter(|channel| *channel != Channel::App)
}

fn required<T>(
    event: &Object<'_>,
    key: &str,
    must: &str,
    read: impl FnOnce(&Value<'_>) -> Option<T>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    if event.present(key).is_none() {
        faults.push(Fault::at(format!("/{key}"), "is missing"));
        return None;
    }
    optional(event, key, must, read, faults)
}

fn optional<T>(
    event: &Object<'_>,
    key: &str,
    must: &str,
    read: impl FnOnce(&Value<'_>) -> Option<T>,
    faults: &mut Vec<Fault>,
) -> Option<T> {
    let value = event.present(key)?;
    let read = read(value);
    if read.is_none() {
        faults.push(Fault::at(format!("/{key}"), must));
    }
    read
}
