//! Every error answer: `application/problem+json` by RFC 9457.
//!
//! One [`Problem`] serves all functions; handlers return it with `?`. A fault of ours never shows its insides:
//! what went wrong goes to the log, the caller reads a sentence.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// One fault of the input: where it is and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// RFC 6901 pointer into the body; empty for the body as a whole.
    pub pointer: String,
    /// What is wrong there, for a person.
    pub detail: String,
}

impl Fault {
    /// A fault at `pointer`.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), detail: detail.into() }
    }
}

/// Faults in one line, for a log.
pub fn sentence(faults: &[Fault]) -> String {
    let clause = |fault: &Fault| format!("{} {}", fault.pointer, fault.detail).trim().to_owned();
    faults.iter().map(clause).collect::<Vec<_>>().join("; ")
}

/// A name as a part of a pointer: RFC 6901 writes `~` as `~0` and `/` as `~1`.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// What kind of problem it is: its slug, status and title always go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400: the input is at fault; `errors` names each fault.
    BadInput,
    /// 401: no token, or not one of ours.
    Unauthorized,
    /// 403: a token of ours that may not do this.
    Forbidden,
    /// 404.
    NotFound,
    /// 405.
    MethodNotAllowed,
    /// 409: the same key with other content.
    Conflict,
    /// 409: what is asked does not fit the state that the thing is in.
    WrongState,
    /// 403: an operator has switched it off.
    SwitchedOff,
    /// 422: the input can be read, and does not fit what is here.
    Unprocessable,
    /// 413: a body over its limit.
    TooLarge,
    /// 415: a body in a form that the route does not read.
    UnsupportedMediaType,
    /// 502: a peer that is asked on the caller's behalf does not answer as it should.
    BadGateway,
    /// 503: the deployment's own variables are wrong; an operator must act.
    Misconfigured,
    /// 503: something we stand on is not there; the same call may succeed later.
    Unavailable,
    /// 500: our fault.
    Internal,
}

impl Kind {
    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::BadInput => ("bad-input", StatusCode::BAD_REQUEST, "The input is not acceptable"),
            Self::Unauthorized => ("unauthorized", StatusCode::UNAUTHORIZED, "A valid token is needed"),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "This token may not do that"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is nothing here"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The route knows no such method")
            }
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "The key is taken by other content"),
            Self::WrongState => ("wrong-state", StatusCode::CONFLICT, "The present state does not allow it"),
            Self::SwitchedOff => ("switched-off", StatusCode::FORBIDDEN, "An operator has switched it off"),
            Self::Unprocessable => {
                ("unprocessable", StatusCode::UNPROCESSABLE_ENTITY, "The input does not fit what is here")
            }
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is over its limit"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is in a form that is not read here",
            ),
            Self::BadGateway => ("bad-gateway", StatusCode::BAD_GATEWAY, "A peer did not answer as it should"),
            Self::Misconfigured => {
                ("misconfigured", StatusCode::SERVICE_UNAVAILABLE, "The deployment's configuration is wrong")
            }
            Self::Unavailable => {
                ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Something needed is not available now")
            }
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here"),
        }
    }
}

/// An error as its caller reads it.
///
/// ```
/// use shared::problem::{Fault, Problem};
/// let problem = Problem::bad_input("the order is not acceptable").with(Fault::at("/order_id", "is missing"));
/// assert_eq!(problem.status(), 400);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<Fault>,
}

impl Problem {
    /// A problem of `kind` with a sentence for the caller.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new() }
    }

    /// 400.
    pub fn bad_input(detail: impl Into<String>) -> Self {
        Self::new(Kind::BadInput, detail)
    }

    /// 413: the body is over `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Kind::TooLarge, format!("the body may have {limit} bytes"))
    }

    /// Adds one fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.errors.push(fault);
        self
    }

    /// Adds faults.
    #[must_use]
    pub fn with_all(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.errors.extend(faults);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.kind.row().1.as_u16()
    }

    /// The sentence for the caller.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// All of it in one line, for a log.
    pub fn sentence(&self) -> String {
        let faults = sentence(&self.errors);
        if faults.is_empty() { self.detail.clone() } else { format!("{}: {faults}", self.detail) }
    }

    /// The faults of the input.
    pub fn errors(&self) -> &[Fault] {
        &self.errors
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Fault],
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (slug, status, title) = self.kind.row();
        let body = Body {
            r#type: format!("urn:clinic:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (status, bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The answer to a path that no route matches.
pub async fn not_found() -> Problem {
    Problem::new(Kind::NotFound, "no route matches this path")
}

/// The answer to a method that the route does not know.
pub async fn method_not_allowed() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "the route answers other methods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_reads_as_rfc_9457_says() {
        let response = Problem::bad_input("two faults")
            .with(Fault::at("/a", "is missing"))
            .with(Fault::at("/b/0", "is not a number"))
            .into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "type": "urn:clinic:problem:bad-input", "title": "The input is not acceptable", "status": 400,
                "detail": "two faults",
                "errors": [{"pointer": "/a", "detail": "is missing"}, {"pointer": "/b/0", "detail": "is not a number"}],
            })
        );
    }

    #[test]
    fn a_missing_token_is_challenged() {
        let response = Problem::new(Kind::Unauthorized, "no token").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
