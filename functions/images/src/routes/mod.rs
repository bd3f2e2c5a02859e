//! HTTP in, domain call, HTTP out.
//!
//! [`rewrite`]: bodies; [`fetch`]: the reverse proxy; [`rules`]: what is rewritten to what; [`violations`]: what is
//! unlawful. [`body`] is a body that is rewritten on its way.

mod body;
mod fetch;
mod rewrite;
mod rules;
mod violations;

use std::sync::OnceLock;

use axum::{
    Router,
    http::HeaderMap,
    routing::{get, post},
};
use shared::{
    auth::Role,
    http::APP_VERSION,
    id::Id,
    problem::{Kind, Problem},
    query::Query,
};

use crate::{
    FUNCTION, VERSION,
    config::tokens,
    rules::{CONTEXTS, Caller, Context},
};

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let routes = Router::new()
            .route("/images/rewrite", post(rewrite::rewrite))
            .route("/images/fetch/{origin}", get(fetch::fetch))
            .route("/images/fetch/{origin}/", get(fetch::fetch))
            .route("/images/fetch/{origin}/{*path}", get(fetch::fetch))
            .route("/images/rules", get(rules::current).put(rules::put))
            .route("/images/rules/history", get(rules::history))
            .route("/images/rules/history/{version}", get(rules::one))
            .route(
                "/images/violations",
                post(violations::report).get(violations::list).delete(violations::take_back_image),
            )
            .route("/images/violations/{id}", get(violations::one).delete(violations::take_back));
        shared::http::router("/images", FUNCTION, VERSION, routes)
    })
}

/// Lets a caller who may act as `role` through.
async fn allowed(role: Role, headers: &HeaderMap) -> Result<(), Problem> {
    tokens().await?.require(role, headers)
}

/// Who asks, by the query and the client's version.
fn caller(query: &mut Query, headers: &HeaderMap) -> Caller {
    let context = query.parsed("context", CONTEXTS, Context::parse);
    let user = query.parsed("user", "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -", Id::parse);
    // A version that cannot be read is as good as none: it is the app's, not the caller's.
    let app_version = headers.get(APP_VERSION).and_then(|value| value.to_str().ok()?.parse().ok());
    Caller { context, user: user.map(|user| user.to_string()), app_version }
}

fn not_found(what: &str, id: &str) -> Problem {
    let id: String = id.chars().take(shared::id::MAX_LEN + 16).collect();
    Problem::new(Kind::NotFound, format!("there is no {what} `{id}`"))
}
