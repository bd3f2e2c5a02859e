//! Partner pharmacies, found by an order number's prefix.
//!
//! A partner is one file, which implements [`Partner`], and one line of [`ALL`]. Its account is in the variables
//! `<name>_origin`, `<name>_path` and `<name>_secret`.

mod standard;
#[cfg(test)]
pub(crate) mod tests;
mod yifeng;

use http::HeaderMap;
use shared::{
    id::Id,
    json::{self, Object, Value},
    problem::Fault,
};

use crate::{order::Order, status::Event};

/// Every partner.
pub(crate) const ALL: &[&dyn Partner] = &[&yifeng::Yifeng, &standard::Standard];

/// How far a signed time may be off: 5 minutes, as Standard Webhooks has it.
pub(crate) const TOLERANCE_MS: i64 = 5 * 60 * 1000;
/// The most characters of a reason that are kept.
const REASON_MAX: usize = 200;

/// How one pharmacy is spoken to.
pub(crate) trait Partner: Send + Sync {
    /// Its name in routes, answers and variables.
    fn name(&self) -> &'static str;
    /// What its order numbers begin with.
    fn prefix(&self) -> &'static str;
    /// Says what is wrong with a secret that cannot be one.
    fn check_secret(&self, secret: &str) -> Result<(), String>;
    /// The request that gives it an order, signed.
    fn submission(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String>;
    /// The request that calls an order off, signed; it may have never heard of it.
    fn cancellation(&self, order: &Order, call: &Call<'_>) -> Result<Outgoing, String>;
    /// What its answer to a submission means; and that to a cancellation, of which a decision is a refusal.
    fn reply(&self, status: u16, body: &[u8]) -> Reply;
    /// Checks a callback's signature and reads it.
    fn callback(&self, received: &Received<'_>) -> Result<Callback, Refusal>;
}

/// What a request is signed with.
pub(crate) struct Call<'a> {
    /// The submission's id: the same for every attempt.
    pub(crate) id: &'a str,
    pub(crate) secret: &'a str,
    pub(crate) now_ms: i64,
}

/// A request to a partner; where it goes is the account's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// What follows the account's path.
    pub(crate) path: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// What a partner's answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It has the order, and says later what becomes of it.
    Taken,
    /// It says at once what becomes of it, and why.
    Decided(Event, Option<String>),
    /// Nobody knows whether it has it: ask again.
    Unclear(String),
}

/// A callback as it came in.
pub(crate) struct Received<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
    pub(crate) secret: &'a str,
    pub(crate) now_ms: i64,
}

/// A callback that its partner signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Callback {
    /// Two with the same are one.
    pub(crate) replay_id: String,
    pub(crate) order_no: Id,
    pub(crate) report: Event,
    pub(crate) reason: Option<String>,
}

/// Why a callback is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not the partner's, or not of now.
    Signature(String),
    /// It is the partner's and cannot be read.
    Malformed(Vec<Fault>),
}

/// The partner of an order number.
pub(crate) fn of_order<'p>(partners: &[&'p dyn Partner], order_no: &str) -> Option<&'p dyn Partner> {
    partners.iter().copied().find(|partner| order_no.starts_with(partner.prefix()))
}

/// The partner with a name.
pub(crate) fn named<'p>(partners: &[&'p dyn Partner], name: &str) -> Option<&'p dyn Partner> {
    partners.iter().copied().find(|partner| partner.name() == name)
}

/// What a partner's word for a status reports; both write it in capitals or small, in English or Chinese.
pub(crate) fn report(word: &str) -> Option<Event> {
    let word = word.trim().to_ascii_lowercase().replace('-', "_");
    Some(match word.as_str() {
        "accepted" | "已接单" => Event::PartnerAccepted,
        "dispensed" | "已配药" => Event::PartnerDispensed,
        "shipped" | "已发货" => Event::PartnerShipped,
        "delivered" | "已签收" => Event::PartnerDelivered,
        "rejected" | "unknown_drug" | "已拒单" => Event::PartnerRejected,
        "out_of_stock" | "缺货" => Event::PartnerOutOfStock,
        _ => return None,
    })
}

/// Why, where an answer or a callback says so.
pub(crate) fn reason(object: &Object<'_>) -> Option<String> {
    let text = ["reason", "detail", "message", "msg"].iter().find_map(|name| object.text(name))?.trim();
    let kept = text.chars().filter(|character| !character.is_control()).take(REASON_MAX).collect::<String>();
    (!kept.is_empty()).then_some(kept)
}

/// [`reason`] of a body.
pub(crate) fn said(body: &[u8]) -> Option<String> {
    reason(json::parse(body).ok()?.as_object()?)
}

/// What an answer means by HTTP, as far as `decide`, which reads its object, has nothing to say.
///
/// A partner that has read an order and will not take it says 400, 410 or 422; one that has it already, 409. All else
/// that is not 2xx is a failure of the way there. What the partner itself calls a failure is none of its decisions, by
/// whatever status it comes: a rejection cannot be taken back.
pub(crate) fn judged(status: u16, body: &[u8], decide: impl FnOnce(&Object<'_>) -> Option<Reply>) -> Reply {
    let parsed = json::parse(body);
    let object = parsed.as_ref().ok().and_then(Value::as_object);
    match (status, object) {
        (409, _) => Reply::Taken,
        (200..=299, None) if body.trim_ascii().is_empty() => Reply::Taken,
        (200..=299, Some(object)) => decide(object).unwrap_or(Reply::Taken),
        (200..=299, None) => Reply::Unclear("the pharmacy's answer is no JSON object".into()),
        (400 | 410 | 422, Some(object)) => match decide(object) {
            None => Reply::Decided(Event::PartnerRejected, reason(object)),
            Some(Reply::Decided(event @ (Event::PartnerRejected | Event::PartnerOutOfStock), reason)) => {
                Reply::Decided(event, reason)
            }
            Some(Reply::Unclear(reason)) => Reply::Unclear(reason),
            Some(_) => Reply::Unclear(format!("the pharmacy answered {status}, and that it takes the order")),
        },
        _ => Reply::Unclear(format!("the pharmacy answered {status}")),
    }
}
