//! What two or more functions need, a module per idea.
//!
//! - [`auth`]: who may call;
//! - [`clock`]: now, and instants as people and machines read them;
//! - [`config`]: the application's variables, read once per instance;
//! - [`db`]: the one door to SQL, with migrations;
//! - [`digest`]: what a thing is known by;
//! - [`fields`]: a JSON object, with every fault of it;
//! - [`gateway`]: hands a message to the push gateway or the operators, signed;
//! - [`http`]: bodies within limits, requests with deadlines;
//! - [`id`]: identifiers that are safe everywhere;
//! - [`json`]: strict JSON: duplicate keys, depth and size are faults;
//! - [`log`]: one JSON line per outcome;
//! - [`message`]: what a person is told, for each channel;
//! - [`ndjson`]: lines of any number, each within a limit;
//! - [`outbox`]: what people are told, kept until the gateway has it;
//! - [`problem`]: every error answer, by RFC 9457;
//! - [`query`]: a request's parameters, with every fault of them;
//! - [`rollout`]: who gets something new already;
//! - [`signature`]: Standard Webhooks;
//! - `simulation`: what the functions' simulations share, for tests;
//! - [`soon`]: work that no caller waits for;
//! - [`stream`]: intake of a Redis stream by consumer group.
//!
//! No function is imported here.

pub mod auth;
pub mod clock;
pub mod config;
pub mod db;
pub mod digest;
pub mod fields;
pub mod gateway;
pub mod http;
pub mod id;
pub mod json;
pub mod log;
pub mod message;
pub mod ndjson;
pub mod outbox;
pub mod problem;
pub mod query;
pub mod rollout;
pub mod signature;
#[cfg(any(test, feature = "native"))]
pub mod simulation;
pub mod soon;
pub mod stream;
