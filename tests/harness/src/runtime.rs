//! The runtime with the application in it: `spin up`, or the stand-in host `clinic-host up`, which takes the same
//! flags. Which one, the environment's RUNTIME says: `auto` (Spin where it is on the PATH), `spin` or `host`.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::process::{Group, on_path};
use crate::{http_client, port, workspace_root};

/// The prefix of an application variable's name in the environment.
pub const VARIABLE_PREFIX: &str = "SPIN_VARIABLE_";

const HEALTH_PATH: &str = "/.well-known/spin/health";
/// On a first start the runtime compiles all components to machine code.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const PORT_PATIENCE: Duration = Duration::from_secs(5);
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How much of the standard error output an error shows.
const TAIL_BYTES: usize = 4_000;

/// Which program runs the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `spin up`.
    Spin,
    /// `clinic-host up`, of `tests/host`.
    Host,
}

impl Kind {
    /// What RUNTIME asks for; unset is `auto`.
    pub fn from_env() -> Result<Self> {
        let choice = std::env::var("RUNTIME").unwrap_or_default();
        Self::choose(&choice)
    }

    /// What `auto` (or nothing), `spin` or `host` means on this machine.
    pub fn choose(choice: &str) -> Result<Self> {
        let spin = on_path("spin");
        match choice {
            "" | "auto" => Ok(if spin.is_some() { Self::Spin } else { Self::Host }),
            "spin" if spin.is_none() => bail!("RUNTIME=spin, but `spin` is not on the PATH"),
            "spin" => Ok(Self::Spin),
            "host" => Ok(Self::Host),
            other => bail!("RUNTIME is auto, spin or host, not {other:?}"),
        }
    }

    fn program(self) -> Result<PathBuf> {
        match self {
            Self::Spin => on_path("spin").context("`spin` is not on the PATH"),
            Self::Host => {
                let host = std::env::var_os("CLINIC_HOST")
                    .map_or_else(|| workspace_root().join("target/debug/clinic-host"), PathBuf::from);
                if !host.is_file() {
                    bail!("{} is not there: build it with `cargo build -p clinic-host`", host.display());
                }
                Ok(host)
            }
        }
    }
}

/// How the application is to be started.
#[derive(Debug, Clone)]
pub struct Builder {
    manifest: PathBuf,
    kind: Option<Kind>,
    variables: BTreeMap<String, String>,
    components: Vec<String>,
    listen: Option<SocketAddr>,
    state_dir: Option<PathBuf>,
    shown: bool,
}

impl Builder {
    /// Which program; by default what RUNTIME asks for.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// An application variable, such as `push_gateway`. Those of our own environment do not reach the application.
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_lowercase(), value.into());
        self
    }

    /// Many variables.
    pub fn variables(mut self, variables: impl IntoIterator<Item = (impl AsRef<str>, impl Into<String>)>) -> Self {
        for (name, value) in variables {
            self = self.variable(name.as_ref(), value);
        }
        self
    }

    /// Runs this component, and besides it only those named likewise; by default all run.
    pub fn component(mut self, id: impl Into<String>) -> Self {
        self.components.push(id.into());
        self
    }

    /// The address to listen on; by default a free port of 127.0.0.1.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = Some(address);
        self
    }

    /// Where the database and the logs lie; by default in a temporary folder.
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(folder.into());
        self
    }

    /// Its output goes to our own; otherwise it is kept for [`Runtime::stderr`].
    pub fn shown(mut self) -> Self {
        self.shown = true;
        self
    }

    /// Starts it, and returns when its health answers. If it does not, the error has the last lines it wrote.
    pub async fn start(self) -> Result<Runtime> {
        let scratch = tempfile::tempdir()?;
        let state_dir = match &self.state_dir {
            Some(folder) => std::path::absolute(folder)?,
            None => scratch.path().join("state"),
        };
        let mut runtime = Runtime {
            kind: self.kind.map_or_else(Kind::from_env, Ok)?,
            address: self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port::free()).into()),
            manifest: std::path::absolute(&self.manifest)?,
            settings: self,
            state_dir,
            scratch,
            group: None,
        };
        runtime.launch().await?;
        Ok(runtime)
    }
}

/// A running application. It ends when this is dropped, with every process that it started.
#[derive(Debug)]
pub struct Runtime {
    settings: Builder,
    kind: Kind,
    manifest: PathBuf,
    address: SocketAddr,
    state_dir: PathBuf,
    scratch: TempDir,
    group: Option<Group>,
}

impl Runtime {
    /// Settings to start from, for the application of this `spin.toml`.
    pub fn builder(manifest: impl Into<PathBuf>) -> Builder {
        Builder {
            manifest: manifest.into(),
            kind: None,
            variables: BTreeMap::new(),
            components: Vec::new(),
            listen: None,
            state_dir: None,
            shown: false,
        }
    }

    /// Which program runs.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The URL of a path, such as `/push/events`.
    pub fn url(&self, path: &str) -> String {
        let mut reachable = self.address;
        if reachable.ip().is_unspecified() {
            reachable.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        format!("http://{reachable}{path}")
    }

    /// An application variable that it was started with.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.settings.variables.get(name).map(String::as_str)
    }

    /// The most memory that its processes have held, each at its own time, added up; `None` where that is not known,
    /// and while it does not run.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        self.group.as_ref()?.peak_memory_bytes()
    }

    /// Where the database (`sqlite_db.db`) and the logs lie.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What a component has logged: the lines of its output that are JSON, oldest first, also from before a
    /// restart.
    pub fn logs(&self, component: &str) -> Vec<Value> {
        let file = self.state_dir.join("logs").join(format!("{component}_stdout.txt"));
        let output = std::fs::read(file).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until a component has logged a line of which the predicate holds, and returns the line.
    pub async fn wait_for_log(
        &self,
        component: &str,
        timeout: Duration,
        predicate: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            let logs = self.logs(component);
            if let Some(line) = logs.iter().find(|line| predicate(line)) {
                return Ok(line.clone());
            }
            if Instant::now() > deadline {
                bail!("{component} did not log the line within {timeout:?}; it logged {logs:#?}");
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// What the runtime wrote to its standard error output since the first start; empty if that is shown.
    pub fn stderr(&self) -> String {
        let output = std::fs::read(self.stderr_file()).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Waits until the runtime ends by itself.
    pub async fn wait(&mut self) -> ExitStatus {
        match &mut self.group {
            Some(group) => group.wait().await,
            // It was killed or stopped: nothing will end.
            None => std::future::pending().await,
        }
    }

    /// SIGKILL to all its processes, as when the machine loses power.
    pub fn kill(&mut self) {
        if let Some(mut group) = self.group.take() {
            group.kill();
        }
    }

    /// SIGTERM, and waits until it has ended.
    pub async fn stop(&mut self) {
        if let Some(mut group) = self.group.take() {
            group.stop(STOP_PATIENCE).await;
        }
    }

    /// Starts it again at the same address and with the same state, after a SIGKILL if it still runs.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill();
        self.launch().await
    }

    async fn launch(&mut self) -> Result<()> {
        self.wait_for_port().await?;
        std::fs::create_dir_all(&self.state_dir)
            .with_context(|| format!("cannot make {}", self.state_dir.display()))?;
        let mut group = Group::spawn(&mut self.command()?)?;
        let health = self.url(HEALTH_PATH);
        let client = http_client(Duration::from_secs(2));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            // First, because the health could be that of another process at this address.
            if let Some(status) = group.exited() {
                bail!("{} ended before it was healthy ({status}){}", group.program(), self.tail());
            }
            if is_healthy(&client, &health).await {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} was not healthy within {START_TIMEOUT:?}{}", group.program(), self.tail());
            }
            sleep(POLL_EVERY).await;
        }
        self.group = Some(group);
        Ok(())
    }

    /// A process that was killed may hold its port for a moment.
    async fn wait_for_port(&self) -> Result<()> {
        let deadline = Instant::now() + PORT_PATIENCE;
        while !port::is_free(self.address) {
            if Instant::now() > deadline {
                bail!("something else listens on {}", self.address);
            }
            sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(self.kind.program()?);
        command
            .arg("up")
            .arg("--from")
            .arg(&self.manifest)
            .args(["--listen", &self.address.to_string()])
            .arg("--state-dir")
            .arg(&self.state_dir)
            // Spin reads a `.env` in its working directory; here is none.
            .current_dir(self.scratch.path());
        for component in &self.settings.components {
            command.args(["-c", component]);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(VARIABLE_PREFIX) {
                command.env_remove(name);
            }
        }
        for (name, value) in &self.settings.variables {
            command.env(format!("{VARIABLE_PREFIX}{}", name.to_uppercase()), value);
        }
        if !self.settings.shown {
            let output = || File::options().create(true).append(true).open(self.stderr_file());
            // The file, not a pipe: nobody need read for the runtime to go on. Guests' output is in `logs`.
            command.stdout(Stdio::null()).stderr(output()?);
        }
        Ok(command)
    }

    fn stderr_file(&self) -> PathBuf {
        self.scratch.path().join("stderr.txt")
    }

    fn tail(&self) -> String {
        if self.settings.shown {
            return "; what it wrote stands above".to_owned();
        }
        let stderr = self.stderr();
        let from = stderr.floor_char_boundary(stderr.len().saturating_sub(TAIL_BYTES));
        format!(":\n{}", &stderr[from..])
    }
}

async fn is_healthy(client: &reqwest::Client, url: &str) -> bool {
    let Ok(response) = client.get(url).send().await else {
        return false;
    };
    response.status().is_success() && response.text().await.is_ok_and(|body| body.trim() == "OK")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_runtime_is_an_error_that_names_it() {
        let error = Kind::choose("docker").unwrap_err().to_string();
        assert!(error.contains("RUNTIME") && error.contains("docker"));
        assert_eq!(Kind::choose("host").unwrap(), Kind::Host);
    }

    #[test]
    fn an_address_that_means_every_interface_is_reached_on_this_machine() {
        let runtime = Runtime {
            settings: Runtime::builder("spin.toml"),
            kind: Kind::Host,
            manifest: PathBuf::new(),
            address: "0.0.0.0:3000".parse().unwrap(),
            state_dir: PathBuf::new(),
            scratch: tempfile::tempdir().unwrap(),
            group: None,
        };
        assert_eq!(runtime.url("/push"), "http://127.0.0.1:3000/push");
    }
}
