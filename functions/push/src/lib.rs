//! Turns changes of nurse home-visit orders into the message that each party must see, and delivers it.
//!
//! Here stand the two triggers, nothing else. The way of an event: [`feed`] tells the four input shapes apart,
//! [`mapping`] reads a row by the operator's names, [`scenario`] decides what a transition means, [`format`] joins
//! the three, [`intake`] delivers, [`routes`] is HTTP.

mod config;
mod event;
mod feed;
mod format;
mod intake;
mod mapping;
mod routes;
mod scenario;
mod status;

#[expect(unsafe_code, reason = "the SDK's macro exports what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::{
        http::{IntoResponse, Request},
        http_service, redis_subscriber,
    };

    #[http_service]
    async fn http(request: Request) -> impl IntoResponse {
        shared::http::serve(crate::routes::router(), request).await
    }

    #[redis_subscriber]
    async fn redis(payload: Bytes) -> Result<(), String> {
        crate::intake::from_redis(&payload).await.map_err(|problem| problem.detail().to_owned())
    }
}
