//! HTTP in, domain call, HTTP out.
//!
//! [`events`]: what comes in; [`kept`]: what nobody could act on; [`messages`]: what goes out; [`work`]: what a
//! scheduler calls.

mod events;
mod kept;
mod messages;
mod work;

use std::sync::OnceLock;

use axum::{
    Router,
    http::HeaderMap,
    routing::{get, post},
};
use shared::{
    auth::Role,
    config::Lazy,
    gateway::Deliveries,
    log::EntryPath,
    problem::{Kind, Problem},
};

use crate::{
    config::{Config, config, db, tokens},
    intake::{Intake, VERSION},
};

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let routes = Router::new()
            .route("/push/format", post(events::format))
            .route("/push/events", post(events::events).get(kept::list))
            .route("/push/events/{id}", get(kept::one))
            .route("/push/events/{id}/resolve", post(kept::resolve))
            .route("/push/messages", get(messages::list))
            .route("/push/messages/{id}", get(messages::one))
            .route("/push/messages/{id}/retry", post(messages::retry))
            .route("/push/retry", post(messages::retry_all))
            .route("/push/stats", get(messages::stats))
            .route("/push/deliver", post(work::deliver))
            .route("/push/drain", post(work::drain));
        shared::http::router("/push", "push", VERSION, routes)
    })
}

/// The configuration, for a caller who may act as `role`.
async fn allowed(role: Role, headers: &HeaderMap) -> Result<&'static Config, Problem> {
    tokens().await?.require(role, headers)?;
    config().await
}

/// The gateway as HTTP calls meet it.
async fn courier() -> Result<&'static Deliveries<'static>, Problem> {
    static COURIER: Lazy<Deliveries<'static>> = Lazy::new();
    let make =
        async { Ok(Deliveries { gateways: &config().await?.gateways, path: EntryPath::Http, version: VERSION }) };
    COURIER.get_or_try_init(make).await
}

/// The way in, for an HTTP call.
async fn intake(config: &'static Config) -> Result<Intake<'static, Deliveries<'static>>, Problem> {
    Ok(Intake { formatter: &config.formatter, db: db().await?, courier: courier().await?, path: EntryPath::Http })
}

fn not_found(what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(shared::id::MAX_LEN + 16).collect();
    Problem::new(Kind::NotFound, format!("there is no {what} `{id}`"))
}
