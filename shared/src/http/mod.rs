//! Bodies within limits, and requests with deadlines.
//!
//! Answers are axum's, because axum sends `content-length` for a whole body; the SDK's own string bodies go
//! chunked, in two writes that meet Nagle and delayed ACK.

mod wasi;

use std::{task::Poll, time::Duration};

use axum::{Json, Router, body::Body, routing::get};
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use http_body_util::BodyExt;
use spin_sdk::wasip3::{
    http::{
        client,
        types::{self, ErrorCode, RequestOptions},
    },
    wit_bindgen,
};
use tower_service::Service;

pub use wasi::Incoming;

use crate::problem::{self, Fault, Problem};

/// The most bytes of a JSON body.
pub const JSON_LIMIT: usize = 1024 * 1024;

/// The header by which a client tells its version.
pub const APP_VERSION: http::HeaderName = http::HeaderName::from_static("x-app-version");

/// How long connecting to a peer may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a peer's answer may take to begin, and how long it may pause.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Held while a request starts.
///
/// The runtime takes a request's body over only when the component gives way. If several started in one turn, the heads
/// would leave without their bodies, and those follow in a write of their own, which meets Nagle and delayed ACK: 40 ms.
static STARTING: futures::lock::Mutex<()> = futures::lock::Mutex::new(());

/// Exports the HTTP trigger of a component whose routes `$router` gives: what the SDK's `#[http_service]` exports, with
/// this module's conversions.
#[macro_export]
macro_rules! http_trigger {
    ($router:path) => {
        $crate::http_trigger!($router, all_headers_under = "");
    };
    // Of requests under this path somebody reads other headers than the usual ones.
    ($router:path, all_headers_under = $path:literal) => {
        struct Http;
        ::spin_sdk::wasip3::http::service::export!(Http);

        impl ::spin_sdk::wasip3::exports::http::handler::Guest for Http {
            async fn handle(
                request: ::spin_sdk::wasip3::http::types::Request,
            ) -> Result<::spin_sdk::wasip3::http::types::Response, ::spin_sdk::wasip3::http::types::ErrorCode> {
                $crate::http::serve($router(), request, $path).await
            }
        }
    };
}

/// Answers the runtime's `request` by `router`, which a function builds once and keeps. Of a request whose path begins
/// with `all_headers_under`, unless that is empty, all headers are fetched; of others those that any function reads.
///
/// # Errors
/// If either is none that HTTP, or the runtime, knows.
pub async fn serve(
    router: &Router,
    request: types::Request,
    all_headers_under: &str,
) -> Result<types::Response, ErrorCode> {
    match router.clone().call(wasi::request(request, all_headers_under)?).await {
        Ok(response) => wasi::response(response).await,
        Err(never) => match never {},
    }
}

/// A function's router: its `routes`; `GET /<function>`, which tells which version answers; and problems for what no
/// route takes.
///
/// ```
/// let router = shared::http::router("/push", "push", "0.1.0", axum::Router::new());
/// ```
pub fn router(path: &str, function: &'static str, version: &'static str, routes: Router) -> Router {
    let about = move || async move { Json(serde_json::json!({"function": function, "version": version})) };
    routes.route(path, get(about)).fallback(problem::not_found).method_not_allowed_fallback(problem::method_not_allowed)
}

/// Reads a whole body of at most `limit` bytes.
///
/// # Errors
/// 413 as soon as the length is known to be over the limit, 400 if the body ends early.
pub async fn read_whole(mut body: Body, limit: usize) -> Result<Bytes, Problem> {
    use http_body::Body as _;
    // The runtime's body knows its `content-length` as an upper bound.
    let declared = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(limit));
    }
    let mut whole = Bytes::new();
    let mut joined = BytesMut::new();
    // Asking for the end of a body that is complete would cost two more turns of the runtime's event loop.
    while declared != Some(whole.len() + joined.len())
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| ended_early())?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + joined.len() + data.len() > limit {
            return Err(Problem::too_large(limit));
        }
        // Most bodies come in one piece and are not copied.
        if whole.is_empty() && joined.is_empty() {
            whole = data;
        } else {
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { whole } else { joined.freeze() })
}

/// The answer to a body that broke off.
pub fn ended_early() -> Problem {
    Problem::bad_input("the body ended early").with(Fault::at("", "the connection broke off within the body"))
}

/// Why a request to a peer has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nobody listens there.
    #[error("refused the connection")]
    Refused,
    /// No answer within the deadline.
    #[error("did not answer in time")]
    TimedOut,
    /// `allowed_outbound_hosts` does not grant it.
    #[error("is not granted by allowed_outbound_hosts")]
    Denied,
    /// The name does not resolve.
    #[error("has a name that does not resolve")]
    UnknownHost,
    /// Anything else, in the runtime's words.
    #[error("could not be reached: {0}")]
    Other(String),
}

impl From<ErrorCode> for SendError {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::ConnectionRefused | ErrorCode::DestinationUnavailable => Self::Refused,
            ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::ConnectionWriteTimeout
            | ErrorCode::HttpResponseTimeout => Self::TimedOut,
            ErrorCode::HttpRequestDenied => Self::Denied,
            ErrorCode::DnsError(_) | ErrorCode::DnsTimeout | ErrorCode::DestinationNotFound => Self::UnknownHost,
            other => Self::Other(other.to_string()),
        }
    }
}

/// Whether a text is an origin, as an outbound grant is one: `https://push.example.org`, without a path or a slash.
pub fn is_origin(text: &str) -> bool {
    is_origin_of(text, &["http", "https"])
}

/// Whether a text is an origin of one of these schemes.
pub fn is_origin_of(text: &str, schemes: &[&str]) -> bool {
    text.parse::<http::Uri>().is_ok_and(|uri| {
        let scheme = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
        let bare = text.split_once("://").is_some_and(|(_, rest)| !rest.contains(['/', '?', '#', '@', '*']));
        let named = uri.host().is_some_and(|host| !host.is_empty());
        // A port that is there must be one.
        let port = uri.authority().is_some_and(|authority| {
            authority.as_str().len() == authority.host().len() || authority.port_u16().is_some()
        });
        scheme && bare && named && port
    })
}

/// Sends a request as [`send`] does and reads the whole answer, which may have `limit` bytes.
///
/// # Errors
/// Says why there is no answer.
pub async fn send_whole(
    request: http::Request<Bytes>,
    within: Duration,
    limit: usize,
) -> Result<http::Response<Bytes>, SendError> {
    let answer = std::pin::pin!(async {
        let (head, mut body) = send(request, within).await?.into_parts();
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if whole.len() + data.len() > limit {
                return Err(SendError::Other(format!("it answered over {limit} bytes")));
            }
            whole.extend_from_slice(&data);
        }
        Ok(http::Response::from_parts(head, whole.freeze()))
    });
    match select(answer, std::pin::pin!(spin_sdk::time::sleep(within))).await {
        Either::Left((answer, _)) => answer,
        Either::Right(_) => Err(SendError::TimedOut),
    }
}

/// Sends a request with our timeouts, and gives up after `within` whatever happens.
///
/// # Errors
/// Says why there is no answer.
pub async fn send(mut request: http::Request<Bytes>, within: Duration) -> Result<http::Response<Incoming>, SendError> {
    let options = RequestOptions::new();
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).ok();
    // A runtime may not know an option; `within` still ends the wait.
    let _ = options.set_connect_timeout(nanos(CONNECT_TIMEOUT));
    let _ = options.set_first_byte_timeout(nanos(ANSWER_TIMEOUT));
    let _ = options.set_between_bytes_timeout(nanos(ANSWER_TIMEOUT));
    // Without it the runtime sends chunks, which some peers refuse.
    let length = request.body().len();
    request.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());

    let answer = std::pin::pin!(async {
        let starting = loop {
            // Not by waiting for the lock: a request cannot wake another one, each is a task of the runtime's own.
            if let Some(starting) = STARTING.try_lock() {
                break starting;
            }
            wit_bindgen::yield_async().await;
        };
        let (request, mut body) = wasi::outbound(request, options).await?;
        let mut answer = Box::pin(client::send(request));
        if let Poll::Ready(answer) = futures::poll!(&mut answer) {
            return wasi::answer(answer?);
        }
        body.hand_over().await;
        drop(starting);
        wasi::answer(answer.await?)
    });
    let deadline = std::pin::pin!(spin_sdk::time::sleep(within));
    match select(answer, deadline).await {
        Either::Left((answer, _)) => Ok(answer?),
        Either::Right(_) => Err(SendError::TimedOut),
    }
}
