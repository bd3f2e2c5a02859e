//! A partner pharmacy's side: a real HTTP server that records each request and answers what it was told to, and what it
//! signs its callbacks with.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hmac_sha256::HMAC;
use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::sync::{oneshot, watch};

/// What `standard` and the application sign with here.
pub const STANDARD_SECRET: &str = "whsec_c3RhbmRhcmQtc2VjcmV0LW9mLXRoZS10ZXN0cy0wMDE=";
/// What `yifeng` and the application sign with here.
pub const YIFENG_SECRET: &str = "a-secret-of-yifeng";

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its path.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, byte for byte.
    pub body: Bytes,
}

impl Received {
    /// The body as JSON; `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Whether Standard Webhooks with [`STANDARD_SECRET`] signed it.
    pub fn is_signed_by_standard(&self) -> bool {
        Webhook::new(STANDARD_SECRET).is_ok_and(|webhook| webhook.verify(&self.body, &self.headers).is_ok())
    }

    /// Whether its `sign` is right by [`YIFENG_SECRET`].
    pub fn is_signed_by_yifeng(&self) -> bool {
        let mut body = self.json();
        let sign = body.as_object_mut().and_then(|fields| fields.remove("sign"));
        sign == Some(yifeng_sign(&body, YIFENG_SECRET).into())
    }
}

/// The `sign` of a body: hex HMAC-SHA256 over its top-level scalar fields, sorted by name, as `k=v` joined with `&`.
pub fn yifeng_sign(body: &Value, secret: &str) -> String {
    let fields: BTreeMap<_, _> = body.as_object().into_iter().flatten().collect();
    let scalar = |(name, value): (&String, &Value)| match value {
        Value::String(text) => Some(format!("{name}={text}")),
        Value::Number(_) | Value::Bool(_) => Some(format!("{name}={value}")),
        _ => None,
    };
    let text = fields.into_iter().filter_map(scalar).collect::<Vec<_>>().join("&");
    HMAC::mac(text.as_bytes(), secret.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The headers of a callback by Standard Webhooks, signed so many seconds from now.
pub fn standard_headers(secret: &str, id: &str, seconds: i64, body: &str) -> Result<HeaderMap> {
    let at = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())? + seconds;
    let signature = Webhook::new(secret).and_then(|webhook| webhook.sign(id, at, body.as_bytes()));
    let signature = signature.map_err(|error| anyhow!("{error}"))?;
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", id.parse()?);
    headers.insert("webhook-timestamp", at.into());
    headers.insert("webhook-signature", signature.parse()?);
    Ok(headers)
}

/// Unix ms, now.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or_default()
}

type Answering = Pin<Box<dyn Future<Output = (u16, String)> + Send>>;
type Behaviour = Arc<dyn Fn(Received) -> Answering + Send + Sync>;

/// A running pharmacy. It ends when this is dropped.
pub struct Pharmacy {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    received: Mutex<Vec<Received>>,
    count: watch::Sender<usize>,
    behaviour: Mutex<Behaviour>,
}

impl fmt::Debug for Pharmacy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pharmacy").field("address", &self.address).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pharmacy {
    /// Starts one on a free port that answers 200 without a body.
    pub fn start() -> Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts one at this address.
    pub fn start_at(address: SocketAddr) -> Result<Self> {
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            count: watch::Sender::new(0),
            behaviour: Mutex::new(Arc::new(|_| Box::pin(async { (200, String::new()) }))),
        });
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let router = Router::new().fallback(receive).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
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
        Ok(Self { shared, address, stop: Some(stop), thread: Some(thread) })
    }

    /// Its origin.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, every request gets this answer.
    pub fn answer(&self, status: u16, body: impl Into<String>) {
        let body = body.into();
        self.answer_by(move |_| {
            let body = body.clone();
            async move { (status, body) }
        });
    }

    /// From now on, the closure answers; it may take its time, and do something else before.
    pub fn answer_by<F: Future<Output = (u16, String)> + Send + 'static>(
        &self,
        behaviour: impl Fn(Received) -> F + Send + Sync + 'static,
    ) {
        *lock(&self.shared.behaviour) = Arc::new(move |received| Box::pin(behaviour(received)));
    }

    /// All requests so far, in the order of arrival.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// Waits until at least `n` requests have arrived, and returns all.
    pub async fn wait_for(&self, n: usize, timeout: Duration) -> Result<Vec<Received>> {
        let mut count = self.shared.count.subscribe();
        if tokio::time::timeout(timeout, count.wait_for(|&count| count >= n)).await.is_err() {
            bail!("waited {timeout:?} in vain for {n} requests; {} arrived", self.received().len());
        }
        Ok(self.received())
    }
}

impl Drop for Pharmacy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Then the port is free.
            let _ = thread.join();
        }
    }
}

async fn receive(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let received = Received { path: uri.path().to_owned(), headers, body };
    {
        let mut all = lock(&shared.received);
        all.push(received.clone());
        shared.count.send_replace(all.len());
    }
    let behaviour = lock(&shared.behaviour).clone();
    let (status, body) = behaviour(received).await;
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), body).into_response()
}
