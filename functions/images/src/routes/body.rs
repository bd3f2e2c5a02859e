//! A body that is rewritten while it passes: each piece is asked for when the one before it is taken.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use shared::log::EntryPath;

use crate::{
    config::Standing,
    outcome::Outcome,
    rewrite::Rewriter,
    rules::{self, Caller, Rules},
};

/// A body, rewritten.
pub(super) struct Rewritten {
    source: Body,
    rewriter: Rewriter,
    rules: Arc<Rules>,
    context: Option<rules::Context>,
    started: Instant,
    /// Whether its outcome is known and logged.
    ended: bool,
}

impl Rewritten {
    pub(super) fn new(source: Body, standing: Standing, caller: &Caller) -> Self {
        let rules = standing.rules.clone();
        let rewriter = standing.rewriter(caller);
        Self { source, rewriter, rules, context: caller.context, started: Instant::now(), ended: false }
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
        while !self.ended {
            let frame = ready!(Pin::new(&mut self.source).poll_frame(context));
            let piece = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rewriter.push(data, false),
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
