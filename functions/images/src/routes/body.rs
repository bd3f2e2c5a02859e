//! A body that is rewritten while it passes: each piece is asked for when the one before it is taken.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use shared::log::EntryPath;

use crate::{
    config::Standing,
    media::Media,
    outcome::Outcome,
    rewrite::Rewriter,
    rules::{self, Caller, Rules},
};

/// A body, rewritten.
pub(super) struct Rewritten {
    source: Body,
    rewriter: Rewriter,
    /// Goes out before anything else.
    first: Bytes,
    /// What of it is not yet there, where its length is known: its last piece need not be told by a further one.
    missing: Option<u64>,
    rules: Arc<Rules>,
    context: Option<rules::Context>,
    started: Instant,
    /// Whether its outcome is known and logged.
    ended: bool,
}

impl Rewritten {
    /// `headers` are those that tell of the body.
    pub(super) fn new(source: Body, headers: &HeaderMap, standing: Standing, caller: &Caller) -> Self {
        let rules = standing.rules.clone();
        let media = headers.get(header::CONTENT_TYPE).map(|value| Media::of(value.as_bytes())).unwrap_or_default();
        let rewriter = standing.rewriter(caller).of(media);
        let missing = source.size_hint().upper();
        Self {
            source,
            rewriter,
            first: Bytes::new(),
            missing,
            rules,
            context: caller.context,
            started: Instant::now(),
            ended: false,
        }
    }

    /// Whether all of it has gone through.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The rest of it, after a piece that has come out already.
    pub(super) fn after(mut self, first: Bytes) -> Self {
        self.first = first;
        self
    }

    fn take(&mut self, piece: Bytes) -> Bytes {
        self.missing = self.missing.map(|missing| missing.saturating_sub(piece.len() as u64));
        let last = self.missing == Some(0);
        let out = self.rewriter.push(piece, last);
        if last {
            self.end("rewritten");
        }
        out
    }

    fn end(&mut self, outcome: &str) {
        if !std::mem::replace(&mut self.ended, true) {
            let took = self.started.elapsed();
            let counts = self.rewriter.counts();
            Outcome { rules: &self.rules, context: self.context, counts, path: EntryPath::Http, took }.log(outcome);
        }
    }
}

impl http_body::Body for Rewritten {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        while !self.ended {
            let frame = ready!(Pin::new(&mut self.source).poll_frame(context));
            let piece = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(data),
                    // Trailers: they would tell of the body that came in.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.end("broken");
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let rest = self.rewriter.push(Bytes::new(), true);
                    self.end("rewritten");
                    rest
                }
            };
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Rewritten {
    /// Whoever was to get it is gone.
    fn drop(&mut self) {
        self.end("abandoned");
    }
}
