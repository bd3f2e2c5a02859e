//! The runtime's requests and answers as axum's, and axum's as the runtime's.
//!
//! The SDK has such conversions. These ask the runtime for less: of a request only its method, path and the headers
//! that are read are fetched, bodies are read in larger pieces, and an answer's body is begun before the answer is
//! handed over. It shows in the requests/s and MB/s of `make bench`.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures::{FutureExt, Stream, future::BoxFuture, stream};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use spin_sdk::wasip3::{
    http::types::{self, ErrorCode, Fields},
    wit_bindgen::{self, StreamResult},
    wit_future, wit_stream,
};

/// The most bytes that are asked for at once. A piece costs two turns of the runtime's event loop on its way in and two
/// on its way out: by 64 KiB a body of many MB takes a third longer. More than this gains little, and every client that
/// stalls holds a few pieces.
const READ_MAX: usize = 256 * 1024;

/// The headers that any of the functions reads. All of a request's, of which the runtime adds seven of its own, would
/// cost two allocations each.
const READ: [HeaderName; 3] = [header::AUTHORIZATION, header::CONTENT_TYPE, header::CONTENT_LENGTH];

/// A request as axum takes it: method, path with query, body, and those headers that somebody reads, which are all where
/// its path begins with `all_headers_under`.
///
/// # Errors
/// If one of them is none that HTTP knows.
pub(super) fn request(request: types::Request, all_headers_under: &str) -> Result<Request, ErrorCode> {
    let path = request.get_path_with_query().unwrap_or_else(|| "/".to_owned());
    let (mut head, ()) = axum::http::Request::new(()).into_parts();
    head.method = request.get_method().try_into().map_err(|_| ErrorCode::HttpRequestMethodInvalid)?;
    let all = !all_headers_under.is_empty() && path.starts_with(all_headers_under);
    head.uri = path.try_into().map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let headers = &mut head.headers;
    let sent = request.get_headers();
    if all {
        append_all(headers, &sent);
    }
    for name in READ.iter().filter(|_| !all) {
        for value in sent.get(name.as_str()) {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(name, value);
            }
        }
    }
    let body = Incoming::new(headers, |received| types::Request::consume_body(request, received));
    Ok(Request::from_parts(head, Body::new(body)))
}

/// A peer's answer as axum's, with all of its headers that HTTP knows.
///
/// # Errors
/// If its status is none.
pub(super) fn answer(response: types::Response) -> Result<Response<Incoming>, ErrorCode> {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = StatusCode::from_u16(response.get_status_code()).map_err(|_| ErrorCode::HttpProtocolError)?;
    append_all(&mut head.headers, &response.get_headers());
    let body = Incoming::new(&head.headers, |received| types::Response::consume_body(response, received));
    Ok(Response::from_parts(head, body))
}

/// A value that the runtime let in but HTTP does not know is as good as none.
fn append_all(headers: &mut HeaderMap, sent: &Fields) {
    for (name, value) in sent.copy_all() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
}

type Received = wit_bindgen::FutureReader<Result<(), ErrorCode>>;
type Contents = wit_bindgen::StreamReader<u8>;
type Trailers = wit_bindgen::FutureReader<Result<Option<types::Trailers>, ErrorCode>>;

/// The body of a request or an answer, read as it is asked for.
pub struct Incoming {
    frames: Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, ErrorCode>> + Send>>,
    length: Option<u64>,
}

impl Incoming {
    /// `headers` may tell its length, and `open` begins it.
    fn new(headers: &HeaderMap, open: impl FnOnce(Received) -> (Contents, Trailers) + Send + 'static) -> Self {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { frames: Box::pin(frames(open, length)), length }
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = ErrorCode;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ErrorCode>>> {
        self.frames.as_mut().poll_next(context)
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(length) = self.length {
            hint.set_upper(length);
        }
        hint
    }
}

fn frames(
    open: impl FnOnce(Received) -> (Contents, Trailers) + Send,
    length: Option<u64>,
) -> impl Stream<Item = Result<Frame<Bytes>, ErrorCode>> + Send {
    let capacity =
        length.and_then(|length| usize::try_from(length).ok()).map_or(READ_MAX, |length| length.clamp(1, READ_MAX));
    enum Source<F> {
        Unread(F),
        // The last is kept until the body is done with: dropping it tells the runtime that it was received well.
        Open(Contents, Trailers, wit_bindgen::FutureWriter<Result<(), ErrorCode>>),
    }
    stream::unfold(Some(Source::Unread(open)), move |source| async move {
        let (mut contents, trailers, received) = match source? {
            Source::Unread(open) => {
                let (received, reader) = wit_future::new(|| Ok(()));
                let (contents, trailers) = open(reader);
                (contents, trailers, received)
            }
            Source::Open(contents, trailers, received) => (contents, trailers, received),
        };
        let (result, bytes) = contents.read(Vec::with_capacity(capacity)).await;
        match result {
            StreamResult::Complete(_) => {
                Some((Ok(Frame::data(bytes.into())), Some(Source::Open(contents, trailers, received))))
            }
            // The end: whether the peer reached it or broke off is told with the trailers, which nobody here uses.
            StreamResult::Dropped => trailers.await.err().map(|error| (Err(error), None)),
            StreamResult::Cancelled => None,
        }
    })
}

/// An answer as the runtime takes it.
///
/// # Errors
/// If the answer's headers are none that the runtime lets out.
pub(super) async fn response(response: Response) -> Result<types::Response, ErrorCode> {
    use http_body::Body as _;
    if response.body().size_hint().exact().is_none() {
        return streamed(response).await;
    }
    let (head, mut body) = response.into_parts();
    let mut whole = Vec::new();
    // A body of known size is in memory: its frames are ready.
    while let Some(Some(Ok(frame))) = body.frame().now_or_never() {
        if let Ok(data) = frame.into_data() {
            if whole.is_empty() { whole = data.into() } else { whole.extend_from_slice(&data) }
        }
    }
    let headers = fields(&head.headers)?;
    let (contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _) = types::Response::new(headers, Some(contents_reader), trailers_reader);
    // 200 is what it is made with.
    if head.status != StatusCode::OK {
        let _ = response.set_status_code(head.status.as_u16());
    }
    Outgoing::begin(contents, trailers, whole).await;
    Ok(response)
}

/// An answer whose body goes out as it is made.
async fn streamed(response: Response) -> Result<types::Response, ErrorCode> {
    let (head, body) = response.into_parts();
    let headers = fields(&head.headers)?;
    let (contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let (response, _) = types::Response::new(headers, Some(contents_reader), trailers_reader);
    if head.status != StatusCode::OK {
        let _ = response.set_status_code(head.status.as_u16());
    }
    // Begun before the head is handed over, as below.
    let mut writing = Box::pin(write(body, contents, trailers));
    if futures::poll!(&mut writing).is_pending() {
        wit_bindgen::spawn(writing);
    }
    Ok(response)
}

/// Writes a body as fast as it is taken and no faster: while a piece is on its way out the next is made, and no more.
///
/// A body that fails ends the stream with an error, so that the runtime breaks the connection where it can. A peer that
/// goes away ends the body.
async fn write(
    mut body: Body,
    mut contents: wit_bindgen::StreamWriter<u8>,
    trailers: wit_bindgen::FutureWriter<Result<Option<types::Trailers>, ErrorCode>>,
) {
    let mut next = body.frame().await;
    let outcome = loop {
        let data = match next {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => break Err(ErrorCode::InternalError(Some(error.to_string()))),
            None => break Ok(None),
        };
        let (unwritten, following) = futures::join!(contents.write_all(data.into()), body.frame());
        if !unwritten.is_empty() {
            return;
        }
        next = following;
    };
    drop(contents);
    let _ = trailers.write(outcome).await;
}

/// A request to a peer as the runtime takes it, and its body on the way there.
///
/// # Errors
/// If its headers are none that the runtime lets out.
pub(super) async fn outbound(
    request: axum::http::Request<Bytes>,
    options: types::RequestOptions,
) -> Result<(types::Request, Outgoing), ErrorCode> {
    let (head, body) = request.into_parts();
    let (contents, contents_reader) = wit_stream::new();
    let (trailers, trailers_reader) = wit_future::new(|| Ok(None));
    let headers = fields(&head.headers)?;
    let (request, _) = types::Request::new(headers, Some(contents_reader), trailers_reader, Some(options));
    let scheme = if head.uri.scheme_str() == Some("http") { types::Scheme::Http } else { types::Scheme::Https };
    let path = head.uri.path_and_query().map(|path| path.as_str());
    request.set_method(&head.method.into()).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    request.set_scheme(Some(&scheme)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    let authority = head.uri.authority().map(|authority| authority.as_str());
    request.set_authority(authority).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    request.set_path_with_query(path).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok((request, Outgoing::begin(contents, trailers, body.into()).await))
}

fn fields(headers: &HeaderMap) -> Result<Fields, ErrorCode> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    let headers: Vec<_> = headers.iter().map(pair).collect();
    Fields::from_list(&headers).map_err(|error| ErrorCode::InternalError(Some(error.to_string())))
}

/// A body on its way to the runtime. Dropped, it goes on by itself.
pub(super) struct Outgoing(Option<BoxFuture<'static, ()>>);

impl Outgoing {
    /// Begins a body before its head is handed over: it is there when the runtime looks for it, and leaves with the
    /// head in one write. In two writes it would meet Nagle and delayed ACK, 40 ms.
    async fn begin(
        mut contents: wit_bindgen::StreamWriter<u8>,
        trailers: wit_bindgen::FutureWriter<Result<Option<types::Trailers>, ErrorCode>>,
        body: Vec<u8>,
    ) -> Self {
        let mut write: BoxFuture<'static, ()> = Box::pin(async move {
            contents.write_all(body).await;
            drop(contents);
            // What became of it is the runtime's to know.
            let _ = trailers.write(Ok(None)).await;
        });
        Self(if futures::poll!(&mut write).is_pending() { Some(write) } else { None })
    }

    /// Gives way until the runtime has the whole body, but only so often: it may want to send some of it first.
    pub(super) async fn hand_over(&mut self) {
        const TURNS: usize = 16;
        for _ in 0..TURNS {
            let Some(write) = &mut self.0 else { return };
            if futures::poll!(write).is_ready() {
                self.0 = None;
                return;
            }
            wit_bindgen::yield_async().await;
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(write) = self.0.take() {
            wit_bindgen::spawn(write);
        }
    }
}
