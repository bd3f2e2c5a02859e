//! What a thing is known by: BLAKE2b (RFC 7693), which asks less of WebAssembly than SHA-256 does.

use blake2::{Blake2b, Digest, digest::consts};

/// `prefix` and 32 hexadecimal digits: BLAKE2b-128 of `bytes`.
///
/// ```
/// assert_eq!(shared::digest::hex("msg_", b""), "msg_cae66941d9efbd404e4d88758ea67670");
/// ```
pub fn hex(prefix: &str, bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    let digest = Blake2b::<consts::U16>::digest(bytes);
    let mut text = String::with_capacity(prefix.len() + 32);
    text.push_str(prefix);
    for byte in digest {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
    text
}

/// BLAKE2b-256 of `bytes`.
pub fn bytes(bytes: &[u8]) -> [u8; 32] {
    Blake2b::<consts::U32>::digest(bytes).into()
}
