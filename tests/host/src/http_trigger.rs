//! The HTTP trigger: a server that finds the component of a path and lets one of its instances answer. An instance
//! is reused as Spin reuses it by default.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONNECTION, HOST},
    uri::{Authority, Scheme},
};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Sleep, sleep},
};
use wasmtime::{Store, StoreContextMut, component::GuestTaskId};
use wasmtime_wasi_http::{
    handler::{
        ErrorCode, HandlerState, Instance, Proxy, ProxyHandler, ShouldAccept, ViewFn, WorkerExpiration, WorkerState,
        WorkerStatus,
    },
    p3::{
        WasiHttpView,
        bindings::{ServicePre, http::types},
    },
};

use crate::{
    app::Loaded,
    host::Host,
    logs::say,
    routes::{Found, Routes, WELL_KNOWN},
};

/// How often an instance is reused, how many requests it answers at the same time, and when it is dropped.
const MAX_REQUESTS: usize = 128;
const MAX_CONCURRENT_REQUESTS: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

type Body = UnsyncBoxBody<Bytes, wasmtime::Error>;

pub(crate) struct HttpTrigger {
    routes: Routes,
    handlers: HashMap<String, ProxyHandler<Instances>>,
    /// Set when nothing is in flight any more and nothing will be.
    ended: Arc<AtomicBool>,
}

impl HttpTrigger {
    /// Takes each route's component from `loaded`. Faults go to `faults`.
    pub(crate) fn new(routes: Routes, loaded: &BTreeMap<String, Arc<Loaded>>, faults: &mut Vec<String>) -> Self {
        let mut handlers = HashMap::new();
        let ended = Arc::new(AtomicBool::new(false));
        for route in routes.iter() {
            let id = &route.component;
            let Some(component) = loaded.get(id).filter(|_| !handlers.contains_key(id)) else {
                continue;
            };
            match ServicePre::new(component.pre.clone()) {
                Ok(pre) => {
                    let instances = Instances { component: component.clone(), pre, ended: ended.clone() };
                    handlers.insert(id.clone(), ProxyHandler::new(instances));
                }
                Err(error) => faults.push(format!(
                    "component {id:?} has an HTTP trigger, but does not handle HTTP requests: {error:#}"
                )),
            }
        }
        Self { routes, handlers, ended }
    }

    /// Says what is served, as Spin does.
    pub(crate) fn start_message(&self, address: SocketAddr) -> String {
        let mut message = format!("\nServing http://{address}\nAvailable Routes:\n");
        for route in self.routes.iter() {
            message += &format!("  {}: http://{address}{}\n", route.component, route.display());
        }
        message
    }

    /// Serves until `stop` changes, and then until what is in flight is done.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.changed() => break,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely too many open files: give some of them time to close.
                    say(format!("Cannot accept a connection: {error}"));
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let server = self.clone();
            let service = service_fn(move |request| {
                let server = server.clone();
                async move { server.answer(request, client).await }
            });
            let connection =
                Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // An error here is a client that went away.
                let _ = connection.await;
            });
        }
        drop(listener);
        graceful.shutdown().await;
        self.ended.store(true, Ordering::Relaxed);
    }

    /// An error closes the connection, as in Spin: it is the client's, not the component's.
    async fn answer(&self, mut request: Request<Incoming>, client: SocketAddr) -> Result<Response<Body>> {
        request.headers_mut().remove(CONNECTION);
        let path = request.uri().path().to_owned();
        if let Some(name) = path.strip_prefix(WELL_KNOWN) {
            return Ok(match name {
                "health" => Response::new(Full::from("OK").map_err(|never| match never {}).boxed_unsync()),
                _ => empty(StatusCode::NOT_FOUND),
            });
        }
        let Some(found) = self.routes.find(&path) else {
            return Ok(empty(StatusCode::NOT_FOUND));
        };
        *request.uri_mut() = absolute_uri(&request)?;
        let id = &found.route.component;
        let response = match add_headers(&mut request, &found, client) {
            Ok(()) => self.call(id, request).await,
            Err(error) => Err(error),
        };
        Ok(response.unwrap_or_else(|error| {
            say(format!("Component {id:?} failed to answer {path}: {error:#}"));
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }))
    }

    async fn call(&self, id: &str, request: Request<Incoming>) -> Result<Response<Body>> {
        let handler = self.handlers.get(id).context("the component is not loaded")?;
        let body = |body: Incoming| {
            body.map_err(|error| ErrorCode::P3(types::ErrorCode::from_hyper_request_error(error))).boxed_unsync()
        };
        Ok(handler.handle((), request.map(body)).await?)
    }
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The request's URI with scheme and authority, which a client leaves to the `host` header.
fn absolute_uri<B>(request: &Request<B>) -> Result<Uri> {
    let host = match request.headers().get(HOST) {
        Some(host) => Some(host.to_str()?.parse::<Authority>().context("the `host` header is invalid")?),
        None => None,
    };
    let mut parts = request.uri().clone().into_parts();
    parts.authority = match (host, parts.authority.take()) {
        (Some(host), Some(authority)) if host != authority => bail!("the `host` header contradicts the URI"),
        (Some(authority), _) | (None, Some(authority)) => Some(authority),
        (None, None) => bail!("there is no `host` header"),
    };
    parts.scheme = Some(Scheme::HTTP);
    Ok(Uri::from_parts(parts)?)
}

/// Adds Spin's own headers. Like Spin, behind those of the client, which may have the same names.
fn add_headers<B>(request: &mut Request<B>, found: &Found<'_>, client: SocketAddr) -> Result<()> {
    for (name, value) in request.headers() {
        str::from_utf8(value.as_bytes()).with_context(|| format!("the header {name} is not UTF-8"))?;
    }
    let uri = request.uri();
    let host = match request.headers().get(HOST) {
        Some(host) => host.to_str()?,
        None => "localhost",
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let route = found.route;
    let mut added = vec![
        ("spin-path-info".to_owned(), found.rest.clone()),
        ("spin-full-url".to_owned(), format!("http://{host}{path}")),
        ("spin-matched-route".to_owned(), route.based.clone()),
        ("spin-base-path".to_owned(), "/".to_owned()),
        ("spin-raw-component-route".to_owned(), route.raw.clone()),
        ("spin-component-route".to_owned(), route.prefix().to_owned()),
        ("spin-client-addr".to_owned(), client.to_string()),
    ];
    for (name, value) in &found.named {
        let name = name.to_ascii_lowercase().replace('_', "-");
        added.push((format!("spin-path-match-{name}"), value.clone()));
    }
    for (name, value) in added {
        // A path may hold what a header may not; Spin leaves such a header out.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            request.headers_mut().append(name, value);
        }
    }
    Ok(())
}

/// Makes the instances of a component that answers HTTP requests.
struct Instances {
    component: Arc<Loaded>,
    pre: ServicePre<Host>,
    ended: Arc<AtomicBool>,
}

impl HandlerState for Instances {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Reuse;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Expiration, Reuse>> {
        let mut store = self.component.store();
        let service = self.pre.instantiate_async(&mut store).await?;
        Ok(Instance {
            store,
            proxy: Proxy::P3(service),
            view: ViewFn::P3(<Host as WasiHttpView>::http),
            expiration: Expiration(Box::pin(sleep(IDLE_TIMEOUT))),
            state: Reuse { ended: self.ended.clone() },
        })
    }
}

/// Says which requests an instance takes.
struct Reuse {
    ended: Arc<AtomicBool>,
}

impl WorkerState for Reuse {
    type StoreData = Host;
    type RequestId = ();

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= MAX_REQUESTS {
            ShouldAccept::Never
        } else if concurrent >= MAX_CONCURRENT_REQUESTS {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    // As in Spin by default, a request may take as long as it likes.
    fn on_request_start(
        &self,
        _: StoreContextMut<'_, Host>,
        (): (),
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<Host>, result: wasmtime::Result<()>) {
        // The handler calls it a panic, too, when the host ends and drops its idle instances.
        if let Err(error) = result
            && !self.ended.load(Ordering::Relaxed)
        {
            say(format!("An instance of component {:?} failed: {error:#}", store.data().component.id));
        }
    }
}

/// Ends an instance that has been idle for too long.
struct Expiration(Pin<Box<Sleep>>);

impl WorkerExpiration for Expiration {
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, since: Instant) -> Poll<()> {
        match status {
            WorkerStatus::Idle => {
                let deadline = (since + IDLE_TIMEOUT).into();
                if self.0.deadline() != deadline {
                    self.0.as_mut().reset(deadline);
                }
                self.0.as_mut().poll(cx)
            }
            WorkerStatus::Requests | WorkerStatus::PostReturn => Poll::Pending,
        }
    }
}
