//! The reverse proxy: an answer of a configured origin, rewritten on its way.
//!
//! What is asked for is taken from the path as it was sent, so that no unescaping can make another origin or another
//! path of it.

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    response::Response,
};
use bytes::Bytes;
use shared::{
    auth::Role,
    http::{ANSWER_TIMEOUT, APP_VERSION, CONNECT_TIMEOUT, send},
    problem::{Kind, Problem},
    query::Query,
};

use super::{allowed, body::Rewritten, caller, not_found, rewrite::is_encoded};
use crate::{
    config::{Standing, origin_name, origins, standing},
    rules::Caller,
};

const PREFIX: &str = "/images/fetch/";
/// The parameters that are ours and not the origin's.
const OURS: [&str; 2] = ["context", "user"];

/// What an answer keeps to itself: hop by hop (RFC 9110, section 7.6.1), a request's, which the runtime lets out in no
/// answer, or told of the body as it was.
const DROPPED: [HeaderName; 17] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
    header::CONTENT_LENGTH,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];
const DIGESTS: [&str; 2] = ["content-digest", "repr-digest"];

pub(super) async fn fetch(request: Request) -> Result<Response, Problem> {
    let (head, _) = request.into_parts();
    allowed(Role::Service, &head.headers).await?;
    let uri = &head.uri;
    let (ours, theirs) = split_query(uri);
    let mut query = Query::of(&ours);
    let caller = caller(&mut query, &head.headers);
    query.finish()?;

    let rest = uri.path().strip_prefix(PREFIX).unwrap_or_default();
    let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // The colon before a port may be escaped in a path.
    let name = name.replace("%3A", ":").replace("%3a", ":").to_ascii_lowercase();
    let origins = origins().await?;
    let origin = origins
        .iter()
        .find(|origin| origin_name(origin) == Some(name.as_str()))
        .ok_or_else(|| not_found("origin", &name))?;
    let path = if path.is_empty() { "/" } else { path };
    let asked = if theirs.is_empty() { path.to_owned() } else { format!("{path}?{theirs}") };
    let asked: Uri = format!("{origin}{asked}").parse().map_err(|_| not_found("path", path))?;
    let standing = standing().await?;

    let mut outbound = axum::http::Request::get(asked).body(Bytes::new()).map_err(|_| not_found("path", path))?;
    // An encoding would hide the URLs.
    outbound.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let answer = send(outbound, CONNECT_TIMEOUT.saturating_add(ANSWER_TIMEOUT))
        .await
        .map_err(|error| Problem::new(Kind::BadGateway, format!("the origin `{name}` {error}")))?;
    let (mut answer, body) = answer.into_parts();
    if is_encoded(&answer.headers) {
        return Err(Problem::new(Kind::BadGateway, format!("the origin `{name}` sent a `content-encoding`")));
    }
    clean(&mut answer.headers);
    // Whoever keeps an answer keeps one of each: old apps' differ.
    answer.headers.append(header::VARY, HeaderValue::from(APP_VERSION));
    rewrite_addresses(&mut answer.headers, &standing, &caller).await?;
    let mut response = Response::new(Body::new(Rewritten::new(Body::new(body), &answer.headers, standing, &caller)));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Ok(response)
}

/// Our parameters, as a query of their own, and the origin's, as they were sent.
fn split_query(uri: &Uri) -> (Uri, String) {
    let is_ours = |pair: &&str| OURS.contains(&pair.split('=').next().unwrap_or_default());
    let (ours, theirs): (Vec<&str>, Vec<&str>) = uri.query().unwrap_or_default().split('&').partition(is_ours);
    (format!("/?{}", ours.join("&")).parse().unwrap_or_default(), theirs.join("&"))
}

fn clean(headers: &mut HeaderMap) {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named: Vec<String> = named.flat_map(|names| names.split(',').map(|name| name.trim().to_owned())).collect();
    for name in DROPPED {
        headers.remove(name);
    }
    for name in DIGESTS.into_iter().map(str::to_owned).chain(named) {
        if let Ok(name) = HeaderName::try_from(name) {
            headers.remove(name);
        }
    }
}

/// What leads to the new domain, too.
const ADDRESSES: [HeaderName; 3] = [header::LOCATION, header::CONTENT_LOCATION, header::LINK];

async fn rewrite_addresses(headers: &mut HeaderMap, standing: &Standing, caller: &Caller) -> Result<(), Problem> {
    for (_, value) in headers.iter_mut().filter(|(name, _)| ADDRESSES.contains(name)) {
        let (rewritten, _) = standing.rewritten(caller, Bytes::copy_from_slice(value.as_bytes())).await?;
        if let Ok(rewritten) = HeaderValue::from_maybe_shared(rewritten) {
            *value = rewritten;
        }
    }
    Ok(())
}
