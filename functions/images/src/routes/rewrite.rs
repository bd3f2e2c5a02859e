//! A body in, the same body out with its URLs rewritten, while it comes.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use shared::{
    auth::Role,
    problem::{Kind, Problem},
    query::Query,
};

use super::{allowed, body::Rewritten, caller};
use crate::config::standing;

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
    let mut response = Response::new(Body::new(Rewritten::new(body, standing().await?, &caller)));
    if let Some(content_type) = head.headers.get(header::CONTENT_TYPE) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type.clone());
    }
    Ok(response)
}

/// Whether a body is in an encoding that hides its URLs.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_else(|_| "?".into());
    headers.get_all(header::CONTENT_ENCODING).iter().map(codings).any(|codings| {
        codings.split(',').map(str::trim).any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
    })
}
