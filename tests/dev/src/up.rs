//! `dev up`: everything that the application needs, the application itself, and their common end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::process::on_path;
use harness::runtime::{self, Kind};
use harness::{Gateway, Redis, Runtime, port, redis, workspace_root};
use tokio::time::{Instant, sleep};

use crate::manifest::Manifest;
use crate::settings::{self, Triggers, Variables};
use crate::supervise::{Backoff, Interrupt};
use crate::{messages, setup, welcome};

/// A Redis that the system starts once it is installed needs a moment.
const SERVICE_PATIENCE: Duration = Duration::from_secs(2);

/// Streams are drained by `XAUTOCLAIM` and by ranges without their first entry, which Redis 6.2 was the first to have.
const REDIS_SINCE: (u32, u32) = (6, 2);

const REDIS_POLL_EVERY: Duration = Duration::from_millis(200);

/// What was started here, and so ends here.
#[derive(Default)]
struct Parts {
    gateway: Option<Gateway>,
    redis: Option<Redis>,
    runtime: Option<Runtime>,
}

impl Parts {
    fn are_there(&self) -> bool {
        self.gateway.is_some() || self.redis.is_some() || self.runtime.is_some()
    }

    /// In an order that lets each finish what it does with the next.
    async fn stop(&mut self) {
        if let Some(runtime) = &mut self.runtime {
            runtime.stop().await;
        }
        if let Some(redis) = &mut self.redis {
            redis.stop().await;
        }
        self.gateway = None;
    }
}

/// Runs the application until an interrupt.
pub(crate) async fn run(settings: settings::Up) -> Result<()> {
    let mut interrupt = Interrupt::listen()?;
    let mut parts = Parts::default();
    let outcome = tokio::select! {
        outcome = up(&settings, &mut parts) => outcome,
        () = interrupt.recv() => Ok(()),
    };
    if parts.are_there() {
        println!("\nEnding what was started here.");
    }
    tokio::select! {
        () = parts.stop() => {}
        // Asked twice: dropping the parts kills them.
        () = interrupt.recv() => {}
    }
    outcome
}

/// The application as the parameters describe it.
pub(crate) struct Application {
    pub(crate) manifest: Manifest,
    pub(crate) variables: Variables,
    pub(crate) kind: Kind,
    pub(crate) state_dir: PathBuf,
    /// Whether Redis triggers run.
    pub(crate) hears_redis: bool,
}

impl Application {
    fn read(settings: &settings::Up, variables: Variables) -> Result<Self> {
        Ok(Self {
            manifest: Manifest::read(&manifest_file())?,
            variables,
            kind: Kind::choose(&settings.runtime)?,
            state_dir: workspace_root().join(&settings.state_dir),
            hears_redis: settings.triggers == Triggers::All,
        })
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.variables["redis_url"]
    }

    fn runtime(&self, settings: &settings::Up) -> runtime::Builder {
        let mut builder = Runtime::builder(manifest_file())
            .kind(self.kind)
            .listen(settings.listen)
            .state_dir(&self.state_dir)
            .variables(&self.variables)
            .shown();
        if !self.hears_redis {
            let mut components: Vec<_> = self.manifest.routes().iter().map(|(_, id)| *id).collect();
            components.sort_unstable();
            components.dedup();
            for component in components {
                builder = builder.component(component);
            }
        }
        builder
    }
}

fn manifest_file() -> PathBuf {
    workspace_root().join("spin.toml")
}

async fn up(settings: &settings::Up, parts: &mut Parts) -> Result<()> {
    let given = settings::given_variables()?;
    let application = Application::read(settings, settings.variables(&given))?;

    // What can be refused at once is refused before minutes of building.
    settings::check_redis_url(application.redis_url())?;
    if !port::is_free(settings.listen) {
        bail!(
            "LISTEN={}: one cannot listen there, most likely because something already does; choose another",
            settings.listen
        );
    }
    if settings.has_dev_gateway(&given) {
        parts.gateway = Some(start_gateway(settings, &application.variables)?);
    }
    if application.hears_redis {
        ensure_redis(&application, &mut parts.redis).await?;
    }
    setup::target().await?;
    setup::build_components(&application.manifest.packages()).await?;
    if application.kind == Kind::Host {
        setup::build_host().await?;
    }

    // A first start that fails would fail again: it is told, and ends us.
    let started = application.runtime(settings).start().await?;
    let runtime = parts.runtime.insert(started);
    welcome::print(&application, runtime, parts.gateway.as_ref(), parts.redis.is_some()).await;
    tokio::select! {
        never = messages::print_arrivals(parts.gateway.as_ref()) => never,
        never = keep_running(&application, runtime, &mut parts.redis) => never,
    }
}

fn start_gateway(settings: &settings::Up, variables: &Variables) -> Result<Gateway> {
    let address = settings.gateway_listen;
    if !port::is_free(address) {
        bail!(
            "GATEWAY_LISTEN={address}: the dev gateway cannot listen there, most likely because something already \
             does; choose another"
        );
    }
    Gateway::start_at(address, &variables["push_gateway_secret"])
        .context("the dev gateway does not start; its secret is GATEWAY_SECRET")
}

/// Sees to it that a Redis answers that is new enough: the one that is there, or one of our own.
async fn ensure_redis(application: &Application, ours: &mut Option<Redis>) -> Result<()> {
    find_or_start_redis(application, ours).await?;
    let url = application.redis_url();
    // What does not tell, as some that others operate, is tried.
    let Ok(version) = redis::version(url).await else { return Ok(()) };
    if !is_new_enough(&version) {
        let (major, minor) = REDIS_SINCE;
        bail!(
            "the Redis at REDIS_URL={url} is {version}, and streams need {major}.{minor} or newer: install a newer one, \
             or name another"
        );
    }
    Ok(())
}

/// Whether a Redis of this version has the commands that streams are drained by.
fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    matches!((parts.next(), parts.next()), (Some(Some(major)), Some(Some(minor))) if (major, minor) >= REDIS_SINCE)
}

async fn find_or_start_redis(application: &Application, ours: &mut Option<Redis>) -> Result<()> {
    let url = application.redis_url();
    if redis::answers(url).await {
        // Another one has taken the place of ours, which is not to be watched any more.
        if ours.as_mut().is_some_and(|ours| !ours.is_running()) {
            *ours = None;
        }
        return Ok(());
    }
    if let Some(ours) = ours {
        println!("Redis has ended; it is started again.");
        return ours.restart().await;
    }
    let (host, port) = redis::host_and_port(url).context("REDIS_URL")?;
    // What is started listens there alone, not at ::1.
    if !["127.0.0.1", "localhost"].contains(&host.as_str()) {
        bail!("no Redis answers at REDIS_URL={url}, and one is started at 127.0.0.1 alone");
    }
    if on_path("redis-server").is_none() {
        setup::redis_server().await?;
        // Debian starts it as a service, at the usual port.
        sleep(SERVICE_PATIENCE).await;
        if redis::answers(url).await {
            return Ok(());
        }
    }
    let redis = Redis::builder()
        .port(port)
        .folder(application.state_dir.join("redis"))
        .append_only(true)
        .start()
        .await
        .with_context(|| format!("REDIS_URL={url}"))?;
    *ours = Some(redis);
    Ok(())
}

/// Starts again what ends by itself: our Redis, and the runtime (Spin ends when Redis goes away, the stand-in host
/// waits for it).
async fn keep_running(application: &Application, runtime: &mut Runtime, redis: &mut Option<Redis>) -> Result<()> {
    let mut backoff = Backoff::new();
    let mut started = Instant::now();
    loop {
        let status = tokio::select! {
            status = runtime.wait() => status,
            () = ends(redis) => {
                if let Err(error) = ensure_redis(application, redis).await {
                    println!("Redis does not start: {error:#}");
                    sleep(backoff.pause_after(Duration::ZERO)).await;
                }
                continue;
            }
        };
        println!("\nThe runtime has ended by itself ({status}).");
        let mut run = started.elapsed();
        loop {
            let pause = backoff.pause_after(run);
            println!("It is started again in {:.1} s.", pause.as_secs_f32());
            sleep(pause).await;
            match start_again(application, runtime, redis).await {
                Ok(()) => break,
                Err(error) => println!("It does not start: {error:#}"),
            }
            run = Duration::ZERO;
        }
        started = Instant::now();
        println!("The runtime runs again: {}", runtime.url("/"));
    }
}

/// Waits until our Redis runs no more; for ever if the Redis is not ours.
async fn ends(redis: &mut Option<Redis>) {
    let Some(redis) = redis else {
        return std::future::pending().await;
    };
    while redis.is_running() {
        sleep(REDIS_POLL_EVERY).await;
    }
}

async fn start_again(application: &Application, runtime: &mut Runtime, redis: &mut Option<Redis>) -> Result<()> {
    if application.hears_redis {
        ensure_redis(application, redis).await?;
    }
    runtime.restart().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_cannot_drain_streams_is_told_by_its_version() {
        for new in ["6.2.0", "6.2", "7.0.15", "8.0.0", "10.1.2", "6.10.1"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["6.0.16", "5.0.7", "2.8.4", "6", ""] {
            assert!(!is_new_enough(old), "{old}");
        }
    }

    #[tokio::test]
    async fn our_redis_is_watched_until_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let started = Redis::start().await.unwrap();
        let (url, port) = (started.url(), started.port());
        let application = Application {
            manifest: Manifest::read(&manifest_file()).unwrap(),
            variables: Variables::from([("redis_url".to_owned(), url.clone())]),
            kind: Kind::Host,
            state_dir: folder.path().to_owned(),
            hears_redis: true,
        };
        let mut ours = Some(started);
        ensure_redis(&application, &mut ours).await.unwrap();
        assert!(ours.is_some(), "ours answers, and is watched");

        ours.as_mut().unwrap().kill();
        ensure_redis(&application, &mut ours).await.unwrap();
        assert!(ours.as_mut().unwrap().is_running(), "ours is started again");

        ours.as_mut().unwrap().kill();
        let _another = Redis::builder().port(port).start().await.unwrap();
        ensure_redis(&application, &mut ours).await.unwrap();
        assert!(ours.is_none() && redis::answers(&url).await, "another answers, and ends by itself");
    }
}
