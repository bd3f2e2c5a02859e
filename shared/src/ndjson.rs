//! Lines of a streamed body: any number of them, each within a limit, memory constant.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::problem::Problem;

/// The media type.
pub const MEDIA_TYPE: &str = "application/x-ndjson";

/// The most bytes of one line.
pub const LINE_LIMIT: usize = 64 * 1024;

/// Whether a `content-type` says NDJSON, by any of its names.
pub fn is_ndjson(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    [MEDIA_TYPE, "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/jsonlines"]
        .iter()
        .any(|name| essence.eq_ignore_ascii_case(name))
}

/// One line, numbered from 1 as an editor shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the body; empty lines count.
    pub number: u64,
    /// Its bytes without the line's end; `None` if it was over [`LINE_LIMIT`].
    pub bytes: Option<Bytes>,
}

/// Cuts what comes in pieces into lines. Empty lines are left out.
#[derive(Default)]
pub struct Splitter {
    rest: BytesMut,
    number: u64,
    /// Within a line that is over the limit already: drop until its end.
    skipping: bool,
}

impl Splitter {
    /// The lines that `piece` completes.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut pieces = piece.split(|&byte| byte == b'\n').peekable();
        while let Some(part) = pieces.next() {
            if !self.skipping {
                if self.rest.len() + part.len() > LINE_LIMIT {
                    self.skipping = true;
                    self.rest.clear();
                } else {
                    self.rest.extend_from_slice(part);
                }
            }
            if pieces.peek().is_some() {
                lines.extend(self.end_line());
            }
        }
        lines
    }

    /// The last line, if the body did not end with a line's end.
    pub fn finish(&mut self) -> Option<Line> {
        if self.rest.is_empty() && !self.skipping { None } else { self.end_line() }
    }

    fn end_line(&mut self) -> Option<Line> {
        self.number += 1;
        let number = self.number;
        if std::mem::take(&mut self.skipping) {
            return Some(Line { number, bytes: None });
        }
        let line = self.rest.split().freeze();
        let blank = line.iter().all(u8::is_ascii_whitespace);
        (!blank).then_some(Line { number, bytes: Some(line) })
    }
}

/// The lines of a request's body, as many at a time as have come.
pub struct Lines {
    body: Option<Body>,
    splitter: Splitter,
}

impl Lines {
    /// The lines of `body`.
    pub fn new(body: Body) -> Self {
        Self { body: Some(body), splitter: Splitter::default() }
    }

    /// The next lines, at least one; `None` at the end of the body.
    ///
    /// # Errors
    /// 400 if the body breaks off.
    pub async fn next(&mut self) -> Result<Option<Vec<Line>>, Problem> {
        while let Some(body) = &mut self.body {
            let lines = match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.splitter.push(&data),
                    Err(_) => continue,
                },
                Some(Err(_)) => {
                    self.body = None;
                    return Err(crate::http::ended_early());
                }
                None => {
                    self.body = None;
                    self.splitter.finish().into_iter().collect()
                }
            };
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<Line> {
        let mut splitter = Splitter::default();
        let mut lines: Vec<Line> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        lines.extend(splitter.finish());
        lines
    }

    fn line(number: u64, text: &str) -> Line {
        Line { number, bytes: Some(Bytes::copy_from_slice(text.as_bytes())) }
    }

    #[test]
    fn lines_are_numbered_as_an_editor_shows_them() {
        assert_eq!(split(&[b"a\n\n  \nb", b"c\nd"]), [line(1, "a"), line(4, "bc"), line(5, "d")]);
    }

    #[test]
    fn a_line_over_the_limit_is_reported_and_the_next_one_read() {
        let long = vec![b'x'; LINE_LIMIT + 1];
        let lines = split(&[&long, b"yy\n{}\n"]);
        assert_eq!(lines, [Line { number: 1, bytes: None }, line(2, "{}")]);
        let just = vec![b'x'; LINE_LIMIT];
        assert!(split(&[&just, b"\n"])[0].bytes.is_some());
        assert_eq!(split(&[&long]), [Line { number: 1, bytes: None }]);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[ab\n ]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(&pieces), split(&[bytes]));
        }
    }
}
