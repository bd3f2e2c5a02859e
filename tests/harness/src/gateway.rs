//! The push gateway's side of a delivery: a real HTTP server that records each request, checks its signature as the
//! Standard Webhooks specification says, and answers what it was told to.
//!
//! `GET /received?after=N` gives what came after the first N requests, as a JSON list: so another process can follow.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, Method, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::sync::{oneshot, watch};

/// What the gateway answers to a well-signed request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200.
    Ok,
    /// A status, such as 500.
    Status(u16),
    /// A status with a `Retry-After` of so many seconds.
    RetryAfter {
        /// Such as 429 or 503.
        status: u16,
        /// The header's value.
        seconds: u32,
    },
    /// Holds the connection open and never answers.
    Never,
    /// The other answer, after this time.
    Delayed(Duration, Box<Answer>),
}

impl Answer {
    /// 200, after this time.
    pub fn late(delay: Duration) -> Self {
        Self::Delayed(delay, Box::new(Self::Ok))
    }
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// When.
    pub at: SystemTime,
    /// Its path, such as `/messages`.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
    /// Whether the signature was right; if not, the request was answered 401.
    pub verified: bool,
}

impl Received {
    /// The header `webhook-id`, which is the message's id; empty if there is none.
    pub fn id(&self) -> &str {
        self.header(HEADER_WEBHOOK_ID).unwrap_or_default()
    }

    /// A header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `null` if it is none.
    pub fn message(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A running gateway. It ends when this is dropped, also in the middle of an answer.
#[derive(Debug)]
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    secret: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts one on a free port, with a new secret, that answers 200.
    pub fn start() -> Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| anyhow!("no random bytes: {error}"))?;
        let secret = format!("whsec_{}", STANDARD.encode(key));
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), &secret)
    }

    /// Starts one at this address with this secret: `whsec_` and the base64 of at least 24 bytes.
    pub fn start_at(address: SocketAddr, secret: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            webhook: webhook(secret)?,
            log: Mutex::default(),
            count: watch::Sender::new(0),
            behaviour: Mutex::new(Box::new(|_| Answer::Ok)),
        });
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        // A thread with a runtime of its own: it serves on while a test blocks, and over the tests that share it,
        // each of which has its own runtime.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let router = router(shared.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let serve = async {
                    let listener = tokio::net::TcpListener::from_std(listener)?;
                    axum::serve(listener, router).await
                };
                tokio::select! {
                    _ = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { shared, address, secret: secret.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// Its origin, such as `http://127.0.0.1:3900`: the value of `SPIN_VARIABLE_PUSH_GATEWAY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What senders must sign with: the value of `SPIN_VARIABLE_PUSH_GATEWAY_SECRET`.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// From now on, every well-signed request gets this answer.
    pub fn answer(&self, answer: Answer) {
        self.answer_by(move |_| answer.clone());
    }

    /// From now on, the closure says what the n-th well-signed request gets, counted from 1 since the start.
    pub fn answer_by(&self, behaviour: impl Fn(usize) -> Answer + Send + 'static) {
        *lock(&self.shared.behaviour) = Box::new(behaviour);
    }

    /// All requests so far, in the order of arrival, also those with a wrong signature.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.log).received.clone()
    }

    /// Waits until at least `n` requests have arrived, and returns all.
    pub async fn wait_for(&self, n: usize, timeout: Duration) -> Result<Vec<Received>> {
        self.wait_until(timeout, |received| received.len() >= n).await.with_context(|| format!("expected {n} requests"))
    }

    /// Waits until more than `n` requests have arrived, however long it takes, and returns those after the n-th.
    pub async fn after(&self, n: usize) -> Vec<Received> {
        let mut count = self.shared.count.subscribe();
        // The sender lives in `self.shared`.
        let _ = count.wait_for(|&count| count > n).await;
        lock(&self.shared.log).received[n..].to_vec()
    }

    /// Waits until the predicate holds of what has arrived, and returns all.
    pub async fn wait_until(
        &self,
        timeout: Duration,
        predicate: impl Fn(&[Received]) -> bool,
    ) -> Result<Vec<Received>> {
        let mut count = self.shared.count.subscribe();
        let holds = async {
            loop {
                count.mark_unchanged();
                if predicate(&lock(&self.shared.log).received) {
                    return;
                }
                // The sender lives in `self.shared`.
                let _ = count.changed().await;
            }
        };
        if tokio::time::timeout(timeout, holds).await.is_err() {
            let received = self.received();
            let ids: Vec<_> = received.iter().map(Received::id).collect();
            bail!("waited {timeout:?} in vain; {} requests arrived: {ids:?}", ids.len());
        }
        Ok(self.received())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Then the port is free, and nothing more is recorded.
            let _ = thread.join();
        }
    }
}

struct Shared {
    webhook: Webhook,
    log: Mutex<Log>,
    /// How many were received: what waits is woken by it.
    count: watch::Sender<usize>,
    behaviour: Mutex<Box<dyn Fn(usize) -> Answer + Send>>,
}

#[derive(Default)]
struct Log {
    received: Vec<Received>,
    /// How many of them are well-signed.
    signed: usize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("count", &*self.count.borrow()).finish_non_exhaustive()
    }
}

/// A test's predicate or closure that panics must not hide behind a poisoned lock.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn webhook(secret: &str) -> Result<Webhook> {
    let key = secret
        .strip_prefix("whsec_")
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        .filter(|key| key.len() >= 24)
        .context("the secret must be `whsec_` and the base64 of at least 24 bytes")?;
    Webhook::from_bytes(key).map_err(|error| anyhow!("{error}"))
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new().route("/received", get(list)).fallback(receive).layer(DefaultBodyLimit::disable()).with_state(shared)
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let verified = shared.webhook.verify(&body, &headers).is_ok();
    let signed =
        shared.record(Received { at: SystemTime::now(), path: uri.path().to_owned(), headers, body, verified });
    if !verified {
        return (StatusCode::UNAUTHORIZED, "the signature is wrong").into_response();
    }
    let answer = lock(&shared.behaviour)(signed);
    give(answer).await
}

impl Shared {
    /// Keeps the request, and says how many well-signed ones there are now.
    fn record(&self, request: Received) -> usize {
        let mut log = lock(&self.log);
        log.signed += usize::from(request.verified);
        log.received.push(request);
        self.count.send_replace(log.received.len());
        log.signed
    }
}

async fn give(mut answer: Answer) -> Response {
    while let Answer::Delayed(delay, then) = answer {
        tokio::time::sleep(delay).await;
        answer = *then;
    }
    match answer {
        Answer::Status(status) => status_of(status).into_response(),
        Answer::RetryAfter { status, seconds } => {
            let header = [(RETRY_AFTER, seconds.to_string())];
            (status_of(status), header).into_response()
        }
        Answer::Never => std::future::pending().await,
        Answer::Ok | Answer::Delayed(..) => StatusCode::OK.into_response(),
    }
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).expect("a test answers with a status that exists")
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: usize,
}

async fn list(State(shared): State<Arc<Shared>>, Query(page): Query<Page>) -> Json<Vec<Value>> {
    let log = lock(&shared.log);
    let numbered = log.received.iter().enumerate().skip(page.after);
    Json(numbered.map(|(index, request)| describe(index + 1, request)).collect())
}

fn describe(number: usize, request: &Received) -> Value {
    let since_epoch = request.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    json!({
        "number": number,
        "received_at_ms": u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        "id": request.id(),
        "verified": request.verified,
        "message": request.message(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A signed request, as `push` sends it.
    async fn post(origin: &str, secret: &str, id: &str) -> reqwest::Result<reqwest::Response> {
        let body = json!({"id": id, "body": "您的订单已接单，点击查看订单详情。"}).to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let timestamp = now.as_secs() as i64;
        let signature = Webhook::new(secret).unwrap().sign(id, timestamp, body.as_bytes()).unwrap();
        crate::http_client(Duration::from_secs(1))
            .post(format!("{origin}/messages"))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await
    }

    async fn status(gateway: &Gateway, id: &str) -> u16 {
        let answer = post(&gateway.url(), gateway.secret(), id).await.unwrap();
        answer.status().as_u16()
    }

    #[tokio::test]
    async fn a_right_signature_is_taken_and_a_wrong_one_refused_and_both_are_kept() {
        let gateway = Gateway::start().unwrap();
        let other = Gateway::start().unwrap();
        assert_eq!(status(&gateway, "msg_1").await, 200);
        let refused = post(&gateway.url(), other.secret(), "msg_2").await.unwrap();
        assert_eq!(refused.status(), 401);
        let unsigned = crate::http_client(PATIENCE).post(gateway.url()).body("{}").send().await.unwrap();
        assert_eq!(unsigned.status(), 401);

        let received = gateway.wait_for(3, PATIENCE).await.unwrap();
        let seen: Vec<_> = received.iter().map(|r| (r.id(), r.verified)).collect();
        assert_eq!(seen, [("msg_1", true), ("msg_2", false), ("", false)]);
        assert_eq!(received[0].path, "/messages");
        assert_eq!(received[0].message()["body"], "您的订单已接单，点击查看订单详情。");
    }

    #[tokio::test]
    async fn it_answers_what_it_was_told_to() {
        let gateway = Gateway::start().unwrap();
        gateway.answer(Answer::Status(500));
        assert_eq!(status(&gateway, "msg_1").await, 500);

        gateway.answer(Answer::RetryAfter { status: 429, seconds: 7 });
        let busy = post(&gateway.url(), gateway.secret(), "msg_2").await.unwrap();
        assert_eq!(
            (busy.status().as_u16(), &busy.headers()["retry-after"]),
            (429, &http::HeaderValue::from_static("7"))
        );

        gateway.answer_by(|n| if n == 3 { Answer::Status(503) } else { Answer::Ok });
        assert_eq!(status(&gateway, "msg_3").await, 503);
        assert_eq!(status(&gateway, "msg_3").await, 200);

        gateway.answer(Answer::late(Duration::from_millis(100)));
        assert_eq!(status(&gateway, "msg_4").await, 200);

        gateway.answer(Answer::Never);
        let silence = post(&gateway.url(), gateway.secret(), "msg_5").await.unwrap_err();
        assert!(silence.is_timeout(), "{silence}");
        assert_eq!(gateway.received().len(), 6);
    }

    #[tokio::test]
    async fn waiting_in_vain_says_what_did_arrive() {
        let gateway = Gateway::start().unwrap();
        status(&gateway, "msg_1").await;
        let short = Duration::from_millis(50);
        let vain = gateway.wait_for(2, short).await.unwrap_err();
        assert!(format!("{vain:#}").contains("msg_1"), "{vain:#}");
    }

    #[tokio::test]
    async fn another_process_can_follow() {
        let gateway = Gateway::start().unwrap();
        status(&gateway, "msg_1").await;
        status(&gateway, "msg_2").await;
        let page: Value = crate::http_client(PATIENCE)
            .get(format!("{}/received?after=1", gateway.url()))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(page.as_array().unwrap().len(), 1);
        assert_eq!((&page[0]["number"], &page[0]["id"]), (&json!(2), &json!("msg_2")));
    }

    #[tokio::test]
    async fn it_ends_when_dropped_even_while_it_owes_an_answer() {
        let gateway = Gateway::start().unwrap();
        gateway.answer(Answer::Never);
        let (address, url, secret) = (gateway.address, gateway.url(), gateway.secret.clone());
        let asked = tokio::spawn(async move { post(&url, &secret, "msg_1").await });
        gateway.wait_for(1, PATIENCE).await.unwrap();
        drop(gateway);
        assert!(crate::port::is_free(address));
        let unanswered = asked.await.unwrap().unwrap_err();
        assert!(!unanswered.is_timeout(), "{unanswered}");
    }

    #[test]
    fn a_weak_secret_is_refused() {
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        for weak in ["", "whsec_", "whsec_c2hvcnQ=", "not base64"] {
            assert!(Gateway::start_at(address, weak).is_err(), "{weak}");
        }
    }
}
