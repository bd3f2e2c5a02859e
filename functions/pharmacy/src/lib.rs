//! Takes doctors' prescription orders to the right partner pharmacy.
//!
//! Here stand the two triggers, nothing else. The way of an order: [`order`] reads it, [`partner`] finds whose it is,
//! [`rules`] say whether it may pass, [`intake`] commits it to [`store`] and moves it as [`status`] allows, [`notice`]
//! says who is told, [`submission`] gives it to its partner once it is paid; [`history`] is what became of it.
//! [`routes`] is HTTP, [`redis`] the Redis trigger, [`drain`] the stream that both of them empty.

mod config;
mod drain;
mod history;
mod intake;
mod notice;
mod order;
mod partner;
mod redis;
mod routes;
mod rules;
#[cfg(test)]
mod simulation;
mod status;
mod store;
mod submission;

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    shared::http_trigger!(crate::routes::router, all_headers_under = "/pharmacy/callbacks/");

    #[redis_subscriber]
    async fn redis(payload: Bytes) -> Result<(), String> {
        crate::redis::heard(&payload).await.map_err(|problem| problem.detail().to_owned())
    }
}
