//! Where a component's stdout and stderr go: to the host's stderr and to files in `<state-dir>/logs`, in whole
//! lines, so that those of different instances do not mix.

use std::{
    fmt::Display,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

/// A line longer than this is written in pieces, so that a guest cannot fill the host's memory.
const LONGEST_LINE_BYTES: usize = 64 * 1024;

/// Says something of the host's own on stderr: one line in one piece. Unlike `eprintln!` it does not panic when
/// nobody reads any more.
pub(crate) fn say(line: impl Display) {
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// One component's two logs.
pub(crate) struct Logs {
    stdout: Arc<Log>,
    stderr: Arc<Log>,
}

impl Logs {
    /// Opens `<component>_stdout.txt` and `<component>_stderr.txt` to append to them.
    pub(crate) fn open(folder: &Path, component: &str, quiet: bool) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let open = |stream: &str| {
            let path = folder.join(format!("{component}_{stream}.txt"));
            let file = File::options()
                .create(true)
                .append(true)
                .open(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            Ok::<_, anyhow::Error>(Arc::new(Log { file, quiet }))
        };
        Ok(Self { stdout: open("stdout")?, stderr: open("stderr")? })
    }

    /// The stdout and the stderr of a new instance.
    pub(crate) fn instance(&self) -> (Output, Output) {
        (Output::new(&self.stdout), Output::new(&self.stderr))
    }
}

struct Log {
    file: File,
    quiet: bool,
}

impl Log {
    /// Writes whole lines: one call each, which a file opened for appending keeps together.
    fn write(&self, lines: &[u8]) -> io::Result<()> {
        (&self.file).write_all(lines)?;
        if !self.quiet {
            // A guest whose stdout fails panics, and that nobody reads the host's stderr is not its fault.
            let _ = io::stderr().write_all(lines);
        }
        Ok(())
    }
}

/// One instance's stdout or stderr: it holds back what is not yet a whole line.
#[derive(Clone)]
pub(crate) struct Output(Arc<Line>);

struct Line {
    log: Arc<Log>,
    begun: Mutex<Vec<u8>>,
}

impl Output {
    fn new(log: &Arc<Log>) -> Self {
        Self(Arc::new(Line { log: log.clone(), begun: Mutex::default() }))
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut begun = self.0.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.extend_from_slice(bytes);
        let whole = match begun.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if begun.len() > LONGEST_LINE_BYTES => begun.len(),
            None => return Ok(()),
        };
        let rest = begun.split_off(whole);
        let lines = std::mem::replace(&mut *begun, rest);
        self.0.log.write(&lines)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let begun = self.begun.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !begun.is_empty() {
            begun.push(b'\n');
            // There is nobody left to tell.
            let _ = self.log.write(begun);
        }
    }
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // Without it each stream of each instance would get a task of its own.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes).map_err(|error| StreamError::LastOperationFailed(error.into()))
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LONGEST_LINE_BYTES)
    }
}

impl AsyncWrite for Output {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.append(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::open(folder.path(), "a", true).unwrap();
        let written = || fs::read_to_string(folder.path().join("a_stdout.txt")).unwrap();
        let (first, _) = logs.instance();
        let (second, _) = logs.instance();
        first.append(b"one ").unwrap();
        second.append(b"two\nthr").unwrap();
        assert_eq!(written(), "two\n");
        first.append(b"line\n").unwrap();
        drop(second);
        assert_eq!(written(), "two\none line\nthr\n");
    }
}
