//! Takes doctors' prescription orders to the right partner pharmacy.
//!
//! Here stand the two triggers, nothing else; [`routes`] is HTTP. This version says which one it is and takes no
//! orders yet.

mod routes;

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
    async fn redis(_payload: Bytes) -> Result<(), String> {
        Err("pharmacy {} takes no orders yet".replace("{}", crate::routes::VERSION))
    }
}
