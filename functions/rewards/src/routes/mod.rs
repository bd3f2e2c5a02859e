//! HTTP in, domain call, HTTP out.
//!
//! [`activities`]: campaigns; [`people`]: who takes part, and how they stand; [`events`]: what happened; [`cards`]: the
//! pool; [`claims`]: who gets a card, and takes it; [`books`]: settlements and the audit; [`work`]: what a scheduler
//! calls.

mod activities;
mod books;
mod cards;
mod claims;
mod events;
mod people;
mod work;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use axum::{
    Router,
    http::HeaderMap,
    routing::{delete, get, post},
};
use shared::{
    auth::Role,
    clock,
    config::Lazy,
    db::Db,
    gateway::Deliveries,
    id::Id,
    json::{self, Value},
    log::{EntryPath, Line},
    outbox::Whose,
    problem::{Fault, Kind, Problem},
    soon::Soon,
};

use crate::{
    activity::Activity,
    config::{self, VERSION, tokens},
    rewards::Rewards,
    store,
};

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let of = |path: &str| format!("/rewards/activities/{{id}}{path}");
        let routes = Router::new()
            .route("/rewards/activities", post(activities::create).get(activities::list))
            .route(&of(""), get(activities::one).patch(activities::change))
            .route(&of("/cards"), post(cards::import).get(cards::stock))
            .route(&of("/participants"), post(people::join))
            .route(&of("/participants/{user_id}"), get(people::one))
            .route(&of("/participants/{user_id}/invitees"), get(people::invitees))
            .route(&of("/invitations"), post(people::invite))
            .route(&of("/ranking"), get(people::ranking))
            .route(&of("/registrations"), post(events::registrations))
            .route(&of("/registrations/{invitee}"), delete(events::void).get(events::one))
            .route(&of("/points"), post(events::points))
            .route(&of("/settlements"), post(books::settle))
            .route(&of("/fulfil"), post(work::fulfil))
            .route(&of("/audit"), get(books::audit))
            .route(&of("/recalls"), post(claims::recall))
            .route("/rewards/claims", get(claims::list))
            .route("/rewards/claims/{id}", get(claims::one))
            .route("/rewards/claims/{id}/activate", post(claims::activate))
            .route("/rewards/drain", post(work::drain));
        shared::http::router("/rewards", "rewards", VERSION, routes)
    })
}

/// What a call may spend on work that another call can go on with.
const SPEND: Duration = Duration::from_secs(10);

/// Whether there is time left of a call that begins now.
fn more_time(budget: Duration) -> impl Fn() -> bool + Send + Sync + Copy {
    let started = Instant::now();
    move || started.elapsed() < budget
}

/// Lets through a caller who may act as `role`.
async fn allowed(role: Role, headers: &HeaderMap) -> Result<(), Problem> {
    tokens().await?.require(role, headers)
}

/// The gateways as HTTP calls meet them.
async fn courier() -> Result<&'static Deliveries<'static>, Problem> {
    static COURIER: Lazy<Deliveries<'static>> = Lazy::new();
    COURIER.get_or_try_init(config::courier(EntryPath::Http)).await
}

/// A campaign's work, for an HTTP call.
async fn rewards() -> Result<Rewards<'static, Deliveries<'static>>, Problem> {
    config::rewards(courier().await?).await
}

/// Writes what an operator's or a service's call did to `key`.
fn log(what: &str, key: &str, outcome: &str, detail: Option<&str>, started: Instant) {
    let (took, path) = (started.elapsed(), EntryPath::Http);
    Line { known_as: (), what, key, outcome, detail, took, path, version: VERSION }.write();
}

/// The activity of the route.
async fn activity(db: &Db, id: &str) -> Result<Activity, Problem> {
    store::activities::get(db, id).await?.ok_or_else(|| not_found("activity", id))
}

/// The activity's id in the route.
fn activity_id(id: &str) -> Result<Id, Problem> {
    Id::parse(id).ok_or_else(|| not_found("activity", id))
}

/// A body as JSON.
fn parsed(body: &[u8]) -> Result<Value<'_>, Problem> {
    json::parse(body).map_err(|error| {
        Problem::bad_input("the body is not acceptable").with(Fault::at("", format!("not JSON: {error}")))
    })
}

fn not_found(what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(shared::id::MAX_LEN + 16).collect();
    Problem::new(Kind::NotFound, format!("there is no {what} `{id}`"))
}

/// Messages that a background delivery takes at most before it looks again.
const DELIVERED: usize = 256;

/// Tells owners of their cards and delivers what is due, once the answer is on its way: the caller does not wait for
/// the gateway, and cards that are given at the same time are told of together. What it does not reach, the next one
/// does.
fn deliver_soon() {
    static DELIVERY: Soon = Soon::new();
    DELIVERY.run(|| async {
        if let Ok(rewards) = rewards().await {
            let until_ms = clock::after_ms(SPEND);
            let _ = rewards.tell(more_time(SPEND)).await;
            let _ = rewards.outbox().deliver(Whose::Any, DELIVERED, until_ms).await;
        }
    });
}
