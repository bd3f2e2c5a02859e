//! `spin:sqlite`: the database `default` in the file `<state-dir>/sqlite_db.db`, with SQLite's own defaults, a
//! new connection for each `open`.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use rusqlite::{
    hooks::{AuthAction, AuthContext, Authorization},
    types::ValueRef,
};
use tokio::sync::{mpsc, oneshot};
use wasmtime::{
    StoreContextMut,
    component::{Accessor, Destination, FutureReader, Resource, StreamProducer, StreamReader, StreamResult},
};

use crate::{
    bindings::spin::sqlite::sqlite::{
        Error, Host, HostConnection, HostConnectionWithStore, QueryResult, RowResult, Value,
    },
    host::{Capabilities, Host as State},
};

/// Spin's limits.
const MAX_CONNECTIONS: usize = 256;
const MAX_RESULT_BYTES: usize = 128 << 20;
/// How many rows wait for the guest to read them.
const ROWS_AHEAD: usize = 4;

/// The file behind the name `default`.
pub(crate) struct Database {
    pub(crate) path: PathBuf,
}

/// What a guest's handle stands for. The file is opened by the first statement, as in Spin.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the bindings re-export it")]
pub struct Connection {
    database: Arc<Database>,
    opened: Arc<Mutex<Option<rusqlite::Connection>>>,
}

impl Connection {
    /// Does `work` with the connection, waiting for its lock, on a thread that may block.
    async fn with<T: Send + 'static>(
        self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let work = move || self.with_blocking(work);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(Error::Io(error.to_string())),
        }
    }

    fn with_blocking<T>(&self, work: impl FnOnce(&rusqlite::Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match &mut *opened {
            Some(connection) => connection,
            none => none.insert(self.database.open().map_err(io)?),
        };
        work(connection)
    }

    /// Runs a statement and hands its rows over one by one, holding the connection until the last is taken.
    async fn stream(self, statement: String, parameters: Vec<Value>) -> Result<Answer, Error> {
        let (columns_to, columns) = oneshot::channel();
        let (rows_to, rows) = mpsc::channel(ROWS_AHEAD);
        let (end_to, end) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let result = self.with_blocking(|connection| {
                let mut statement = connection.prepare_cached(&statement).map_err(io)?;
                let columns = statement.column_names().map(String::from).collect();
                // The guest may be gone, which the first row finds out.
                let _ = columns_to.send(columns);
                let mut rows = statement.query(sql_parameters(parameters)).map_err(io)?;
                while let Some(row) = rows.next().map_err(io)? {
                    let row = convert(row)?;
                    check_size(size_bytes(&row))?;
                    rows_to.blocking_send(row).map_err(|_| Error::Io("the rows are no longer read".into()))?;
                }
                Ok(())
            });
            let _ = end_to.send(result);
        });
        // A statement that cannot be prepared has no columns: its error comes by `end`.
        let columns = columns.await.unwrap_or_default();
        Ok(Answer { columns, rows, end })
    }
}

struct Answer {
    columns: Vec<String>,
    rows: mpsc::Receiver<RowResult>,
    end: oneshot::Receiver<Result<(), Error>>,
}

impl Database {
    fn open(&self) -> rusqlite::Result<rusqlite::Connection> {
        let mut connection = rusqlite::Connection::open(&self.path)?;
        // The database is granted, not the machine's other files.
        connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
            AuthAction::Attach { filename } if !matches!(filename, "" | ":memory:") => Authorization::Deny,
            _ => Authorization::Allow,
        }))?;
        Ok(connection)
    }
}

fn query(connection: &rusqlite::Connection, statement: &str, parameters: Vec<Value>) -> Result<QueryResult, Error> {
    let mut statement = connection.prepare_cached(statement).map_err(io)?;
    let columns = statement.column_names().map(String::from).collect();
    let mut found = statement.query(sql_parameters(parameters)).map_err(io)?;
    let mut rows = Vec::new();
    let mut total_bytes = 0;
    while let Some(row) = found.next().map_err(io)? {
        let row = convert(row)?;
        total_bytes += size_bytes(&row);
        check_size(total_bytes)?;
        rows.push(row);
    }
    Ok(QueryResult { columns, rows })
}

fn sql_parameters(parameters: Vec<Value>) -> impl rusqlite::Params {
    use rusqlite::types::Value as Sql;
    rusqlite::params_from_iter(parameters.into_iter().map(|value| match value {
        Value::Null => Sql::Null,
        Value::Integer(integer) => Sql::Integer(integer),
        Value::Real(real) => Sql::Real(real),
        Value::Text(text) => Sql::Text(text),
        Value::Blob(blob) => Sql::Blob(blob),
    }))
}

fn convert(row: &rusqlite::Row<'_>) -> Result<RowResult, Error> {
    let columns = row.as_ref().column_count();
    let values = (0..columns)
        .map(|column| {
            Ok(match row.get_ref(column).map_err(io)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(integer) => Value::Integer(integer),
                ValueRef::Real(real) => Value::Real(real),
                ValueRef::Text(text) => {
                    let text = str::from_utf8(text).map_err(|error| Error::Io(error.to_string()))?;
                    Value::Text(text.into())
                }
                ValueRef::Blob(blob) => Value::Blob(blob.into()),
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(RowResult { values })
}

fn size_bytes(row: &RowResult) -> usize {
    let size = |value: &Value| {
        size_of::<Value>()
            + match value {
                Value::Text(text) => text.len(),
                Value::Blob(blob) => blob.len(),
                Value::Integer(_) | Value::Real(_) | Value::Null => 0,
            }
    };
    row.values.iter().map(size).sum()
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes > MAX_RESULT_BYTES {
        return Err(Error::Io(format!("the result is over {MAX_RESULT_BYTES} bytes")));
    }
    Ok(())
}

fn io(error: rusqlite::Error) -> Error {
    Error::Io(error.to_string())
}

/// An error of the interface, or a trap.
pub(crate) type Failure = wasmtime_wasi::TrappableError<Error>;

impl State {
    fn open_sqlite(&mut self, name: &str) -> Result<Resource<Connection>, Failure> {
        let granted = self.component.database.clone().filter(|_| name == "default");
        let database = granted.ok_or(Error::AccessDenied)?;
        if self.sqlite_connections >= MAX_CONNECTIONS {
            return Err(Error::Io("too many connections opened".into()).into());
        }
        let connection = Connection { database, opened: Arc::default() };
        let handle = self.table.push(connection).map_err(Failure::trap)?;
        self.sqlite_connections += 1;
        Ok(handle)
    }

    fn sqlite(&self, handle: &Resource<Connection>) -> Result<Connection, Error> {
        self.table.get(handle).cloned().map_err(|_| Error::InvalidConnection)
    }
}

impl Host for State {
    fn convert_error(&mut self, failure: Failure) -> wasmtime::Result<Error> {
        failure.downcast()
    }
}

impl HostConnection for State {
    async fn open(&mut self, database: String) -> Result<Resource<Connection>, Failure> {
        self.open_sqlite(&database)
    }

    async fn execute(
        &mut self,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<QueryResult, Failure> {
        let connection = self.sqlite(&connection)?;
        Ok(connection.with(move |c| query(c, &statement, parameters)).await?)
    }

    async fn last_insert_rowid(&mut self, connection: Resource<Connection>) -> wasmtime::Result<i64> {
        let connection = self.sqlite(&connection)?;
        Ok(connection.with(|c| Ok(c.last_insert_rowid())).await?)
    }

    async fn changes(&mut self, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        let connection = self.sqlite(&connection)?;
        Ok(connection.with(|c| Ok(c.changes())).await?)
    }

    async fn drop(&mut self, connection: Resource<Connection>) -> wasmtime::Result<()> {
        self.table.delete(connection)?;
        self.sqlite_connections -= 1;
        Ok(())
    }
}

impl<T: Send> HostConnectionWithStore<T> for Capabilities {
    async fn open_async(accessor: &Accessor<T, Self>, database: String) -> Result<Resource<Connection>, Failure> {
        accessor.with(|mut access| access.get().open_sqlite(&database))
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<Value>,
    ) -> Result<(Vec<String>, StreamReader<RowResult>, FutureReader<Result<(), Error>>), Failure> {
        let connection = accessor.with(|mut access| access.get().sqlite(&connection))?;
        let Answer { columns, rows, end } = connection.stream(statement, parameters).await?;
        accessor
            .with(|mut access| {
                let rows = StreamReader::new(&mut access, Rows(rows))?;
                let end = FutureReader::new(&mut access, end)?;
                Ok::<_, wasmtime::Error>((columns, rows, end))
            })
            .map_err(Failure::trap)
    }

    async fn last_insert_rowid_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
    ) -> wasmtime::Result<i64> {
        let connection = accessor.with(|mut access| access.get().sqlite(&connection))?;
        Ok(connection.with(|c| Ok(c.last_insert_rowid())).await?)
    }

    async fn changes_async(accessor: &Accessor<T, Self>, connection: Resource<Connection>) -> wasmtime::Result<u64> {
        let connection = accessor.with(|mut access| access.get().sqlite(&connection))?;
        Ok(connection.with(|c| Ok(c.changes())).await?)
    }
}

/// Gives the guest a row whenever it reads one.
struct Rows(mpsc::Receiver<RowResult>);

impl<D> StreamProducer<D> for Rows {
    type Item = RowResult;
    type Buffer = Option<RowResult>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, RowResult, Option<RowResult>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        if destination.remaining(store) == Some(0) {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let row = self.0.poll_recv(cx);
        if row.is_pending() && finish {
            return Poll::Ready(Ok(StreamResult::Cancelled));
        }
        Poll::Ready(Ok(match ready!(row) {
            None => StreamResult::Dropped,
            row => {
                destination.set_buffer(row);
                StreamResult::Completed
            }
        }))
    }
}
