//! Turns changes of nurse home-visit orders into the message that each party must see, and delivers it.
//!
//! Here stand the two triggers, nothing else. The way of an event: [`feed`] tells the four input shapes apart,
//! [`mapping`] reads a row by the operator's names, [`scenario`] decides what a transition means, [`format`] joins
//! the three; [`input`] is what comes in at once; [`intake`] commits it to the outbox and to [`store`], and delivers;
//! [`routes`] is HTTP, [`redis`] the Redis trigger, [`drain`] the stream that both of them empty.

mod config;
mod drain;
mod event;
mod feed;
mod format;
mod input;
mod intake;
mod mapping;
mod redis;
mod routes;
mod scenario;
#[cfg(test)]
mod simulation;
mod status;
mod store;

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    shared::http_trigger!(crate::routes::router);

    #[redis_subscriber]
    async fn redis(payload: Bytes) -> Result<(), String> {
        crate::redis::heard(&payload).await.map_err(|problem| problem.detail().to_owned())
    }
}
