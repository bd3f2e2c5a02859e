//! Pays referral points and gift cards exactly once.
//!
//! Here stand the two triggers, nothing else. [`rewards`] is what a campaign does, step by step, on [`store`];
//! [`activity`], [`period`], [`event`] and [`card`] are its words; [`import`] and [`vault`] take cards in and keep their secrets;
//! [`notice`] is whom it tells what; [`audit`] compares the books with the events. [`routes`] is HTTP, [`redis`] the
//! Redis trigger, [`drain`] the stream that both of them empty.

mod activity;
mod audit;
mod card;
mod config;
mod drain;
mod event;
mod import;
mod notice;
mod period;
mod redis;
mod rewards;
mod routes;
#[cfg(test)]
mod simulation;
mod store;
mod vault;

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
