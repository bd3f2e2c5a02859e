//! HTTP in, domain call, HTTP out.
//!
//! [`orders`]: what services ask; [`reviews`]: what pharmacists see and decide; [`callbacks`]: what partners say;
//! [`rules`]: what operators set; [`work`]: what a scheduler calls.

mod callbacks;
mod orders;
mod reviews;
mod rules;
#[cfg(test)]
mod tests;
mod work;

use std::{sync::OnceLock, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::HeaderMap,
    routing::{get, post},
};
use bytes::Bytes;
use shared::{
    auth::Role,
    clock,
    config::Lazy,
    gateway::Deliveries,
    http::{JSON_LIMIT, read_whole},
    json::{self, Value},
    log::EntryPath,
    outbox::Whose,
    problem::{Fault, Problem},
    soon::Soon,
};

use crate::{
    config::{Config, config, db, effects, tokens},
    intake::{Intake, VERSION},
    partner::{self, Partner},
};

/// What a call may spend on delivering messages and on a partner's answer; what it leaves is done later.
const SPEND: Duration = Duration::from_secs(3);

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let routes = Router::new()
            .route("/pharmacy/orders", post(orders::place).get(orders::list))
            .route("/pharmacy/orders/{order_no}", get(orders::one))
            .route("/pharmacy/orders/{order_no}/payment", post(orders::pay))
            .route("/pharmacy/orders/{order_no}/cancel", post(orders::cancel))
            .route("/pharmacy/orders/{order_no}/review", post(reviews::decide))
            .route("/pharmacy/reviews", get(reviews::list))
            .route("/pharmacy/callbacks/{pharmacy}", post(callbacks::receive))
            .route("/pharmacy/rules", get(rules::current).put(rules::replace))
            .route("/pharmacy/rules/history", get(rules::history))
            .route("/pharmacy/rules/rollback", post(rules::roll_back))
            .route("/pharmacy/rules/check", post(rules::check))
            .route("/pharmacy/submissions", get(work::submissions))
            .route("/pharmacy/submit", post(work::submit))
            .route("/pharmacy/drain", post(work::drain))
            .route("/pharmacy/stats", get(work::stats));
        shared::http::router("/pharmacy", "pharmacy", VERSION, routes)
    })
}

/// The configuration, for a caller who may act as `role`.
async fn allowed(role: Role, headers: &HeaderMap) -> Result<&'static Config, Problem> {
    tokens().await?.require(role, headers)?;
    config().await
}

/// The way in as HTTP calls have it.
type HttpIntake = Intake<'static, Deliveries<'static>>;

/// The way in, for an HTTP call.
async fn intake(config: &'static Config) -> Result<HttpIntake, Problem> {
    static COURIER: Lazy<Deliveries<'static>> = Lazy::new();
    let make =
        async { Ok::<_, Problem>(Deliveries { gateways: &config.gateways, path: EntryPath::Http, version: VERSION }) };
    Ok(Intake {
        db: db().await?,
        effects: effects().await?,
        partners: partner::ALL,
        accounts: &config.accounts,
        courier: COURIER.get_or_try_init(make).await?,
        path: EntryPath::Http,
    })
}

/// Messages that a background delivery takes at most before it looks again.
const DELIVERED: usize = 256;

/// Has the effects of orders that were placed and delivers what is due, once the answer is on its way: orders that come
/// at the same time are told of together. What it does not reach, the next one does.
fn finish_soon() {
    static WORK: Soon = Soon::new();
    WORK.run(|| async {
        let Ok(config) = config().await else { return };
        let Ok(intake) = intake(config).await else { return };
        let until_ms = clock::after_ms(SPEND);
        let _ = intake.finish(until_ms).await;
        let _ = intake.outbox().deliver(Whose::Any, DELIVERED, until_ms).await;
    });
}

/// What a parameter must be that names a partner.
fn must_be_one_of(partners: &[&dyn Partner]) -> String {
    let names: Vec<_> = partners.iter().map(|partner| partner.name()).collect();
    format!("must be one of {}", names.join(", "))
}

/// A request's body.
async fn body(request: Request) -> Result<Bytes, Problem> {
    read_whole(request.into_body(), JSON_LIMIT).await
}

/// A body's JSON.
fn parsed(body: &[u8]) -> Result<Value<'_>, Problem> {
    json::parse(body)
        .map_err(|error| Problem::bad_input("the body is no JSON").with(Fault::at("", format!("not JSON: {error}"))))
}
