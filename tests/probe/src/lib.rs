//! A component that shows what the runtime gives: each route uses one capability and answers what it got. The
//! runtime's tests call it, and it has the baselines of benchmarks: `/probe/hello`, and a message that begins with
//! `row `, which a plain handler stores.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Path,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{
    config::Lazy,
    db::{self, Db, DbError, Migration},
    problem::Problem,
};
use spin_sdk::{
    http::{EmptyBody, Request},
    redis::{self, RedisParameter, RedisResult},
    sqlite, variables,
    wasip3::{
        http::types::{ErrorCode, RequestOptions},
        http_compat::RequestOptionsExtension,
    },
};
use tower_service::Service as _;

/// For each of the three timeouts of an outbound request.
const TIMEOUT_NS: u64 = 2_000_000_000;

/// Requests that this instance has taken.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

async fn http(request: Request) -> Response {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    REQUESTS.fetch_add(1, Ordering::Relaxed);
    match ROUTER.get_or_init(router).clone().call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Where a body comes back as it went in, by nothing but the SDK: the baseline of what streams.
const ECHO: &str = "/probe/echo";

/// The same by the functions' own way through the runtime.
const OWN_ECHO: &str = "/probe/own-echo";

fn own_echo() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| Router::new().route(OWN_ECHO, post(async |body: Body| body)))
}

mod service {
    //! The HTTP trigger, apart, because what its macro writes is `unsafe`.
    #![allow(unsafe_code, reason = "generated")]

    use spin_sdk::{
        http::{FromRequest, IntoResponse, Request},
        wasip3::{
            exports::http::handler::Guest,
            http::types::{self, ErrorCode},
        },
    };

    struct Http;
    spin_sdk::wasip3::http::service::export!(Http);

    impl Guest for Http {
        async fn handle(request: types::Request) -> Result<types::Response, ErrorCode> {
            match request.get_path_with_query().as_deref() {
                Some(super::ECHO) => http::Response::new(Request::from_request(request)?.into_body()).into_response(),
                Some(super::OWN_ECHO) => shared::http::serve(super::own_echo(), request, "").await,
                _ => super::http(Request::from_request(request)?).await.into_response(),
            }
        }
    }
}

mod events {
    //! The Redis trigger, apart, because what its macro writes is `unsafe`.
    #![allow(unsafe_code, reason = "generated")]

    use bytes::Bytes;
    use spin_sdk::redis_subscriber;

    #[redis_subscriber]
    async fn message(payload: Bytes) -> Result<(), String> {
        let text = String::from_utf8_lossy(&payload);
        if let Some(row) = text.strip_prefix(super::ROW) {
            return super::store_row(row).await.map_err(|error| error.to_string());
        }
        println!("{text}");
        if let Some(ms) = text.strip_prefix("sleep ").and_then(|ms| ms.parse().ok()) {
            spin_sdk::time::sleep(std::time::Duration::from_millis(ms)).await;
            println!("slept {ms} ms");
        }
        match text.as_ref() {
            "fail" => Err("asked to fail".into()),
            _ => Ok(()),
        }
    }
}

fn router() -> Router {
    Router::new()
        .route("/probe/hello", get(async || "Hello, world!"))
        .route("/probe/headers", get(headers))
        .route("/probe/variables/{name}", get(variable))
        .route("/probe/sqlite", post(sql))
        .route("/probe/migrated", get(migrated))
        .route("/probe/rows", get(rows))
        .route("/probe/claims", post(claim))
        .route("/probe/redis", post(redis_call))
        .route("/probe/fetch", get(fetch))
        .route("/probe/count", get(count))
        .route("/probe/sleep", get(sleep))
        .route("/probe/panic", get(panic))
}

fn json(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn error(status: StatusCode, error: impl ToString) -> Response {
    json(status, &json!({ "error": error.to_string() }))
}

fn query(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let mut pairs = url::form_urlencoded::parse(query);
    pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
}

async fn headers(headers: http::HeaderMap) -> Response {
    let pairs = headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.to_string(), Value::from(value))
    });
    json(StatusCode::OK, &Value::Object(pairs.collect()))
}

async fn variable(Path(name): Path<String>) -> Response {
    match variables::get(name).await {
        Ok(value) => value.into_response(),
        Err(reason) => error(StatusCode::NOT_FOUND, reason),
    }
}

#[derive(Deserialize)]
struct Statement {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    #[serde(default = "default_database")]
    database: String,
    /// By the synchronous functions of the interface, which the SDK hides.
    #[serde(default)]
    sync: bool,
}

fn default_database() -> String {
    "default".into()
}

async fn sql(body: Bytes) -> Response {
    let statement = match serde_json::from_slice(&body) {
        Ok(statement) => statement,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    match execute(statement).await {
        Ok(result) => json(StatusCode::OK, &result),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}

async fn execute(statement: Statement) -> Result<Value, sqlite::Error> {
    let params = statement.params.into_iter().map(to_sql);
    if statement.sync {
        return execute_sync(&statement.database, &statement.sql, &params.collect::<Vec<_>>());
    }
    let connection = sqlite::Connection::open(&statement.database).await?;
    let result = connection.execute(statement.sql, params).await?;
    let columns = result.columns().to_vec();
    let rows = result.collect().await?;
    let rows: Vec<Value> = rows.into_iter().map(|row| row.values.into_iter().map(from_sql).collect()).collect();
    Ok(json!({
        "columns": columns,
        "rows": rows,
        "changes": connection.changes().await,
        "last_insert_rowid": connection.last_insert_rowid().await,
    }))
}

fn execute_sync(database: &str, sql: &str, params: &[sqlite::Value]) -> Result<Value, sqlite::Error> {
    let connection = sqlite::wit::sqlite::Connection::open(database)?;
    let result = connection.execute(sql, params)?;
    let rows: Vec<Value> = result.rows.into_iter().map(|row| row.values.into_iter().map(from_sql).collect()).collect();
    Ok(json!({
        "columns": result.columns,
        "rows": rows,
        "changes": connection.changes(),
        "last_insert_rowid": connection.last_insert_rowid(),
    }))
}

fn to_sql(value: Value) -> sqlite::Value {
    match value {
        Value::Null => sqlite::Value::Null,
        Value::String(text) => sqlite::Value::Text(text),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => sqlite::Value::Integer(integer),
            None => sqlite::Value::Real(number.as_f64().unwrap_or_default()),
        },
        other => sqlite::Value::Text(other.to_string()),
    }
}

fn from_sql(value: sqlite::Value) -> Value {
    match value {
        sqlite::Value::Null => Value::Null,
        sqlite::Value::Integer(integer) => integer.into(),
        sqlite::Value::Real(real) => real.into(),
        sqlite::Value::Text(text) => text.into(),
        sqlite::Value::Blob(blob) => blob.into(),
    }
}

/// Opens the database as the functions do, migrated on first use, and tells how often that was done.
async fn migrated() -> Result<axum::Json<Value>, Problem> {
    const MIGRATIONS: &[Migration] = &[
        Migration { version: 1, statements: &["CREATE TABLE visits (id INTEGER PRIMARY KEY)"] },
        Migration { version: 2, statements: &["ALTER TABLE visits ADD COLUMN at_ms INTEGER NOT NULL DEFAULT 0"] },
    ];
    let db = db::spin::open(&[("probe", MIGRATIONS)]).await?;
    db.execute("INSERT INTO visits (at_ms) VALUES ($1)", [shared::clock::now_ms().into()]).await?;
    let asked = db.query_one("SELECT count(*), (SELECT synchronous FROM pragma_synchronous) FROM visits", []).await?;
    let row = asked.ok_or(DbError::Column(0))?;
    Ok(axum::Json(json!({"visits": row.integer(0)?, "synchronous": row.integer(1)?})))
}

/// How a message begins that is to be stored.
const ROW: &str = "row ";

async fn open_rows() -> Result<Db, DbError> {
    const MIGRATIONS: &[Migration] = &[Migration {
        version: 1,
        statements: &["CREATE TABLE probe_rows (id INTEGER PRIMARY KEY, text TEXT NOT NULL)"],
    }];
    db::spin::open(&[("probe_rows", MIGRATIONS)]).await
}

/// What a handler does that takes its messages one by one: it opens the database, as it is a fresh instance for each,
/// and writes one row.
async fn store_row(text: &str) -> Result<(), DbError> {
    open_rows().await?.execute("INSERT INTO probe_rows (text) VALUES ($1)", [text.into()]).await
}

/// The least that giving a free card away can cost: one statement, on a connection that is kept.
async fn claim() -> Result<axum::Json<Value>, Problem> {
    static DB: Lazy<Db> = Lazy::new();
    const MIGRATIONS: &[Migration] = &[Migration {
        version: 1,
        statements: &[
            "CREATE TABLE probe_cards (id INTEGER PRIMARY KEY, claimed_at_ms INTEGER)",
            "CREATE INDEX probe_cards_free ON probe_cards (id) WHERE claimed_at_ms IS NULL",
        ],
    }];
    const SQL: &str = "UPDATE probe_cards SET claimed_at_ms = $1
        WHERE id = (SELECT id FROM probe_cards WHERE claimed_at_ms IS NULL ORDER BY id LIMIT 1) RETURNING id";
    let db = DB.get_or_try_init(db::spin::open(&[("probe_cards", MIGRATIONS)])).await?;
    let card = db.query_one(SQL, [shared::clock::now_ms().into()]).await?;
    Ok(axum::Json(json!({"card": card.map(|card| card.integer(0)).transpose()?})))
}

/// How many messages were stored.
async fn rows() -> Result<axum::Json<Value>, Problem> {
    let asked = open_rows().await?.query_one("SELECT count(*) FROM probe_rows", []).await?;
    let row = asked.ok_or(DbError::Column(0))?;
    Ok(axum::Json(json!({"rows": row.integer(0)?})))
}

#[derive(Deserialize)]
struct Call {
    #[serde(flatten)]
    what: What,
    #[serde(default)]
    args: Vec<String>,
    /// Instead of the variable `redis_url`.
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    /// By `execute`.
    Command(String),
    /// By the function of the interface that has this name.
    Function(String),
}

async fn redis_call(body: Bytes) -> Response {
    let call: Call = match serde_json::from_slice(&body) {
        Ok(call) => call,
        Err(reason) => return error(StatusCode::BAD_REQUEST, reason),
    };
    let address = match call.address {
        Some(address) => Ok(address),
        None => variables::get("redis_url").await,
    };
    let address = match address {
        Ok(address) => address,
        Err(reason) => return error(StatusCode::INTERNAL_SERVER_ERROR, reason),
    };
    let result = async {
        let connection = redis::Connection::open(address).await?;
        match call.what {
            What::Command(command) => {
                let args = call.args.into_iter().map(|arg| RedisParameter::Binary(arg.into_bytes()));
                let results = connection.execute(command, args).await?;
                Ok(results.into_iter().map(from_redis).collect())
            }
            What::Function(function) => redis_function(&connection, &function, &call.args).await,
        }
    };
    match result.await {
        Ok(result) => json(StatusCode::OK, &result),
        Err(reason) => error(StatusCode::BAD_GATEWAY, reason),
    }
}

async fn redis_function(
    connection: &redis::Connection,
    function: &str,
    args: &[String],
) -> Result<Value, redis::Error> {
    Ok(match (function, args) {
        ("get", [key]) => connection.get(key).await?.map(|value| String::from_utf8_lossy(&value).into_owned()).into(),
        ("set", [key, value]) => {
            connection.set(key, value).await?;
            Value::Null
        }
        ("publish", [channel, payload]) => {
            connection.publish(channel, payload).await?;
            Value::Null
        }
        ("incr", [key]) => connection.incr(key).await?.into(),
        ("del", keys) => connection.del(keys).await?.into(),
        ("sadd", [key, values @ ..]) => connection.sadd(key, values).await?.into(),
        ("smembers", [key]) => connection.smembers(key).await?.into(),
        ("srem", [key, values @ ..]) => connection.srem(key, values).await?.into(),
        _ => return Err(redis::Error::Other(format!("no function {function} of {} arguments", args.len()))),
    })
}

fn from_redis(result: RedisResult) -> Value {
    match result {
        RedisResult::Nil => Value::Null,
        RedisResult::Int64(number) => number.into(),
        RedisResult::Status(text) => text.into(),
        RedisResult::Binary(bytes) => String::from_utf8_lossy(&bytes).into_owned().into(),
    }
}

async fn fetch(uri: Uri) -> Response {
    let Some(url) = query(&uri, "url") else {
        return error(StatusCode::BAD_REQUEST, "no url");
    };
    match get_url(&url).await {
        Ok(status) => json(StatusCode::OK, &json!({ "status": status.as_u16() })),
        // Without what an error code may carry.
        Err(code) => error(StatusCode::BAD_GATEWAY, format!("{code:?}").replace("ErrorCode::", "")),
    }
}

async fn get_url(url: &str) -> Result<StatusCode, ErrorCode> {
    let options = RequestOptions::new();
    let set = [
        options.set_connect_timeout(Some(TIMEOUT_NS)),
        options.set_first_byte_timeout(Some(TIMEOUT_NS)),
        options.set_between_bytes_timeout(Some(TIMEOUT_NS)),
    ];
    if set.iter().any(Result::is_err) {
        return Err(ErrorCode::InternalError(Some("timeouts are not supported".into())));
    }
    let mut request = http::Request::get(url).body(EmptyBody::new()).map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    request.extensions_mut().insert(RequestOptionsExtension(options));
    Ok(spin_sdk::http::send(request).await?.status())
}

async fn count() -> String {
    REQUESTS.load(Ordering::Relaxed).to_string()
}

async fn sleep(uri: Uri) -> String {
    let ms = query(&uri, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
    spin_sdk::time::sleep(Duration::from_millis(ms)).await;
    format!("slept {ms} ms")
}

/// Traps, as a panic does in a component.
async fn panic() -> StatusCode {
    std::process::abort()
}
