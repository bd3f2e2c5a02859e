//! A child process, and whatever it starts in turn, that ends with us: when it is dropped, when a test panics, and
//! even when we are killed and run no code any more.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

/// Reads until its standard input ends, which is when the process that holds the other end is gone, however it
/// went; then kills the group. Asks for no `unsafe` and no Linux, as a parent-death signal would.
const GUARD: &str = r#"trap '' HUP INT TERM; read -r _; kill -s KILL -- "-$1""#;

const POLL_EVERY: Duration = Duration::from_millis(20);

/// A program in a process group of its own. `spin up` starts a process per trigger, and these live on if it alone
/// is killed: so signals go to the group.
#[derive(Debug)]
pub struct Group {
    program: String,
    leader: Child,
    guard: Child,
    ended: Option<ExitStatus>,
}

impl Group {
    /// Starts the command, with nothing on its standard input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut leader =
            command.stdin(Stdio::null()).process_group(0).spawn().with_context(|| format!("cannot start {program}"))?;
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(leader.id().to_string())
            // The pipe's end on our side is closed on exec, so only this process holds it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        match guard {
            Ok(guard) => Ok(Self { program, leader, guard, ended: None }),
            Err(error) => {
                let _ = leader.kill();
                let _ = leader.wait();
                Err(error).context("cannot start sh")
            }
        }
    }

    /// The program's name, as it was started.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// How the program ended; `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none()
            && let Ok(Some(status)) = self.leader.try_wait()
        {
            self.close(status);
        }
        self.ended
    }

    /// Waits until the program ends.
    pub async fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            sleep(POLL_EVERY).await;
        }
    }

    /// The most memory that the group's processes have held, each at its own time, added up. `None` where the
    /// operating system has no `/proc`, or the program has ended.
    pub fn peak_memory_bytes(&self) -> Option<u64> {
        let group = self.leader.id().to_string();
        let processes = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
            let folder = entry.path();
            let stat = std::fs::read_to_string(folder.join("stat")).ok()?;
            // After the name, which stands in parentheses and may hold any character: state, parent, group.
            let (_, after_name) = stat.rsplit_once(") ")?;
            if after_name.split(' ').nth(2)? != group {
                return None;
            }
            let status = std::fs::read_to_string(folder.join("status")).ok()?;
            peak_memory_of(&status)
        });
        processes.reduce(|sum, bytes| sum + bytes)
    }

    /// SIGTERM to the group, then waits; SIGKILL for what is still there after `patience`.
    pub async fn stop(&mut self, patience: Duration) -> ExitStatus {
        if self.exited().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return status;
            }
            sleep(POLL_EVERY).await;
        }
        self.kill()
    }

    /// SIGKILL to the group; returns when the program is gone.
    pub fn kill(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        self.signal(Signal::SIGKILL);
        let status = self
            .leader
            .wait()
            // Only if somebody else in this process had waited for it.
            .unwrap_or_else(|_| ExitStatus::from_raw(Signal::SIGKILL as i32));
        self.close(status);
        status
    }

    /// The leader is gone: so goes what it left behind, and then the guard, before the group's number can belong
    /// to others.
    fn close(&mut self, status: ExitStatus) {
        self.signal(Signal::SIGKILL);
        let _ = self.guard.kill();
        let _ = self.guard.wait();
        self.ended = Some(status);
    }

    fn signal(&self, signal: Signal) {
        // An error means that the group is gone, which is what all who call this want in the end.
        let _ = killpg(Pid::from_raw(self.leader.id() as i32), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The peak of the resident memory in a `/proc/<pid>/status`; a process that has ended has none.
fn peak_memory_of(status: &str) -> Option<u64> {
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = peak.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

/// A process of this machine.
#[derive(Debug)]
pub struct Process {
    /// Its own id.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// Whether it runs, and is no zombie that merely waits to be collected.
    pub runs: bool,
    /// The program's name, of which Linux keeps 15 bytes.
    pub program: String,
}

/// All processes: as Linux lists them, since not every Linux has `ps`; elsewhere as `ps` does.
pub fn all() -> Vec<Process> {
    if let Ok(entries) = std::fs::read_dir("/proc") {
        let stat = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("stat")).ok();
        return entries.flatten().filter_map(stat).filter_map(|stat| of_stat(&stat)).collect();
    }
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid=,stat=,comm="]).output();
    let listed = listed.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    let process = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent, state) = (words.next()?, words.next()?, words.next()?);
        of_words(pid, parent, state, words.next()?.rsplit('/').next()?)
    };
    listed.lines().filter_map(process).collect()
}

/// Of a `/proc/<pid>/stat`: `7 (name) S 1 …`, where the name may have spaces and parentheses.
fn of_stat(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(')')?;
    let (pid, program) = head.split_once('(')?;
    let mut words = tail.split_whitespace();
    let (state, parent) = (words.next()?, words.next()?);
    of_words(pid.trim(), parent, state, program)
}

fn of_words(pid: &str, parent: &str, state: &str, program: &str) -> Option<Process> {
    Some(Process {
        pid: Pid::from_raw(pid.parse().ok()?),
        parent: Pid::from_raw(parent.parse().ok()?),
        runs: !state.starts_with(['Z', 'X']),
        program: program.to_owned(),
    })
}

/// Where the PATH has this program.
pub fn on_path(program: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_running(pid: &str) -> bool {
        all().iter().any(|process| process.pid.to_string() == pid && process.runs)
    }

    #[test]
    fn a_process_is_listed_with_its_parent_and_its_program() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let listed = all().into_iter().find(|process| process.pid.as_raw().unsigned_abs() == child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        let listed = listed.unwrap();
        assert!(listed.runs && listed.parent == Pid::this(), "{listed:?}");
        let odd = of_stat("7 (a) b (c) Z 1 7 7 0").unwrap();
        assert_eq!((odd.program.as_str(), odd.parent.as_raw(), odd.runs), ("a) b (c", 1, false));
    }

    async fn grandchild(folder: &tempfile::TempDir) -> (Group, String) {
        let note = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", note.display());
        let group = Group::spawn(&mut shell(&script)).unwrap();
        loop {
            match std::fs::read_to_string(&note) {
                Ok(pid) if pid.ends_with('\n') => return (group, pid.trim().to_owned()),
                _ => sleep(POLL_EVERY).await,
            }
        }
    }

    async fn is_gone(pid: &str) -> bool {
        for _ in 0..100 {
            if !is_running(pid) {
                return true;
            }
            sleep(POLL_EVERY).await;
        }
        false
    }

    #[tokio::test]
    async fn a_dropped_group_takes_its_grandchildren_along() {
        let folder = tempfile::tempdir().unwrap();
        let (group, pid) = grandchild(&folder).await;
        assert!(is_running(&pid));
        drop(group);
        assert!(is_gone(&pid).await);
    }

    #[tokio::test]
    async fn the_guard_kills_the_group_when_its_holder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut group, pid) = grandchild(&folder).await;
        // What the operating system does when this process is killed.
        drop(group.guard.stdin.take());
        assert!(is_gone(&pid).await);
        assert_eq!(group.wait().await.signal(), Some(Signal::SIGKILL as i32));
    }

    #[tokio::test]
    async fn stopping_asks_first_and_kills_whoever_does_not_listen() {
        let mut polite = Group::spawn(&mut shell("sleep 1000")).unwrap();
        let status = polite.stop(Duration::from_secs(10)).await;
        assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));

        let mut deaf = Group::spawn(&mut shell("trap '' TERM; while :; do sleep 1; done")).unwrap();
        // Time to set the trap.
        sleep(Duration::from_millis(200)).await;
        let status = deaf.stop(Duration::from_millis(200)).await;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }

    #[test]
    fn the_peak_of_a_process_is_in_its_status() {
        let status = "Name:\tspin (x) y\nVmPeak:\t 9000 kB\nVmHWM:\t    3196 kB\nVmRSS:\t 3000 kB\n";
        assert_eq!(peak_memory_of(status), Some(3_196 * 1_024));
        assert_eq!(peak_memory_of("Name:\tgone\nState:\tZ (zombie)\n"), None);
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_peak_memory_of_a_group_is_that_of_all_its_processes() {
        let folder = tempfile::tempdir().unwrap();
        let (mut group, _) = grandchild(&folder).await;
        let mut alone = Group::spawn(&mut shell("exec sleep 1000")).unwrap();
        let [both, one] = [&group, &alone].map(|group| group.peak_memory_bytes().unwrap());
        assert!(100_000 < one && one < both, "{one} {both}");

        group.kill();
        alone.kill();
        assert_eq!(group.peak_memory_bytes(), None);
    }

    #[tokio::test]
    async fn an_exit_is_told_as_it_was() {
        let mut group = Group::spawn(&mut shell("exit 3")).unwrap();
        assert_eq!(group.wait().await.code(), Some(3));
        assert_eq!(group.kill().code(), Some(3));
    }
}
