//! Paid orders to their partner: a courier of the shared outbox, with a queue for each partner, so that one that is down
//! holds up no other.
//!
//! What a partner decides is recorded before the row is settled: a crash in between repeats the submission, under the
//! same id, and the record finds itself made.

use std::{collections::BTreeMap, future::Future, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use serde::Serialize;
use shared::{
    clock,
    config::misconfigured,
    gateway::retry_after_ms,
    http::{is_origin, send_whole},
    log::Line,
    outbox::{Answer, Attempted, Courier},
    problem::{Fault, Problem},
};

use crate::{
    intake::{Denied, Intake, VERSION},
    partner::{Call, Outgoing, Partner, Reply, said},
    status::Event,
    store::{self, Kept},
};

/// Gives the partner an order.
pub(crate) const SUBMIT: &str = "submit";
/// Tells it that an order was called off.
pub(crate) const CANCEL: &str = "cancel";

/// The queue of a partner's submissions.
pub(crate) fn queue(partner: &dyn Partner) -> String {
    format!("pharmacy:{}", partner.name())
}

/// Where a partner is, and what both sides sign with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Origin and path; empty where the partner is not connected yet.
    pub(crate) url: String,
    pub(crate) secret: String,
}

impl Account {
    /// The account of a partner whose variables `<name>_origin`, `<name>_path` and `<name>_secret` are these. Without an
    /// origin it is not connected: its orders wait.
    ///
    /// # Errors
    /// Every fault of every variable.
    pub(crate) fn of(partner: &dyn Partner, [origin, path, secret]: [&str; 3]) -> Result<Self, Vec<Fault>> {
        let origin = origin.trim().trim_end_matches('/');
        let mut faults = Vec::new();
        let fault = |part: &str, detail: String| Fault::at(format!("/variables/{}_{part}", partner.name()), detail);
        if !origin.is_empty() && !is_origin(origin) {
            faults.push(fault("origin", "must be an origin such as https://pharmacy.example.org".into()));
        }
        if !path.starts_with('/') {
            faults.push(fault("path", "must start with /".into()));
        }
        if !(origin.is_empty() && secret.is_empty())
            && let Err(detail) = partner.check_secret(secret)
        {
            faults.push(fault("secret", detail));
        }
        let url = if origin.is_empty() { String::new() } else { format!("{origin}{}", path.trim_end_matches('/')) };
        if faults.is_empty() { Ok(Self { url, secret: secret.to_owned() }) } else { Err(faults) }
    }
}

/// The partners' accounts, by their names. One whose variables have faults is shut alone: its orders wait, and its
/// callbacks are told to come again.
#[derive(Debug, Default)]
pub(crate) struct Pharmacies(pub(crate) BTreeMap<&'static str, Result<Account, Vec<Fault>>>);

impl Pharmacies {
    /// A partner's account.
    ///
    /// # Errors
    /// 503 with the faults of its variables.
    pub(crate) fn account(&self, partner: &dyn Partner) -> Result<&Account, Problem> {
        match self.0.get(partner.name()) {
            Some(Ok(account)) => Ok(account),
            Some(Err(faults)) => Err(misconfigured(faults.clone())),
            None => Err(misconfigured(vec![Fault::at(format!("/variables/{}_origin", partner.name()), "is missing")])),
        }
    }
}

/// What a partner answered.
#[derive(Clone, Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    /// What `Retry-After` asks for, from now.
    pub(crate) retry_after_ms: Option<i64>,
    pub(crate) body: Bytes,
}

/// The way to partners. A simulation is another one.
pub(crate) trait Peer: Send + Sync {
    /// Posts a request to a partner, and gives up after `within`; an error says why there is no answer.
    fn post(
        &self,
        url: String,
        request: Outgoing,
        within: Duration,
    ) -> impl Future<Output = Result<Answered, String>> + Send;
}

/// The way to partners from a component.
pub(crate) struct Outbound;

/// The most bytes of a partner's answer that are read.
const ANSWER_MAX: usize = 64 * 1024;

impl Peer for Outbound {
    async fn post(&self, url: String, request: Outgoing, within: Duration) -> Result<Answered, String> {
        let mut message = Request::post(url)
            .body(Bytes::from(request.body))
            .map_err(|error| format!("the request cannot be made: {error}"))?;
        message.headers_mut().extend(request.headers);
        let answer = send_whole(message, within, ANSWER_MAX).await.map_err(|error| format!("the pharmacy {error}"))?;
        let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after_ms = after.and_then(|value| retry_after_ms(value, clock::now_ms()));
        Ok(Answered { status: answer.status().as_u16(), retry_after_ms, body: answer.into_body() })
    }
}

/// Carries one partner's queue.
pub(crate) struct Submissions<'a, C, P> {
    pub(crate) partner: &'a dyn Partner,
    pub(crate) account: &'a Account,
    pub(crate) queue: &'a str,
    pub(crate) peer: &'a P,
    pub(crate) intake: Intake<'a, C>,
}

/// What a partner makes of a cancellation.
enum CalledOff {
    /// It does not have the order, or not any more.
    Confirmed,
    /// It keeps it, for this reason.
    Refused(String),
    /// Nobody knows: ask again.
    Unclear(String),
}

fn called_off(kept: &Kept, answered: &Answered, reply: Reply) -> CalledOff {
    let takes_it = kept.history.iter().any(|step| Event::parse(&step.event).is_some_and(Event::is_partners));
    let by_status = || said(&answered.body).unwrap_or_else(|| format!("the pharmacy answered {}", answered.status));
    match (answered.status, reply) {
        // It has no such order; one that has spoken of it has no such route.
        (404 | 410, _) if !takes_it => CalledOff::Confirmed,
        // The order is too far, or the pharmacy takes no cancellations.
        (404 | 405 | 409 | 410, _) => CalledOff::Refused(by_status()),
        (_, Reply::Taken | Reply::Decided(Event::PartnerAccepted, _)) => CalledOff::Confirmed,
        (_, Reply::Decided(_, reason)) => CalledOff::Refused(reason.unwrap_or_else(by_status)),
        (_, Reply::Unclear(reason)) => CalledOff::Unclear(reason),
    }
}

impl<C: Courier, P: Peer> Submissions<'_, C, P> {
    async fn carry(&self, id: &str, body: &str, within: Duration) -> Result<Answer, Denied> {
        let Some((what, order_no)) = body.split_once(' ') else { return Ok(Answer::Accepted) };
        let submits = what == SUBMIT;
        let intake = &self.intake;
        let now_ms = intake.courier.now_ms();
        if self.account.url.is_empty() {
            return Ok(Answer::Unreachable("the pharmacy has no origin in this deployment".into()));
        }
        let kept = match submits {
            true => store::give(intake.db, order_no, now_ms).await?,
            false => store::get(intake.db, order_no).await?,
        };
        // Called off before it was sent, or the partner has called back already.
        let Some(kept) = kept else { return Ok(Answer::Accepted) };
        let call = Call { id, secret: &self.account.secret, now_ms };
        let request = match submits {
            true => self.partner.submission(&kept.order, &call),
            false => self.partner.cancellation(&kept.order, &call),
        };
        let request = match request {
            Ok(request) => request,
            Err(detail) => return Ok(Answer::Unreachable(format!("the request cannot be signed: {detail}"))),
        };
        let url = format!("{}{}", self.account.url, request.path);
        let answered = match self.peer.post(url, request, within).await {
            Ok(answered) => answered,
            Err(reason) => return Ok(Answer::Unreachable(reason)),
        };
        if matches!(answered.status, 401 | 403 | 429 | 503) {
            return Ok(Answer::Refused { status: answered.status, retry_after_ms: answered.retry_after_ms });
        }
        let reply = self.partner.reply(answered.status, &answered.body);
        if !submits {
            return match called_off(&kept, &answered, reply) {
                CalledOff::Confirmed => Ok(Answer::Accepted),
                CalledOff::Unclear(reason) => Ok(Answer::Unreachable(reason)),
                CalledOff::Refused(reason) => {
                    // Somebody must call the pharmacy: asking again changes nothing.
                    if intake.cancel_refused(order_no, self.partner.name(), reason).await? {
                        let reason = "the pharmacy does not call the order off; its history says why";
                        self.say("cancel_refused", order_no, reason);
                    }
                    Ok(Answer::Accepted)
                }
            };
        }
        match reply {
            Reply::Taken => Ok(Answer::Accepted),
            Reply::Unclear(reason) => Ok(Answer::Unreachable(reason)),
            Reply::Decided(event, reason) => {
                intake.report(order_no, self.partner.name(), event, reason).await?;
                Ok(Answer::Accepted)
            }
        }
    }
}

impl<C, P> Submissions<'_, C, P> {
    /// Tells operators what they must look at.
    fn say(&self, outcome: &str, key: &str, detail: &str) {
        let known_as = KnownAs { pharmacy: self.partner.name(), order_no: None };
        let (detail, path) = (Some(detail), self.intake.path);
        Line { known_as, what: "alarm", key, outcome, detail, took: Duration::ZERO, path, version: VERSION }.write();
    }
}

impl<C: Courier, P: Peer> Courier for Submissions<'_, C, P> {
    async fn post(&self, id: &str, _: &str, body: String, within: Duration) -> Answer {
        match self.carry(id, &body, within).await {
            Ok(answer) => answer,
            Err(Denied::Database(error)) => Answer::Unreachable(format!("the answer could not be recorded: {error}")),
            Err(Denied::Problem(problem)) => Answer::Unreachable(problem.detail().to_owned()),
        }
    }

    fn now_ms(&self) -> i64 {
        self.intake.courier.now_ms()
    }

    fn log(&self, attempted: &Attempted<'_>) {
        let known_as = KnownAs { pharmacy: self.partner.name(), order_no: attempted.recipient_id };
        let Attempted { id, outcome, detail, took, .. } = *attempted;
        Line { known_as, what: "submission", key: id, outcome, detail, took, path: self.intake.path, version: VERSION }
            .write();
    }

    fn alarm(&self, reason: &str) {
        let detail = format!("{reason}: the secret here is not the pharmacy's; orders wait until it is");
        self.say("misconfigured", self.queue, &detail);
    }

    fn patience(&self) -> Duration {
        self.intake.courier.patience()
    }

    fn token(&self) -> String {
        self.intake.courier.token()
    }

    fn queue(&self) -> &str {
        self.queue
    }

    /// A paid order is never given up.
    fn given_up_after_ms(&self) -> i64 {
        i64::MAX
    }
}

/// A submission as operators know it.
#[derive(Serialize)]
struct KnownAs<'a> {
    pharmacy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_no: Option<&'a str>,
}
