//! What `bindgen!` makes of the WIT files inside `spin-sdk` (see `build.rs`).

#![allow(unsafe_code, unreachable_pub, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
