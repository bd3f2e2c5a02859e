//! Rewrites image URLs from retired domains to new ones inside any body.
//!
//! Here stand the two triggers, nothing else; [`routes`] is HTTP. This version says which one it is and takes no
//! messages yet.

mod escaping;
#[cfg(test)]
mod oracle;
mod rewrite;
mod routes;
mod rules;
mod scan;
mod sign;
mod unlawful;

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    shared::http_trigger!(crate::routes::router);

    #[redis_subscriber]
    async fn redis(_payload: Bytes) -> Result<(), String> {
        Err(format!("images {} takes no messages yet", crate::routes::VERSION))
    }
}
