//! Card secrets at rest: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha) under a key of `card_key`, the card's number as
//! associated data, so that a sealed secret opens for its own card alone.
//!
//! A sealed secret is `<key id>:<base64 of nonce and ciphertext>`. The nonce is random: 24 bytes are enough for that.

use base64::{Engine, prelude::BASE64_STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use shared::problem::Fault;

/// The bytes of a nonce.
pub(crate) const NONCE: usize = 24;
const KEY: usize = 32;

/// The keys of `card_key`, the first of which seals.
pub(crate) struct Vault(Vec<(String, XChaCha20Poly1305)>);

/// Why a secret does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Locked {
    /// None of the keys has its key id.
    #[error("the key that sealed it is not in card_key")]
    NoKey,
    /// It is not what was sealed, or not for this card.
    #[error("it is not what was sealed for this card")]
    Broken,
}

impl Vault {
    /// Reads `id:base64-of-32-bytes`, several separated by spaces. An empty value has no key: nothing is sealed.
    ///
    /// # Errors
    /// Every fault of it; none quotes a key.
    pub(crate) fn parse(value: &str) -> Result<Self, Vec<Fault>> {
        let mut keys: Vec<(String, XChaCha20Poly1305)> = Vec::new();
        let mut faults = Vec::new();
        for (place, part) in value.split_whitespace().enumerate() {
            let mut fault = |detail: &str| {
                faults.push(Fault::at("/variables/card_key", format!("key {}: {detail}", place + 1)));
            };
            let Some((id, key)) = part.split_once(':') else {
                fault("must be id:base64");
                continue;
            };
            let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
            if id.is_empty() || id.len() > 32 || !plain {
                fault("its id must have 1 to 32 of [A-Za-z0-9._-]");
            } else if keys.iter().any(|(known, _)| known == id) {
                fault("its id stands twice");
            } else {
                let key = BASE64_STANDARD.decode(key).ok().filter(|key| key.len() == KEY);
                match key.and_then(|key| XChaCha20Poly1305::new_from_slice(&key).ok()) {
                    Some(cipher) => keys.push((id.to_owned(), cipher)),
                    None => fault("must be 32 bytes in base64"),
                }
            }
        }
        if faults.is_empty() { Ok(Self(keys)) } else { Err(faults) }
    }

    /// Whether there is a key to seal with.
    pub(crate) fn seals(&self) -> bool {
        !self.0.is_empty()
    }

    /// Seals a card's secret with the first key; `None` without a key.
    pub(crate) fn seal(&self, card_no: &str, secret: &str, nonce: [u8; NONCE]) -> Option<String> {
        let (id, cipher) = self.0.first()?;
        let payload = Payload { msg: secret.as_bytes(), aad: card_no.as_bytes() };
        let sealed = cipher.encrypt(&nonce.into(), payload).ok()?;
        Some(format!("{id}:{}", BASE64_STANDARD.encode([nonce.as_slice(), &sealed].concat())))
    }

    /// Opens a card's secret.
    ///
    /// # Errors
    /// [`Locked`].
    pub(crate) fn open(&self, card_no: &str, sealed: &str) -> Result<String, Locked> {
        let (id, text) = sealed.split_once(':').ok_or(Locked::Broken)?;
        let (_, cipher) = self.0.iter().find(|(known, _)| known == id).ok_or(Locked::NoKey)?;
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| Locked::Broken)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE>().ok_or(Locked::Broken)?;
        let payload = Payload { msg: sealed, aad: card_no.as_bytes() };
        let opened = cipher.decrypt(&(*nonce).into(), payload).map_err(|_| Locked::Broken)?;
        String::from_utf8(opened).map_err(|_| Locked::Broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "k1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    const NEW: &str = "k2:HxAPDg0MCwoJCAcGBQQDAgEAHx4dHBsaGRgXFhUUExI=";

    #[test]
    fn a_secret_opens_for_its_own_card_under_any_key_that_is_still_there() {
        let sealed = Vault::parse(OLD).unwrap().seal("6001", "S-1", [7; NONCE]).unwrap();
        assert!(sealed.starts_with("k1:") && !sealed.contains("S-1"));
        let rotated = Vault::parse(&format!("{NEW} {OLD}")).unwrap();
        assert_eq!(rotated.open("6001", &sealed).as_deref(), Ok("S-1"));
        assert_eq!(rotated.open("6002", &sealed), Err(Locked::Broken));
        assert!(rotated.seal("6001", "S-1", [7; NONCE]).unwrap().starts_with("k2:"));
        assert_eq!(Vault::parse(NEW).unwrap().open("6001", &sealed), Err(Locked::NoKey));
        for broken in ["", "k1", "k1:", "k1:AAAA", &sealed.replace(':', ":A"), &format!("{sealed}AAAA")] {
            assert!(rotated.open("6001", broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn faults_of_the_keys_are_named_and_none_is_quoted() {
        let faults = Vault::parse("nocolon k1:short :AAAA").err().unwrap();
        assert_eq!(faults.len(), 3);
        assert!(faults.iter().all(|fault| !fault.detail.contains("short")));
        assert!(!Vault::parse("").unwrap().seals());
    }
}
