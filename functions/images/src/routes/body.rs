//! A body that is rewritten while it passes: each piece is asked for when the one before it is taken.

use std::{
    error::Error as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    http::{HeaderMap, header},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Body as _, Frame};
use shared::{log::EntryPath, problem::Problem};

use crate::{
    config::Standing,
    media::Media,
    outcome::Outcome,
    rewrite::Rewriter,
    rules::{self, Caller},
};

/// A body, rewritten.
pub(super) struct Rewritten {
    source: Body,
    rewriter: Rewriter,
    /// What the piece that was taken last needs to know first.
    learning: Option<BoxFuture<'static, Result<(), Problem>>>,
    /// Goes out before anything else.
    first: Bytes,
    /// What of it is not yet there, where its length is known: its last piece need not be told by a further one.
    missing: Option<u64>,
    standing: Standing,
    context: Option<rules::Context>,
    started: Instant,
    /// Whether its last piece was taken.
    is_whole: bool,
    /// Whether its outcome is known and logged.
    ended: bool,
}

impl Rewritten {
    /// `headers` are those that tell of the body.
    pub(super) fn new(source: Body, headers: &HeaderMap, standing: Standing, caller: &Caller) -> Self {
        let media = headers.get(header::CONTENT_TYPE).map(|value| Media::of(value.as_bytes())).unwrap_or_default();
        let rewriter = standing.clone().rewriter(caller).of(media);
        let missing = source.size_hint().upper();
        Self {
            source,
            rewriter,
            learning: None,
            first: Bytes::new(),
            missing,
            standing,
            context: caller.context,
            started: Instant::now(),
            is_whole: false,
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

    /// The next piece that has come in; an empty one when no other comes.
    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, axum::Error>> {
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.source).poll_frame(context)).transpose()? else {
                self.is_whole = true;
                return Poll::Ready(Ok(Bytes::new()));
            };
            // Trailers would tell of the body that came in.
            let Ok(data) = frame.into_data() else { continue };
            self.missing = self.missing.map(|missing| missing.saturating_sub(data.len() as u64));
            self.is_whole = self.missing == Some(0);
            return Poll::Ready(Ok(data));
        }
    }

    /// What is to be rewritten next: nothing more, where a piece has waited for what is known now.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Bytes, axum::Error>> {
        let Some(learning) = &mut self.learning else { return self.poll_source(context) };
        let learnt = ready!(learning.as_mut().poll(context));
        self.learning = None;
        Poll::Ready(learnt.map(|()| Bytes::new()).map_err(axum::Error::new))
    }

    /// It broke off, or we could not read what is to be known first.
    fn fail(&mut self, error: &axum::Error) {
        let ours = error.source().and_then(|source| source.downcast_ref::<Problem>()).map(Problem::sentence);
        self.end(if ours.is_some() { "failed" } else { "broken" }, ours.as_deref());
    }

    fn end(&mut self, outcome: &str, detail: Option<&str>) {
        if !std::mem::replace(&mut self.ended, true) {
            let took = self.started.elapsed();
            let counts = self.rewriter.counts();
            Outcome { rules: &self.standing.rules, context: self.context, counts, path: EntryPath::Http, took }
                .log(outcome, detail);
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
            let piece = match ready!(self.poll_piece(context)) {
                Ok(piece) => piece,
                Err(error) => {
                    self.fail(&error);
                    return Poll::Ready(Some(Err(error)));
                }
            };
            let last = self.is_whole;
            match self.rewriter.push(piece, last) {
                Ok(rewritten) => {
                    if last {
                        self.end("rewritten", None);
                    }
                    if !rewritten.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(rewritten))));
                    }
                }
                Err(lack) => self.learning = Some(Box::pin(self.standing.clone().learn(lack))),
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Rewritten {
    /// Whoever was to get it is gone.
    fn drop(&mut self) {
        self.end("abandoned", None);
    }
}
