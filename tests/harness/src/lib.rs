//! Starts the real parts that the tests, `dev` and the benchmark run against: a Redis, a push gateway, and the
//! runtime with the application in it. Each stands on a free port of this machine and ends when it is dropped.
//!
//! - [`redis`]: a redis-server of its own, that can be killed and started again
//! - [`gateway`]: the push gateway's side of a delivery, with answers to order
//! - [`runtime`]: `spin up`, or the stand-in host with the same flags
//! - [`feeds`]: an order's update, as each change-data-capture feed writes it
//! - [`pharmacy`]: a partner pharmacy, with answers to order
//! - [`process`]: a child process that leaves no orphan; what the others stand on
//! - [`port`]: ports that nobody takes between choosing and listening

pub mod feeds;
pub mod gateway;
pub mod pharmacy;
pub mod port;
pub mod process;
pub mod redis;
pub mod runtime;

pub use gateway::{Answer, Gateway, Received};
pub use pharmacy::Pharmacy;
pub use redis::Redis;
pub use runtime::Runtime;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The root of the checkout: where `Cargo.toml`, `spin.toml` and `target` are.
pub fn workspace_root() -> PathBuf {
    let member = Path::new(env!("CARGO_MANIFEST_DIR"));
    member.ancestors().nth(2).expect("this crate lies at tests/harness").to_path_buf()
}

/// An HTTP client for parts on this machine: it never goes through a proxy that the environment names, and gives
/// up after `timeout`.
pub fn http_client(timeout: Duration) -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(timeout)
        .build()
        .expect("a client without TLS needs nothing that could be missing")
}
