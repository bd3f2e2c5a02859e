//! Pays referral points and gift cards exactly once.
//!
//! Here stand the two triggers, nothing else; [`routes`] is HTTP. This version says which one it is and takes no
//! events yet.

mod routes;

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    shared::http_trigger!(crate::routes::router);

    #[redis_subscriber]
    async fn redis(_payload: Bytes) -> Result<(), String> {
        Err(format!("rewards {} takes no events yet", crate::routes::VERSION))
    }
}
