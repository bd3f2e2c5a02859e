//! HTTP in, domain call, HTTP out.

use std::sync::OnceLock;

use axum::Router;

/// The component's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All routes, built once per instance.
pub(crate) fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| shared::http::router("/rewards", "rewards", VERSION, Router::new()))
}
