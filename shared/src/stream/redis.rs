//! A stream as Redis has it: each step is one script, one round trip.
//!
//! Spin's outbound Redis flattens nested replies, drops empty arrays and has no timeout of its own: the scripts answer
//! one JSON text, and each call is raced with a timer.

use std::{borrow::Cow, future::Future, time::Duration};

use futures::future::{Either, select};
use serde::Deserialize;
use spin_sdk::{
    redis::{Connection, RedisParameter, RedisResult},
    wasip3::random::random,
};

use super::{Batch, Dead, Entry, Source, StreamError};
use crate::config::Lazy;

/// How long a drain holds the stream between two steps.
const LEASE_MS: u64 = 5_000;
/// What another consumer has held for so long, it holds no more.
const ABANDONED_MS: u64 = 60_000;
/// How long a script may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that one batch has, unless its first entry has more: far below what a reply may have.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most entries of the stream of dead entries, about.
const DEAD_MAX: u64 = 100_000;

/// KEYS: the stream, the lease, the dead stream. ARGV: group, count, token, lease ms, abandoned ms, the last entry held or
/// `0`, most bytes, most dead, now ms.
///
/// Three sources in the order of age: what a dead drain had read (we are the same consumer), what another consumer
/// abandoned, what is new. An entry that was trimmed after it was handed out has no fields: what it said is lost, and the
/// dead stream says so. Of more bytes than fit in an answer the rest is read next: it is handed out to us.
///
/// Answers a line of JSON with each entry's id and the lengths of its names and values, then the bytes of all of them:
/// an event is JSON itself, and would be escaped here and unescaped there.
const READ: &str = r"
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[3] then return cjson.encode({busy = true}) end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
local function trimmed(id)
    redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'dead.id', id, 'dead.reason',
        'it was trimmed from the stream before it was handled', 'dead.at_ms', ARGV[9])
    redis.call('XACK', KEYS[1], ARGV[1], id)
end
local function there(entries)
    local found = {}
    for _, entry in ipairs(entries) do
        if entry[2] then
            found[#found + 1] = entry
        else
            trimmed(entry[1])
        end
    end
    return found
end
local function read(from)
    local reply = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[1], 'COUNT', ARGV[2], 'STREAMS', KEYS[1], from)
    if not reply then return {} end
    return there(reply[1][2])
end
local entries = {}
repeat
    local before = redis.call('XPENDING', KEYS[1], ARGV[1], '(' .. ARGV[6], '+', 1, ARGV[1])
    entries = read(ARGV[6])
until #entries > 0 or #before == 0
if #entries == 0 then
    local claimed = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[1], ARGV[5], '0-0', 'COUNT', ARGV[2])
    entries = there(claimed[2])
    -- Redis 7 has taken these off the list by itself.
    for _, id in ipairs(claimed[3] or {}) do trimmed(id) end
end
if #entries == 0 then entries = read('>') end
local sizes, bytes, total = {}, {}, 0
for i, entry in ipairs(entries) do
    local parts = {}
    for j, part in ipairs(entry[2]) do
        parts[j] = #part
        total = total + #part
    end
    if i > 1 and total > tonumber(ARGV[7]) then break end
    for _, part in ipairs(entry[2]) do bytes[#bytes + 1] = part end
    sizes[i] = {entry[1], parts}
end
return cjson.encode({entries = sizes}) .. '\n' .. table.concat(bytes)
";

/// KEYS: the stream, the lease, the dead stream. ARGV: group, token, lease ms, most dead, now ms, then how many dead,
/// their ids and reasons in turns, then the ids of all.
///
/// A dead entry is copied as it is, byte for byte, and only while nobody has acknowledged it.
const FINISH: &str = r"
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
local dead = tonumber(ARGV[6])
for i = 0, dead - 1 do
    local id, reason = ARGV[7 + 2 * i], ARGV[8 + 2 * i]
    if #redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1) == 1 then
        local copy = {'MAXLEN', '~', ARGV[4], '*', 'dead.id', id, 'dead.reason', reason, 'dead.at_ms', ARGV[5]}
        local found = redis.call('XRANGE', KEYS[1], id, id)
        if found[1] then
            for i, part in ipairs(found[1][2]) do
                -- As many as Lua hands over at once.
                if i <= 7000 then copy[#copy + 1] = part end
            end
        end
        redis.call('XADD', KEYS[3], unpack(copy))
        redis.call('XACK', KEYS[1], ARGV[1], id)
    end
end
for i = 7 + 2 * dead, #ARGV, 1000 do
    redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, i, math.min(i + 999, #ARGV)))
end
return '{}'
";

/// KEYS: the stream, the lease. ARGV: group, token.
///
/// What is left: entries that were never handed out, and those that were and are not acknowledged. After a trim Redis
/// may not know the first (`lag` is nil): then it is 1 if there is any entry past the last one handed out.
const RELEASE: &str = r"
if redis.call('GET', KEYS[2]) == ARGV[2] then redis.call('DEL', KEYS[2]) end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local info = {}
    for i = 1, #group, 2 do info[group[i]] = group[i + 1] end
    if info['name'] == ARGV[1] then
        local new = info['lag']
        if not new then
            new = #redis.call('XRANGE', KEYS[1], '(' .. info['last-delivered-id'], '+', 'COUNT', 1)
        end
        return cjson.encode({left = new + info['pending']})
    end
end
return cjson.encode({left = 0})
";

/// What runs a script on a Redis server.
pub trait Eval: Send + Sync {
    /// The bytes of what `script` returns.
    fn eval(
        &self,
        script: &'static str,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> impl Future<Output = Result<Vec<u8>, StreamError>> + Send;
}

/// Spin's outbound Redis, connected on first use.
pub struct Outbound {
    address: String,
    connection: Lazy<Connection>,
}

impl Eval for Outbound {
    async fn eval(
        &self,
        script: &'static str,
        keys: Vec<String>,
        arguments: Vec<String>,
    ) -> Result<Vec<u8>, StreamError> {
        let unavailable = |error: spin_sdk::redis::Error| StreamError::Unavailable(error.to_string());
        let answer = async {
            let connection = self.connection.get_or_try_init(Connection::open(self.address.clone())).await;
            let connection = connection.map_err(unavailable)?;
            let count = [script.to_owned(), keys.len().to_string()];
            let parameters = count.into_iter().chain(keys).chain(arguments);
            let parameters = parameters.map(|text| RedisParameter::Binary(text.into_bytes()));
            connection.execute("EVAL", parameters).await.map_err(unavailable)
        };
        let answer = std::pin::pin!(answer);
        let deadline = std::pin::pin!(spin_sdk::time::sleep(PATIENCE));
        match select(answer, deadline).await {
            Either::Left((answer, _)) => match answer?.into_iter().next() {
                Some(RedisResult::Binary(bytes)) => Ok(bytes.to_vec()),
                Some(RedisResult::Status(text)) => Ok(text.into_bytes()),
                other => Err(StreamError::Malformed(format!("{other:?}"))),
            },
            Either::Right(_) => Err(StreamError::TimedOut),
        }
    }
}

/// A stream and its one consumer group, as one drain holds it.
pub struct RedisStream<E = Outbound> {
    redis: E,
    stream: String,
    group: String,
    /// Ours alone.
    token: String,
    lease_ms: u64,
    abandoned_ms: u64,
}

impl RedisStream {
    /// The stream at the Redis server `address`, `redis://host:port`.
    pub fn outbound(address: &str, stream: &str, group: &str) -> Self {
        let redis = Outbound { address: address.to_owned(), connection: Lazy::new() };
        Self::on(redis, stream, group, format!("{:016x}", random::get_random_u64()))
    }
}

impl<E: Eval> RedisStream<E> {
    /// The stream on any server; `token` must be this drain's alone.
    pub fn on(redis: E, stream: &str, group: &str, token: String) -> Self {
        let (stream, group) = (stream.to_owned(), group.to_owned());
        Self { redis, stream, group, token, lease_ms: LEASE_MS, abandoned_ms: ABANDONED_MS }
    }

    /// With other times, in ms: how long the lease lasts, and when an entry counts as abandoned.
    #[must_use]
    pub fn with_times(self, lease_ms: u64, abandoned_ms: u64) -> Self {
        Self { lease_ms, abandoned_ms, ..self }
    }

    fn keys(&self) -> Vec<String> {
        vec![self.stream.clone(), format!("{}:{}:drain", self.stream, self.group)]
    }

    fn keys_with_dead(&self) -> Vec<String> {
        [self.keys(), vec![format!("{}:dead", self.stream)]].concat()
    }
}

impl<E: Eval> Source for RedisStream<E> {
    async fn read(&self, count: usize, held: Option<&str>) -> Result<Batch, StreamError> {
        let arguments = vec![
            self.group.clone(),
            count.to_string(),
            self.token.clone(),
            self.lease_ms.to_string(),
            self.abandoned_ms.to_string(),
            held.unwrap_or("0").to_owned(),
            BYTES_MAX.to_string(),
            DEAD_MAX.to_string(),
            crate::clock::now_ms().to_string(),
        ];
        batch(&self.redis.eval(READ, self.keys_with_dead(), arguments).await?)
    }

    async fn finish(&self, handled: &[String], dead: &[Dead]) -> Result<(), StreamError> {
        let mut arguments = vec![
            self.group.clone(),
            self.token.clone(),
            self.lease_ms.to_string(),
            DEAD_MAX.to_string(),
            crate::clock::now_ms().to_string(),
            dead.len().to_string(),
        ];
        arguments.extend(dead.iter().flat_map(|dead| [dead.id.clone(), dead.reason.clone()]));
        arguments.extend(handled.iter().cloned());
        self.redis.eval(FINISH, self.keys_with_dead(), arguments).await.map(drop)
    }

    async fn release(&self) -> Result<u64, StreamError> {
        #[derive(Deserialize)]
        struct Reply {
            left: u64,
        }
        let arguments = vec![self.group.clone(), self.token.clone()];
        let reply = self.redis.eval(RELEASE, self.keys(), arguments).await?;
        let reply: Reply = serde_json::from_slice(&reply).map_err(malformed)?;
        Ok(reply.left)
    }
}

fn malformed(error: serde_json::Error) -> StreamError {
    StreamError::Malformed(error.to_string())
}

/// What [`READ`] answers.
fn batch(reply: &[u8]) -> Result<Batch, StreamError> {
    /// Lua's empty table is `{}` to `cjson`, whatever it was meant as.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List<T> {
        Items(Vec<T>),
        Empty {},
    }
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        busy: bool,
        entries: Option<List<(String, List<usize>)>>,
    }
    fn items<T>(list: List<T>) -> Vec<T> {
        match list {
            List::Items(items) => items,
            List::Empty {} => Vec::new(),
        }
    }
    let end = reply.iter().position(|byte| *byte == b'\n').unwrap_or(reply.len());
    let (head, rest) = reply.split_at(end);
    let head: Head = serde_json::from_slice(head).map_err(malformed)?;
    if head.busy {
        return Ok(Batch::Busy);
    }
    let mut bytes = rest.get(1..).unwrap_or_default();
    let mut entries = Vec::new();
    for (id, sizes) in head.entries.map(items).unwrap_or_default() {
        let mut entry = Entry { id, fields: Vec::new(), valid_utf8: true };
        let mut sizes = items(sizes).into_iter();
        while let (Some(name), Some(value)) = (sizes.next(), sizes.next()) {
            let mut take = |size| {
                let (part, rest) =
                    bytes.split_at_checked(size).ok_or(StreamError::Malformed("it is cut off".into()))?;
                bytes = rest;
                Ok(String::from_utf8_lossy(part))
            };
            let (name, value) = (take(name)?, take(value)?);
            entry.valid_utf8 &= matches!((&name, &value), (Cow::Borrowed(_), Cow::Borrowed(_)));
            entry.fields.push((name.into_owned(), value.into_owned()));
        }
        entries.push(entry);
    }
    Ok(Batch::Entries(entries))
}
