//! `spin:redis`: calls to Redis servers that the component is granted. As in Spin they have no timeout.

use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, aio::MultiplexedConnection};
use wasmtime::component::{Accessor, Resource};

use crate::{
    bindings::spin::redis::redis::{
        Error, Host, HostConnection, HostConnectionWithStore, Payload, RedisParameter, RedisResult,
    },
    host::{Capabilities, Host as State},
};

/// Spin's limit for an answer.
const MAX_RESULT_BYTES: usize = 128 << 20;

/// What a guest's handle stands for.
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub type Connection = MultiplexedConnection;

/// An error of the interface, or a trap.
pub(crate) type Failure = wasmtime_wasi::TrappableError<Error>;

impl Host for State {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<Error> {
        failure.downcast()
    }
}

impl HostConnection for State {
    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        Ok(())
    }
}

impl<T: Send> HostConnectionWithStore<T> for Capabilities {
    async fn open(accessor: &Accessor<T, Self>, address: String) -> Result<Resource<Connection>, Failure> {
        let hosts = accessor.with(|mut access| access.get().component.allowed_hosts.clone());
        if !hosts.check(&address, "redis").map_err(Error::Other)? {
            return Err(Error::InvalidAddress.into());
        }
        let client = Client::open(address).map_err(|_| Error::InvalidAddress)?;
        let no_timeouts = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&no_timeouts).await.map_err(other)?;
        accessor.with(|mut access| access.get().table.push(connection).map_err(Failure::trap))
    }

    async fn publish(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        channel: String,
        payload: Payload,
    ) -> Result<(), Failure> {
        call(accessor, connection, redis::cmd("PUBLISH").arg(channel).arg(payload)).await
    }

    async fn get(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
    ) -> Result<Option<Payload>, Failure> {
        let value: Option<Payload> = call(accessor, connection, redis::cmd("GET").arg(key)).await?;
        check_size(value.as_ref().map_or(0, Vec::len))?;
        Ok(value)
    }

    async fn set(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        value: Payload,
    ) -> Result<(), Failure> {
        call(accessor, connection, redis::cmd("SET").arg(key).arg(value)).await
    }

    async fn incr(accessor: &Accessor<T, Self>, connection: Resource<Connection>, key: String) -> Result<i64, Failure> {
        call(accessor, connection, redis::cmd("INCRBY").arg(key).arg(1)).await
    }

    async fn del(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        keys: Vec<String>,
    ) -> Result<u32, Failure> {
        call(accessor, connection, redis::cmd("DEL").arg(keys)).await
    }

    async fn sadd(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Result<u32, Failure> {
        call(accessor, connection, redis::cmd("SADD").arg(key).arg(values)).await
    }

    async fn smembers(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
    ) -> Result<Vec<String>, Failure> {
        call(accessor, connection, redis::cmd("SMEMBERS").arg(key)).await
    }

    async fn srem(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        key: String,
        values: Vec<String>,
    ) -> Result<u32, Failure> {
        call(accessor, connection, redis::cmd("SREM").arg(key).arg(values)).await
    }

    async fn execute(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        command: String,
        arguments: Vec<RedisParameter>,
    ) -> Result<Vec<RedisResult>, Failure> {
        let mut command = redis::cmd(&command);
        for argument in arguments {
            match argument {
                RedisParameter::Int64(number) => command.arg(number),
                RedisParameter::Binary(bytes) => command.arg(bytes),
            };
        }
        let reply = call(accessor, connection, &command).await?;
        let mut results = Vec::new();
        flatten(reply, &mut results)?;
        check_size(results.iter().map(size_bytes).sum())?;
        Ok(results)
    }
}

async fn call<T: Send, R: FromRedisValue>(
    accessor: &Accessor<T, Capabilities>,
    connection: Resource<Connection>,
    command: &Cmd,
) -> Result<R, Failure> {
    let mut connection =
        accessor.with(|mut access| access.get().table.get(&connection).cloned()).map_err(Failure::trap)?;
    command.query_async(&mut connection).await.map_err(|error| {
        Failure::from(if error.kind() == ErrorKind::UnexpectedReturnType { Error::TypeError } else { other(error) })
    })
}

/// A reply as the interface has it: one list, whatever its nesting was.
fn flatten(reply: redis::Value, results: &mut Vec<RedisResult>) -> Result<(), Error> {
    use redis::Value;
    let refused = |what: &str| Err(Error::Other(format!("a Redis reply of type {what} is not supported")));
    results.push(match reply {
        Value::Array(replies) | Value::Set(replies) => {
            return replies.into_iter().try_for_each(|reply| flatten(reply, results));
        }
        Value::Nil => RedisResult::Nil,
        Value::Int(number) => RedisResult::Int64(number),
        Value::Boolean(flag) => RedisResult::Int64(flag.into()),
        Value::Okay => RedisResult::Status("OK".into()),
        Value::SimpleString(text) => RedisResult::Status(text),
        Value::BulkString(bytes) => RedisResult::Binary(bytes),
        Value::BigNumber(number) => RedisResult::Binary(number.to_string().into_bytes()),
        Value::Double(number) => RedisResult::Binary(number.to_string().into_bytes()),
        Value::Map(_) => return refused("map"),
        Value::Attribute { .. } => return refused("attribute"),
        Value::VerbatimString { .. } => return refused("verbatim string"),
        Value::Push { .. } => return refused("push"),
        Value::ServerError(error) => return Err(Error::Other(format!("{error:?}"))),
        _ => return refused("unknown"),
    });
    Ok(())
}

fn size_bytes(result: &RedisResult) -> usize {
    size_of::<RedisResult>()
        + match result {
            RedisResult::Nil | RedisResult::Int64(_) => 0,
            RedisResult::Status(text) => text.len(),
            RedisResult::Binary(bytes) => bytes.len(),
        }
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_RESULT_BYTES {
        return Err(Error::Other(format!("the reply is over {MAX_RESULT_BYTES} bytes")));
    }
    Ok(())
}

fn other(error: RedisError) -> Error {
    Error::Other(error.to_string())
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    #[test]
    fn nested_replies_become_one_list() {
        let reply = Value::Array(vec![
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![Value::BulkString(b"a".to_vec()), Value::Nil]),
        ]);
        let mut results = Vec::new();
        flatten(reply, &mut results).unwrap();
        assert!(matches!(
            &results[..],
            [RedisResult::Int64(1), RedisResult::Binary(a), RedisResult::Nil] if a == b"a"
        ));
    }

    #[test]
    fn a_map_is_refused() {
        assert!(flatten(Value::Map(vec![]), &mut Vec::new()).is_err());
    }
}
