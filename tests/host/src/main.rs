//! `clinic-host` stands in for `spin up` on machines without Spin: it serves the HTTP and Redis triggers of a
//! `spin.toml` with the same engine. For development and tests; see `README.md`.

mod allowed_hosts;
mod app;
mod bindings;
mod host;
mod http_trigger;
mod logs;
mod manifest;
mod outbound_http;
mod redis;
mod redis_trigger;
mod routes;
mod sqlite;
mod variables;

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    http_trigger::HttpTrigger, logs::say, manifest::Manifest, redis_trigger::Subscription, routes::Routes,
    variables::Variables,
};

/// How long a stop waits for requests in flight and for the Redis message in hand.
const GRACE: Duration = Duration::from_secs(10);

/// Stands in for `spin` on machines without it. Not for production.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Runs an application, as `spin up` does
    Up(Up),
}

#[derive(clap::Args)]
struct Up {
    /// The manifest, or the folder it is in
    #[arg(short, long, default_value = "spin.toml")]
    from: PathBuf,
    /// Where the HTTP trigger listens
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where the database and the logs are kept [default: `.spin` beside the manifest]
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Run this component alone (may be repeated)
    #[arg(short, long)]
    component_id: Vec<String>,
    /// Write the components' output to their log files alone
    #[arg(long)]
    quiet: bool,
}

/// What runs.
struct Application {
    http: Option<(Arc<HttpTrigger>, TcpListener)>,
    redis: Vec<Subscription>,
}

fn main() -> ExitCode {
    let Command::Up(up) = Command::parse();
    let started = Runtime::new().context("cannot start the runtime").and_then(|runtime| {
        let application = runtime.block_on(start(&up))?;
        Ok((runtime, application))
    });
    let (runtime, application) = match started {
        Ok(started) => started,
        Err(error) => {
            say(format!("Error: {error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let stopped = runtime.block_on(run(application));
    // A statement may still hold a thread.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match stopped {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format!("Error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Checks and loads everything, so that whatever is wrong is said now and together.
async fn start(up: &Up) -> Result<Application> {
    let (mut manifest, folder) = Manifest::read(&up.from)?;
    manifest.retain(&up.component_id)?;
    let state_dir = up.state_dir.clone().unwrap_or_else(|| folder.join(".spin"));

    let mut faults = manifest.faults(&folder);
    let (variables, missing) = Variables::from_environment(&manifest);
    faults.extend(missing);
    let loaded = app::load(&manifest, &folder, &state_dir, &variables, up.quiet, &mut faults)?;
    let http = match Routes::new(&manifest.trigger.http) {
        Ok(routes) => Some(HttpTrigger::new(routes, &loaded, &mut faults)),
        Err(more) => {
            faults.extend(more);
            None
        }
    };
    let redis = redis_trigger::subscriptions(&manifest, &variables, &loaded, &mut faults);
    if !faults.is_empty() {
        anyhow::bail!("{} cannot be run:\n- {}", up.from.display(), faults.join("\n- "));
    }

    say_where_logs_are(&state_dir);
    let http = match http {
        Some(http) if !manifest.trigger.http.is_empty() => {
            let listener =
                TcpListener::bind(up.listen).await.with_context(|| format!("cannot listen on {}", up.listen))?;
            print(&http.start_message(listener.local_addr()?));
            Some((Arc::new(http), listener))
        }
        _ => None,
    };
    Ok(Application { http, redis })
}

fn say_where_logs_are(state_dir: &Path) {
    say(format!("Logging component stdio to {:?}", state_dir.join("logs").join("")));
}

/// Runs the triggers until a signal comes and they have finished what is in flight.
async fn run(application: Application) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopped) = watch::channel(false);
    let mut triggers = JoinSet::new();
    if let Some((http, listener)) = application.http {
        triggers.spawn(http.serve(listener, stopped.clone()));
    }
    for subscription in application.redis {
        triggers.spawn(subscription.run(stopped.clone()));
    }

    let mut wait_for_signal = async || {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    tokio::select! {
        () = wait_for_signal() => {}
        Some(Err(error)) = triggers.join_next() => return Err(error).context("a trigger failed"),
    }
    stop.send_replace(true);
    let finished = timeout(GRACE, async { while triggers.join_next().await.is_some() {} });
    tokio::select! {
        () = wait_for_signal() => {}
        finished = finished => if finished.is_err() {
            say(format!("Stopping without what is still in flight after {} s", GRACE.as_secs()));
        },
    }
    Ok(())
}

/// Prints to stdout. Unlike `println!` it does not panic when nobody reads any more.
pub(crate) fn print(message: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(message.as_bytes()).and_then(|()| stdout.flush());
}
