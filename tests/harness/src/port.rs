//! Free ports for parts that must be told theirs.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Below the ports that Linux (32768…) and macOS (49152…) give to outgoing connections: one of those could be
/// taken between our look and the part's `listen`, or while a part is down between `kill` and `restart`.
const RANGE: std::ops::Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 on which nothing listens.
pub fn free() -> u16 {
    loop {
        // Random, so that test processes that run at the same time do not walk the same row.
        let draw = RandomState::new().hash_one(0) % u64::from(RANGE.end - RANGE.start);
        let port = RANGE.start + draw as u16;
        if is_free((Ipv4Addr::LOCALHOST, port).into()) {
            return port;
        }
    }
}

/// Whether one could listen there now.
pub fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!is_free(listener.local_addr().unwrap()));
        assert!(is_free((Ipv4Addr::LOCALHOST, free()).into()));
    }
}
