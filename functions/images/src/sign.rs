//! Signatures of URLs of sensitive images: by Alibaba Cloud CDN's type A, or by HMAC-SHA256 with an expiry.
//!
//! A signature covers the URL's path, as the server will see it, and goes into the query.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use sha2::Sha256;
use shared::problem::Fault;

/// The keys by their names.
#[derive(Default)]
pub(crate) struct Keys(BTreeMap<String, String>);

impl Keys {
    /// Reads the value of `images_sign_keys`: `name=key`, several separated by spaces.
    ///
    /// # Errors
    /// What is wrong, without the value.
    pub(crate) fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let mut keys = BTreeMap::new();
        for pair in text.split_whitespace() {
            match pair.split_once('=') {
                Some((name, key)) if !name.is_empty() && key.len() >= KEY_MIN => {
                    keys.insert(name.to_owned(), key.to_owned());
                }
                _ => {
                    let detail = format!("must be `name=key` pairs between spaces, a key of at least {KEY_MIN} bytes");
                    return Err(vec![Fault::at("/variables/images_sign_keys", detail)]);
                }
            }
        }
        Ok(Self(keys))
    }

    /// The key called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Alibaba Cloud takes keys of 6 characters and more.
const KEY_MIN: usize = 6;

/// Which signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Alibaba Cloud CDN, "Type A signing".
    AliyunA,
    /// HMAC-SHA256 of path and expiry.
    HmacSha256,
}

impl Scheme {
    /// Reads a scheme's name, which is its key's name, too, where a rule gives no other.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "aliyun-a" => Some(Self::AliyunA),
            "hmac-sha256" => Some(Self::HmacSha256),
            _ => None,
        }
    }
}

/// How a rule's URLs are signed.
#[derive(Clone, Debug)]
pub(crate) struct Signer {
    by: By,
    /// How long a signature is good for; with [`Scheme::AliyunA`], how much longer than the CDN's own setting.
    expires_s: i64,
}

#[derive(Clone, Debug)]
enum By {
    AliyunA(String),
    /// With the key taken in, which is half of the work and the same for every URL.
    HmacSha256(Box<Hmac<Sha256>>),
}

impl Signer {
    /// By `scheme` with `key`.
    pub(crate) fn new(scheme: Scheme, key: &str, expires_s: i64) -> Option<Self> {
        let by = match scheme {
            Scheme::AliyunA => By::AliyunA(key.to_owned()),
            // A key of any length makes an HMAC.
            Scheme::HmacSha256 => By::HmacSha256(Box::new(Hmac::new_from_slice(key.as_bytes()).ok()?)),
        };
        Some(Self { by, expires_s })
    }

    /// The names of its parameters.
    pub(crate) fn names(&self) -> &'static [&'static [u8]] {
        match &self.by {
            By::AliyunA(_) => &[b"auth_key"],
            By::HmacSha256(_) => &[b"expires", b"signature"],
        }
    }

    /// The parameters that sign `path` at `now_s`: `name=value`, several joined by `&`.
    pub(crate) fn parameters(&self, path: &[u8], now_s: i64) -> String {
        let at_s = (now_s + self.expires_s).to_string();
        // A URL without a path asks for the root.
        let path = if path.is_empty() { b"/" } else { path };
        let mut parameters = String::with_capacity(96);
        match &self.by {
            By::AliyunA(key) => {
                let mut hash = Md5::new();
                for part in [path, b"-", at_s.as_bytes(), b"-0-0-", key.as_bytes()] {
                    hash.update(part);
                }
                parameters.extend(["auth_key=", &at_s, "-0-0-"]);
                push_hexadecimal(&mut parameters, &hash.finalize());
            }
            By::HmacSha256(keyed) => {
                let mut mac = keyed.clone();
                for part in [path, b"\n", at_s.as_bytes()] {
                    mac.update(part);
                }
                parameters.extend(["expires=", &at_s, "&signature="]);
                push_hexadecimal(&mut parameters, &mac.finalize().into_bytes());
            }
        }
        parameters
    }
}

/// The parameters that signatures add, of which an image's identity knows nothing.
pub(crate) const PARAMETERS: [&[u8]; 3] = [b"auth_key", b"expires", b"signature"];

fn push_hexadecimal(text: &mut String, bytes: &[u8]) {
    let digit = |nibble: u8| char::from(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(byte & 15));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliyun_a_is_as_the_providers_example_has_it() {
        // Alibaba Cloud CDN, "Type A signing", the example of its page.
        let signer = Signer::new(Scheme::AliyunA, "aliyuncdnexp1234", 0).unwrap();
        assert_eq!(
            signer.parameters(b"/video/standard/1K.html", 1_444_435_200),
            "auth_key=1444435200-0-0-80cd3862d699b7118eed99103f2a3a4f"
        );
    }

    #[test]
    fn hmac_sha256_covers_path_and_expiry() {
        // printf '/a.jpg\n1700000060' | openssl dgst -sha256 -hmac secret
        let signer = Signer::new(Scheme::HmacSha256, "secret", 60).unwrap();
        let expected = "f8573e7c665ef9fc78e65e6262dd3f567e4daa0f2c77c4a8617845e9bcfdf03b";
        assert_eq!(signer.parameters(b"/a.jpg", 1_700_000_000), format!("expires=1700000060&signature={expected}"));
    }

    #[test]
    fn keys_are_named_and_a_wrong_pair_is_a_fault_that_shows_none() {
        let keys = Keys::parse("a=abcdef  b=x=y=z12").unwrap();
        assert_eq!((keys.get("a"), keys.get("b"), keys.get("c")), (Some("abcdef"), Some("x=y=z12"), None));
        for wrong in ["abcdefgh", "=abcdef", "a=short"] {
            let faults = Keys::parse(wrong).err().unwrap();
            assert!(!faults[0].detail.contains(wrong), "{wrong}");
        }
    }
}
