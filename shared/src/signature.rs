//! Standard Webhooks signatures: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
//!
//! HMAC-SHA256 over `id.timestamp.body`. A receiver accepts ±5 minutes and remembers the id, so that a replay
//! changes nothing. The crate `standardwebhooks` does the work; what it lets pass is refused here: an empty key.

use http::{HeaderMap, HeaderValue, header::InvalidHeaderValue};
use standardwebhooks::{HEADER_WEBHOOK_ID, HEADER_WEBHOOK_SIGNATURE, HEADER_WEBHOOK_TIMESTAMP, Webhook};

/// The fewest bytes of a key (specification, "Symmetric").
const KEY_MIN: usize = 24;
/// The most bytes of a key.
const KEY_MAX: usize = 64;

/// Why a signature cannot be made or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The secret is not `whsec_` and the base64 of 24 to 64 bytes.
    #[error("the secret must be `whsec_` and the base64 of {KEY_MIN} to {KEY_MAX} bytes")]
    Secret,
    /// A header is missing or has a wrong value, the time is over 5 minutes off, or the signature is another.
    #[error("{0}")]
    Refused(standardwebhooks::WebhookError),
    /// The id cannot stand in a header.
    #[error("the id cannot stand in a header")]
    Id(#[from] InvalidHeaderValue),
}

/// One secret, for signing and for checking.
pub struct Secret(Webhook);

impl Secret {
    /// Reads `whsec_…`.
    ///
    /// # Errors
    /// [`SignatureError::Secret`], for an empty one too.
    pub fn parse(secret: &str) -> Result<Self, SignatureError> {
        let encoded = secret.trim().strip_prefix("whsec_").ok_or(SignatureError::Secret)?;
        // Base64 has 4 characters for 3 bytes, so the length tells without decoding twice.
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        if !(KEY_MIN..=KEY_MAX).contains(&bytes) {
            return Err(SignatureError::Secret);
        }
        Webhook::new(encoded).map(Self).map_err(|_| SignatureError::Secret)
    }

    /// The three headers for `body`, sent under `id` at `at_ms`.
    ///
    /// # Errors
    /// If the id cannot stand in a header, or the body is not UTF-8.
    pub fn sign(&self, id: &str, at_ms: i64, body: &[u8]) -> Result<HeaderMap, SignatureError> {
        let at_s = at_ms.div_euclid(1000);
        let signature = self.0.sign(id, at_s, body).map_err(SignatureError::Refused)?;
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(HEADER_WEBHOOK_ID, HeaderValue::from_str(id)?);
        headers.insert(HEADER_WEBHOOK_TIMESTAMP, HeaderValue::from(at_s));
        headers.insert(HEADER_WEBHOOK_SIGNATURE, HeaderValue::from_str(&signature)?);
        Ok(headers)
    }

    /// Checks the headers of a received `body`, now.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> Result<(), SignatureError> {
        self.0.verify(body, headers).map_err(SignatureError::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn signed(at_ms: i64) -> HeaderMap {
        Secret::parse(SECRET).unwrap().sign("msg_1", at_ms, b"{}").unwrap()
    }

    /// The vector of the specification's reference implementations.
    #[test]
    fn the_specifications_vector_holds() {
        let headers = Secret::parse(SECRET)
            .unwrap()
            .sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330_000, br#"{"test": 2432232314}"#)
            .unwrap();
        assert_eq!(headers["webhook-signature"], "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
    }

    #[test]
    fn only_the_signed_body_id_and_time_are_accepted() {
        let secret = Secret::parse(SECRET).unwrap();
        let headers = signed(clock::now_ms());
        assert!(secret.verify(&headers, b"{}").is_ok());
        assert!(secret.verify(&headers, b"{ }").is_err());
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            let mut altered = headers.clone();
            altered.remove(name);
            assert!(secret.verify(&altered, b"{}").is_err(), "without {name}");
        }
        let mut other = headers;
        other.insert("webhook-id", HeaderValue::from_static("msg_2"));
        assert!(secret.verify(&other, b"{}").is_err());
    }

    #[test]
    fn a_signature_is_accepted_for_five_minutes() {
        let secret = Secret::parse(SECRET).unwrap();
        let now = clock::now_ms();
        for (age_ms, accepted) in [(-290_000, true), (290_000, true), (310_000, false), (-310_000, false)] {
            assert_eq!(secret.verify(&signed(now - age_ms), b"{}").is_ok(), accepted, "{age_ms}");
        }
    }

    #[test]
    fn an_empty_or_short_secret_is_refused() {
        for secret in [
            "",
            "whsec_",
            "whsec_c2hvcnQ=",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
        ] {
            assert!(Secret::parse(secret).is_err(), "{secret}");
        }
    }
}
