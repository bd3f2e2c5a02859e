//! Intake of a Redis stream by consumer group: a batch is read, handed to its handler, and only then acknowledged.
//!
//! A drain is exclusive, so that entries are handled in the stream's order whatever crashes: it holds a lease while
//! it reads, all drains are the same consumer, and what a dead one had read and not acknowledged is read again first.
//! [`redis`] is the stream as Redis has it; [`payload`] finds the event in an entry; [`Settings`] says which stream.

mod payload;
mod redis;
mod settings;

use std::{future::Future, io::Write};

use futures::future::join;
use serde::Serialize;

pub use self::{
    payload::payload,
    redis::{Eval, Outbound, RedisStream},
    settings::Settings,
};
use crate::problem::{Kind, Problem};

/// An entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id, `1481361166000-0`.
    pub id: String,
    /// Its fields in their order.
    pub fields: Vec<(String, String)>,
    /// Whether all of it was UTF-8; where it was not, a field has U+FFFD.
    pub valid_utf8: bool,
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dead {
    /// The entry's id.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batch {
    /// Entries in the stream's order; none if there are none.
    Entries(Vec<Entry>),
    /// Another drain is at it.
    Busy,
}

/// Why a stream did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// No answer within the deadline.
    #[error("Redis did not answer in time")]
    TimedOut,
    /// It is not there, or refuses, in its words.
    #[error("Redis: {0}")]
    Unavailable(String),
    /// It answered something else than our scripts do.
    #[error("Redis answered what is no batch: {0}")]
    Malformed(String),
}

impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        let _ = writeln!(std::io::stderr(), "stream: {error}");
        Self::new(Kind::Unavailable, "the stream cannot be read now; what is in it stays there")
    }
}

/// Why a drain ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DrainError<E> {
    /// The stream's fault.
    #[error(transparent)]
    Stream(StreamError),
    /// The handler's: nothing of its batch is acknowledged.
    #[error("{0}")]
    Handler(E),
}

impl<E: Into<Problem>> From<DrainError<E>> for Problem {
    fn from(error: DrainError<E>) -> Self {
        match error {
            DrainError::Stream(error) => error.into(),
            DrainError::Handler(error) => error.into(),
        }
    }
}

/// A stream, as one drain holds it.
pub trait Source: Send + Sync {
    /// Takes or renews the lease and reads at most `count` entries that this drain does not hold: of those that were
    /// handed out and are not acknowledged, the ones past `held`, the last entry of the one batch that it holds.
    fn read(&self, count: usize, held: Option<&str>) -> impl Future<Output = Result<Batch, StreamError>> + Send;
    /// Copies the dead entries aside and acknowledges all of `handled`, the dead among them.
    fn finish(&self, handled: &[String], dead: &[Dead]) -> impl Future<Output = Result<(), StreamError>> + Send;
    /// Gives the lease back, and says how many entries are left.
    fn release(&self) -> impl Future<Output = Result<u64, StreamError>> + Send;
}

/// What a drain did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Entries that were handled and acknowledged.
    pub read: u64,
    /// How many of them could not be read.
    pub dead: u64,
    /// Entries that are not yet acknowledged; `None` where another drain is at it.
    pub left: Option<u64>,
    /// Another drain is at it.
    pub busy: bool,
}

impl Drained {
    /// Whether a drain read entries, or may have: what waits is delivered also when the stream could not be read.
    pub fn brought<E>(drained: &Result<Self, E>) -> bool {
        !matches!(drained, Ok(Self { read: 0, .. }))
    }
}

/// Drains `source` in batches of `count` until it is empty or there is no `more_time`.
///
/// What `handle` returns commits a batch and says which of its entries cannot be read. Meanwhile the batch before it is
/// acknowledged, and the next one is fetched and handed to `handle`, which may already read it.
///
/// # Errors
/// The stream's, and the handler's: then nothing of the batch is acknowledged, and the next drain reads it again.
pub async fn drain<S, E, H, F>(
    source: &S,
    count: usize,
    more_time: impl Fn() -> bool + Send,
    handle: H,
) -> Result<Drained, DrainError<E>>
where
    S: Source,
    E: Send,
    H: Fn(Vec<Entry>) -> F + Send,
    F: Future<Output = Result<Vec<Dead>, E>> + Send,
{
    let mut drained = Drained::default();
    for again in [false, true] {
        let done = batches(source, count, &more_time, &handle, &mut drained).await;
        if drained.busy {
            done?;
            // Another drain came in between: the rest is its.
            drained.busy = !again;
            return Ok(drained);
        }
        // Also after a failure: the next drain need not wait for the lease to end.
        let left = source.release().await;
        done?;
        let left = left.map_err(DrainError::Stream)?;
        drained.left = Some(left);
        // Somebody may have rung between the last look and the release, and have found it busy.
        if left == 0 || !more_time() {
            break;
        }
    }
    Ok(drained)
}

/// A batch whose handler has committed it.
struct Committed {
    ids: Vec<String>,
    dead: Vec<Dead>,
}

async fn batches<S, E, H, F>(
    source: &S,
    count: usize,
    more_time: &(impl Fn() -> bool + Send),
    handle: &H,
    drained: &mut Drained,
) -> Result<(), DrainError<E>>
where
    S: Source,
    E: Send,
    H: Fn(Vec<Entry>) -> F + Send,
    F: Future<Output = Result<Vec<Dead>, E>> + Send,
{
    let mut last: Option<Committed> = None;
    let mut next = read(source, count, None, handle).await;
    let ended = loop {
        let (ids, committing) = match next {
            Err(error) => break Err(DrainError::Stream(error)),
            Ok(Read::Busy) => {
                drained.busy = true;
                break Ok(());
            }
            Ok(Read::Nothing) => break Ok(()),
            Ok(Read::Batch { ids, committing }) => (ids, committing),
        };
        let meanwhile = async {
            // In this order: what is acknowledged is not read again, whatever the ids of what is read next.
            acknowledge(source, last.take(), drained).await?;
            Ok(if more_time() { Some(read(source, count, ids.last().map(String::as_str), handle).await) } else { None })
        };
        let (outcome, ahead) = join(committing, meanwhile).await;
        last = Some(Committed { dead: outcome.map_err(DrainError::Handler)?, ids });
        match ahead {
            Err(error) => break Err(DrainError::Stream(error)),
            Ok(Some(ahead)) => next = ahead,
            Ok(None) => break Ok(()),
        }
    };
    let acknowledged = acknowledge(source, last, drained).await;
    ended.and(acknowledged.map_err(DrainError::Stream))
}

/// What a read gives a drain.
enum Read<F> {
    /// Another drain is at it.
    Busy,
    /// There are no entries.
    Nothing,
    /// Entries, read by the handler.
    Batch { ids: Vec<String>, committing: F },
}

async fn read<S: Source, F>(
    source: &S,
    count: usize,
    held: Option<&str>,
    handle: &(impl Fn(Vec<Entry>) -> F + Send),
) -> Result<Read<F>, StreamError> {
    Ok(match source.read(count, held).await? {
        Batch::Busy => Read::Busy,
        Batch::Entries(entries) if entries.is_empty() => Read::Nothing,
        Batch::Entries(entries) => {
            let ids = entries.iter().map(|entry| entry.id.clone()).collect();
            Read::Batch { ids, committing: handle(entries) }
        }
    })
}

async fn acknowledge(source: &impl Source, batch: Option<Committed>, drained: &mut Drained) -> Result<(), StreamError> {
    let Some(Committed { ids, dead }) = batch else { return Ok(()) };
    source.finish(&ids, &dead).await?;
    drained.read += ids.len() as u64;
    drained.dead += dead.len() as u64;
    Ok(())
}

/// What Redis says of a key beside the commands of streams, which begin with `x`:
/// <https://redis.io/docs/latest/develop/use/keyspace-notifications/>.
const RINGS: [&str; 14] = [
    "copy_to",
    "del",
    "evicted",
    "expire",
    "expired",
    "move_from",
    "move_to",
    "new",
    "overwritten",
    "persist",
    "rename_from",
    "rename_to",
    "restore",
    "type_changed",
];

/// Whether a payload is a keyspace notification, and one of an added entry: the name of a command, which no event
/// is. Others ring too: `xgroup-create`, `xtrim`, `del`, `expire`. Any other word is nonsense that somebody published.
pub fn rung(payload: &[u8]) -> Option<bool> {
    let word = std::str::from_utf8(payload).ok().filter(|word| (2..=32).contains(&word.len()))?;
    let of_a_stream = word.starts_with('x') && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    (of_a_stream || RINGS.contains(&word)).then_some(word == "xadd")
}

#[cfg(test)]
mod tests;
