//! A body in, the same body out with its URLs rewritten, while it comes.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use shared::{
    auth::Role,
    http::ended_early,
    problem::{Kind, Problem},
    query::Query,
};

use super::{allowed, body::Rewritten, caller};
use crate::config::standing;

/// A body that says to be no longer comes in one piece, most of the time, and then it is answered in one.
const SMALL: u64 = 64 * 1024;

pub(super) async fn rewrite(request: Request) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    allowed(Role::Service, &head.headers).await?;
    let mut query = Query::of(&head.uri);
    let caller = caller(&mut query, &head.headers);
    query.finish()?;
    if is_encoded(&head.headers) {
        let problem = Problem::new(Kind::UnsupportedMediaType, "send the body without `content-encoding`");
        // RFC 9110, section 12.5.3: what would be read.
        return Ok(([(header::ACCEPT_ENCODING, "identity")], problem).into_response());
    }
    let is_small = http_body::Body::size_hint(&body).upper().is_some_and(|length| length <= SMALL);
    let mut rewritten = Rewritten::new(body, &head.headers, standing().await?, &caller);
    let mut response = Response::new(if is_small {
        let first = rewritten.frame().await.transpose().map_err(problem)?;
        let first = first.and_then(|frame| frame.into_data().ok()).unwrap_or_default();
        if rewritten.has_ended() { first.into() } else { Body::new(rewritten.after(first)) }
    } else {
        Body::new(rewritten)
    });
    if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}

/// Why a body could not be rewritten: what we need was not there, or the body broke off.
fn problem(error: axum::Error) -> Problem {
    error.into_inner().downcast().map_or_else(|_| ended_early(), |problem| *problem)
}

/// Whether a body is in an encoding that hides its URLs.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_else(|_| "?".into());
    headers.get_all(header::CONTENT_ENCODING).iter().map(codings).any(|codings| {
        codings.split(',').map(str::trim).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    })
}
