//! Bodies on their way through.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::backend::Visit;

/// Any body.
pub(super) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A body that is all here.
pub(super) fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}

/// Where a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Towards {
    Guest,
    Client,
}

/// A body that is counted, and that keeps its visit until it has ended.
#[derive(Debug)]
pub(super) struct Counted {
    body: Incoming,
    visit: Arc<dyn Visit>,
    towards: Towards,
}

impl Counted {
    pub(super) fn boxed(body: Incoming, visit: &Arc<dyn Visit>, towards: Towards) -> Body {
        Counted { body, visit: Arc::clone(visit), towards }.boxed_unsync()
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
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
