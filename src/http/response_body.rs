//! Bodies of responses, whole or streamed.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use smol::stream::{self, Stream, StreamExt};

use crate::{
    api::{self, Streamed},
    media::FileReader,
};

pub(super) enum ResponseBody {
    Whole(Bytes),
    Chunks {
        chunks: Pin<Box<dyn Stream<Item = Result<Vec<u8>, api::Error>> + Send>>,
        /// How many bytes are left, if known.
        left: Option<u64>,
    },
}

impl ResponseBody {
    /// A file between `before` and `behind`.
    pub(super) fn framed(before: String, file: FileReader, behind: String) -> Self {
        let size = file.size();
        let left = Some(size + (before.len() + behind.len()) as u64);
        let before = stream::once(Ok(before.into_bytes()));
        let behind = stream::once(Ok(behind.into_bytes()));
        let content = file.chunks(0..size).map(|chunk| Ok(chunk?));
        Self::Chunks {
            chunks: Box::pin(before.chain(content).chain(behind)),
            left,
        }
    }

    /// A part of a file.
    pub(super) fn file(file: FileReader, part: Range<u64>) -> Self {
        let left = Some(part.end - part.start);
        let chunks = file.chunks(part).map(|chunk| Ok(chunk?));
        Self::Chunks {
            chunks: Box::pin(chunks),
            left,
        }
    }
}

impl From<Vec<u8>> for ResponseBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(bytes.into())
    }
}

impl From<Streamed> for ResponseBody {
    fn from(streamed: Streamed) -> Self {
        Self::Chunks {
            chunks: streamed.into_inner(),
            left: None,
        }
    }
}

/// A streamed response that cannot be completed. The connection is closed, so that the client does
/// not take the response for complete.
#[derive(Debug, thiserror::Error)]
#[error("the response cannot be completed")]
pub(super) struct ResponseAborted;

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseAborted>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Chunks { chunks, left } => {
                let poll = catch_unwind(AssertUnwindSafe(|| chunks.as_mut().poll_next(cx)));
                match poll {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(None)) => Poll::Ready(None),
                    Ok(Poll::Ready(Some(Ok(chunk)))) => {
                        let length = chunk.len() as u64;
                        *left = left.map(|left| left.saturating_sub(length));
                        Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
                    }
                    Ok(Poll::Ready(Some(Err(error)))) => {
                        log::error!("a streamed response cannot be completed: {error}");
                        Poll::Ready(Some(Err(ResponseAborted)))
                    }
                    // The panic hook has logged it.
                    Err(_) => Poll::Ready(Some(Err(ResponseAborted))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Chunks { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Chunks { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
