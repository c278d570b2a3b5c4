//! Bodies on their way through.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use super::places::Busy;
use crate::backend::Visit;

/// Any body.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is all here.
pub(super) fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// Where a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Towards {
    Guest,
    Client,
}

/// A body that is counted, and that keeps its visit until it has ended.
#[derive(Debug)]
pub(super) struct Counted {
    body: Incoming,
    visit: Arc<dyn Visit>,
    towards: Towards,
    broken: Broken,
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
    pub(super) fn to_guest(body: Incoming, visit: &Arc<dyn Visit>, broken: &Broken) -> Body {
        let (visit, broken) = (Arc::clone(visit), broken.clone());
        Counted { body, visit, towards: Towards::Guest, broken }.boxed_unsync()
    }

    pub(super) fn to_client(body: Incoming, visit: &Arc<dyn Visit>) -> Body {
        let visit = Arc::clone(visit);
        Counted { body, visit, towards: Towards::Client, broken: Broken::default() }.boxed_unsync()
    }
}

/// A reply, whose request counts until it has been sent.
#[derive(Debug)]
pub(super) struct Held {
    body: Body,
    _request: Busy,
}

impl Held {
    pub(super) fn new(body: Body, request: Busy) -> Held {
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
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let count = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
            match self.towards {
                Towards::Guest => self.visit.passed(count, 0),
                Towards::Client => self.visit.passed(0, count),
            }
        }
        if matches!(frame, Some(Err(_))) {
            self.broken.0.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
