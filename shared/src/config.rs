//! The application's variables, read once per instance.
//!
//! A variable is a host call, so a function reads all of its own on first use and keeps them in a [`Lazy`]. A
//! wrong value is an operator's fault, not a caller's: requests that need it get 503 with every fault named.

use std::{future::Future, sync::OnceLock};

use crate::{
    http::is_origin_of,
    problem::{Fault, Kind, Problem},
};

/// The value of `name`.
///
/// # Errors
/// 503 if the manifest does not give this component the variable.
pub async fn variable(name: &str) -> Result<String, Problem> {
    spin_sdk::variables::get(name).await.map_err(|error| {
        misconfigured(vec![Fault::at(format!("/variables/{name}"), format!("cannot be read: {error}"))])
    })
}

/// The problem of variables with these faults.
pub fn misconfigured(faults: Vec<Fault>) -> Problem {
    Problem::new(Kind::Misconfigured, "the deployment's variables have faults").with_all(faults)
}

/// What is wrong with a value of the variable `redis_url`. Whatever stands behind host and port makes it no outbound
/// grant, and one such grant makes the runtime refuse every outbound call of the component, to the gateway too. So does
/// `rediss` without a port: the runtime knows that of `redis` alone.
pub fn redis_url_fault(value: &str) -> Option<Fault> {
    let with_port = || value.parse::<http::Uri>().is_ok_and(|uri| uri.port().is_some());
    let granted = is_origin_of(value, &["redis"]) || (is_origin_of(value, &["rediss"]) && with_port());
    // The value itself may hold a password.
    let detail = "must be redis://host, redis://host:port or rediss://host:port (its port is needed), without a \
                  database such as /0 and credentials";
    (!granted).then(|| Fault::at("/variables/redis_url", detail))
}

/// What is made once per instance, on first use.
///
/// Two requests that come first at the same time both make it and one is kept: making it has no effects.
pub struct Lazy<T>(OnceLock<T>);

impl<T> Lazy<T> {
    /// Not made yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// The value, made by `make` if it is not there.
    ///
    /// # Errors
    /// Those of `make`; they are not kept.
    pub async fn get_or_try_init<E>(&self, make: impl Future<Output = Result<T, E>>) -> Result<&T, E> {
        if let Some(value) = self.0.get() {
            return Ok(value);
        }
        let value = make.await?;
        Ok(self.0.get_or_init(|| value))
    }
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_url_is_an_origin_and_nothing_else() {
        for good in [
            "redis://127.0.0.1:6379",
            "redis://localhost",
            "redis://[::1]:6379",
            "rediss://redis.example.org:6380",
            "rediss://[::1]:6380",
        ] {
            assert!(redis_url_fault(good).is_none(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1:6379",
            "http://127.0.0.1:6379",
            "redis://127.0.0.1:6379/0",
            "redis://127.0.0.1:6379/",
            "redis://:secret@127.0.0.1:6379",
            "redis://user:secret@127.0.0.1",
            "redis://127.0.0.1:6379?protocol=3",
            "redis://127.0.0.1:port",
            "rediss://redis.example.org",
            "rediss://redis.example.org:",
            "rediss://[::1]",
            "rediss://redis.example.org:6380/0",
            "redis://",
            " redis://127.0.0.1:6379",
        ] {
            let fault = redis_url_fault(bad).unwrap_or_else(|| panic!("{bad:?} is taken"));
            assert_eq!(fault.pointer, "/variables/redis_url");
            assert!(!fault.detail.contains("secret"), "{}", fault.detail);
        }
    }
}
