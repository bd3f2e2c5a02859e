//! Takes doctors' prescription orders to the right partner pharmacy.
//!
//! Here stand the two triggers, nothing else; [`routes`] is HTTP. This version says which one it is and takes no
//! orders yet.

mod routes;

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
    async fn redis(_payload: Bytes) -> Result<(), String> {
        Err("pharmacy {} takes no orders yet".replace("{}", crate::routes::VERSION))
    }
}
