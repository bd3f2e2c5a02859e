//! Rewrites image URLs from retired domains to new ones inside any body, and takes unlawful images out of it.
//!
//! Here stand the two triggers, nothing else. The way of a body: [`finder`] and [`scan`] find where a URL may be,
//! [`escaping`] knows how its characters are written, [`media`] what stands around it, [`rules`] and [`unlawful`] what becomes of it, [`sign`] signs it, and
//! [`rewrite`] joins them for bytes as they come. [`routes`] is HTTP, [`redis`] the Redis trigger.

mod config;
mod escaping;
mod finder;
mod lanes;
mod media;
#[cfg(test)]
mod oracle;
mod outcome;
mod redis;
mod rewrite;
mod routes;
mod rules;
mod scan;
mod sign;
mod store;
mod unlawful;
mod violation;

/// The component's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Whose tables and messages these are.
const FUNCTION: &str = "images";

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    shared::http_trigger!(crate::routes::router, all_headers_under = "/images/");

    #[redis_subscriber]
    async fn redis(payload: Bytes) -> Result<(), String> {
        crate::redis::heard(payload).await.map_err(|problem| problem.detail().to_owned())
    }
}
