//! Bodies of requests and responses, counted on their way through.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::connection_limits::RequestGuard;
use crate::backend::Upstream;

/// Any body.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is all here.
pub(super) fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// Where a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyDirection {
    Guest,
    Client,
}

/// A body that is counted, and that keeps its upstream until it has ended.
pub(super) struct Counted {
    body: Incoming,
    upstream: Arc<dyn Upstream>,
    towards: BodyDirection,
    broken: Broken,
    held: Option<Waiting>,
}

/// What came of a body: a piece of it, or its end.
type Polled = Option<Result<Frame<Bytes>, hyper::Error>>;

/// Something for a guest that stands still, until it goes on.
struct Waiting {
    what: Polled,
    going_on: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Waiting {
    fn new(what: Polled, upstream: &Arc<dyn Upstream>) -> Waiting {
        let upstream = Arc::clone(upstream);
        let going_on = Box::pin(async move {
            // Where the machine is no more, the connection to it tells.
            let _gone = upstream.go_on().await;
        });
        Waiting { what, going_on }
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Counted")
            .field("upstream", &self.upstream)
            .field("towards", &self.towards)
            .finish_non_exhaustive()
    }
}

/// Whether a body broke off, or made no sense, on its side.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<AtomicBool>);

impl Broken {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counted {
    pub(super) fn to_guest(body: Incoming, upstream: &Arc<dyn Upstream>, broken: &Broken) -> Body {
        let (upstream, broken) = (Arc::clone(upstream), broken.clone());
        Counted { body, upstream, towards: BodyDirection::Guest, broken, held: None }.boxed_unsync()
    }

    pub(super) fn to_client(body: Incoming, upstream: &Arc<dyn Upstream>) -> Body {
        let upstream = Arc::clone(upstream);
        let (towards, broken) = (BodyDirection::Client, Broken::default());
        Counted { body, upstream, towards, broken, held: None }.boxed_unsync()
    }
}

/// A reply, whose request counts until it has been sent.
#[derive(Debug)]
pub(super) struct Held {
    body: Body,
    _request: RequestGuard,
}

impl Held {
    pub(super) fn new(body: Body, request: RequestGuard) -> Held {
        Held { body, _request: request }
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.held.is_none() {
            let came = ready!(Pin::new(&mut self.body).poll_frame(cx));
            if self.towards == BodyDirection::Client || self.upstream.is_awake() {
                return Poll::Ready(self.count(came));
            }
            // One that was paused with the request under way goes on for what comes.
            self.held = Some(Waiting::new(came, &self.upstream));
        }
        if let Some(held) = &mut self.held {
            ready!(held.going_on.as_mut().poll(cx));
        }
        let came = self.held.take().and_then(|held| held.what);
        Poll::Ready(self.count(came))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Counted {
    fn count(&self, frame: Polled) -> Polled {
        if let Some(Ok(frame)) = &frame {
            let count = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            match self.towards {
                BodyDirection::Guest => self.upstream.passed(count, 0),
                BodyDirection::Client => self.upstream.passed(0, count),
            }
        }
        if matches!(frame, Some(Err(_))) {
            self.broken.0.store(true, Ordering::Relaxed);
        }
        frame
    }
}
