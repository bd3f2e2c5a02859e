//! Turns changes of nurse home-visit orders into the message that each party must see, and delivers it.
//!
//! Here stand the two triggers, nothing else. The way of an event: [`feed`] tells the four input shapes apart,
//! [`mapping`] reads a row by the operator's names, [`scenario`] decides what a transition means, [`format`] joins
//! the three; [`input`] is what comes in at once, [`intake`] delivers, [`routes`] is HTTP.

mod config;
mod event;
mod feed;
mod format;
mod input;
mod intake;
mod mapping;
mod routes;
mod scenario;
mod status;

#[expect(unsafe_code, reason = "the SDK's macros export what the runtime calls")]
mod triggers {
    use bytes::Bytes;
    use spin_sdk::{
        redis_subscriber,
        wasip3::{
            self,
            exports::http::handler::Guest,
            http::types::{ErrorCode, Request, Response},
        },
    };

    /// What the SDK's `#[http_service]` would export, with `shared::http`'s conversions instead of the SDK's.
    struct Http;
    wasip3::http::service::export!(Http);

    impl Guest for Http {
        async fn handle(request: Request) -> Result<Response, ErrorCode> {
            shared::http::serve(crate::routes::router(), request).await
        }
    }

    #[redis_subscriber]
    async fn redis(payload: Bytes) -> Result<(), String> {
        crate::intake::from_redis(&payload).await.map_err(|problem| problem.detail().to_owned())
    }
}
