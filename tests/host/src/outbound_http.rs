//! Outbound HTTP: only to hosts that the component is granted, over kept connections, within the timeouts that
//! it asks for.

use std::{
    error::Error as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, header::HOST, uri::Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    net::TcpStream,
    time::{Sleep, timeout},
};
use tower_service::Service;
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::p3::{
    RequestOptions, WasiHttpHooks,
    bindings::http::types::{DnsErrorPayload, ErrorCode},
    default_send_request,
};

use crate::{allowed_hosts::AllowedHosts, logs::say};

/// Spin's, for each of the three timeouts.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

type OutgoingBody = UnsyncBoxBody<Bytes, ErrorCode>;
/// Tells the end of a request's own transmission.
type Transmission = Box<dyn Future<Output = Result<(), ErrorCode>> + Send>;

/// One component's way out.
#[derive(Clone)]
pub(crate) struct OutboundHttp {
    hosts: Arc<AllowedHosts>,
    connections: Connections,
}

/// The connections to `http` servers, kept for all components.
#[derive(Clone)]
pub(crate) struct Connections(Client<Connector, OutgoingBody>);

impl Connections {
    pub(crate) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build(Connector))
    }
}

impl OutboundHttp {
    pub(crate) fn new(hosts: Arc<AllowedHosts>, connections: Connections) -> Self {
        Self { hosts, connections }
    }

    async fn send(
        self,
        mut request: Request<OutgoingBody>,
        options: RequestOptions,
    ) -> Result<Response<OutgoingBody>, ErrorCode> {
        let url = request.uri().to_string();
        if !self.hosts.check(&url, "https").unwrap_or(false) {
            return Err(ErrorCode::HttpRequestDenied);
        }
        let connect_timeout = options.connect_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let first_byte_timeout = options.first_byte_timeout.unwrap_or(DEFAULT_TIMEOUT);
        let between_bytes_timeout = options.between_bytes_timeout.unwrap_or(DEFAULT_TIMEOUT);

        if request.uri().scheme() == Some(&Scheme::HTTPS) {
            // Not kept, and HTTP/1.1 alone: enough for a stand-in. It has no timeout of its own for the handshake.
            let sent = default_send_request(request, Some(options));
            let (response, connection) = timeout(connect_timeout + first_byte_timeout, sent)
                .await
                .map_err(|_| ErrorCode::ConnectionReadTimeout)??;
            tokio::spawn(connection);
            return Ok(response.map(|body| body.boxed_unsync()));
        }

        // The client sets it from the URL.
        request.headers_mut().remove(HOST);
        let sent = CONNECT_TIMEOUT.scope(connect_timeout, self.connections.0.request(request));
        let response = timeout(first_byte_timeout, sent).await.map_err(|_| ErrorCode::ConnectionReadTimeout)?.map_err(
            |error| {
                let cause = error.source().and_then(|cause| cause.downcast_ref());
                cause.cloned().unwrap_or_else(|| {
                    say(format!("An outbound request to {url} failed: {error:?}"));
                    ErrorCode::HttpProtocolError
                })
            },
        )?;
        Ok(response
            .map(|body| TimedBody { body: Some(body), timeout: between_bytes_timeout, waiting: None }.boxed_unsync()))
    }
}

impl WasiHttpHooks for OutboundHttp {
    fn send_request(
        &mut self,
        request: Request<OutgoingBody>,
        options: Option<RequestOptions>,
        // How the guest fared with the answer, which nobody asks.
        _: Transmission,
    ) -> Box<dyn Future<Output = Result<(Response<OutgoingBody>, Transmission), TrappableError<ErrorCode>>> + Send>
    {
        let sent = self.clone().send(request, options.unwrap_or_default());
        Box::new(async move {
            let response = sent.await?;
            // The client reports a failed transmission by the response.
            Ok((response, Box::new(async { Ok(()) }) as Transmission))
        })
    }
}

tokio::task_local! {
    /// The client offers no way to give a connector a parameter, but calls it within the request's own task.
    static CONNECT_TIMEOUT: Duration;
}

/// Opens a connection within the timeout of the request that needs it.
#[derive(Clone)]
struct Connector;

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = ErrorCode;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ErrorCode>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ErrorCode>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(async move {
            let limit = CONNECT_TIMEOUT.try_get().unwrap_or(DEFAULT_TIMEOUT);
            let connected = timeout(limit, connect(&uri)).await;
            connected.map_err(|_| ErrorCode::ConnectionTimeout)?.map(TokioIo::new)
        })
    }
}

async fn connect(uri: &Uri) -> Result<TcpStream, ErrorCode> {
    let authority = uri.authority().ok_or(ErrorCode::HttpRequestUriInvalid)?;
    // With the brackets of an IPv6 address, without userinfo.
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let addresses = tokio::net::lookup_host(&address).await.map_err(|_| {
        ErrorCode::DnsError(DnsErrorPayload { rcode: Some("address not available".into()), info_code: Some(0) })
    })?;
    TcpStream::connect(&*addresses.collect::<Vec<_>>()).await.map_err(|_| ErrorCode::ConnectionRefused)
}

/// A response's body, which ends with an error when the next piece keeps the guest waiting too long.
struct TimedBody {
    /// Dropped, and its connection with it, when the time is over.
    body: Option<hyper::body::Incoming>,
    timeout: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Body for TimedBody {
    type Data = Bytes;
    type Error = ErrorCode;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ErrorCode>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(ErrorCode::from_hyper_request_error)));
        }
        let limit = self.timeout;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        self.body = None;
        Poll::Ready(Some(Err(ErrorCode::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}
