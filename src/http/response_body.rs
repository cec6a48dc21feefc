//! Bodies of responses, whole or streamed.
//!
//! What a client has not accepted yet of a whole body, or of the chunk of a streamed one, counts as memory
//! of [`BodyBudget`] on the account of who sent the request: a client that does not read gives way to others.

use std::{
    future::poll_fn,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use smol::stream::{self, Stream, StreamExt};

use super::{limits::MAX_FRAME_BYTES, sender::Sender};
use crate::{
    api::{self, Streamed},
    body_budget::{BodyBudget, Exhausted, PartialBody},
    media::FileReader,
};

pub(super) struct ResponseBody {
    chunk: Chunk,
    /// The chunks after it.
    rest: Option<Chunks>,
    /// How many bytes are left, if known.
    left: Option<u64>,
    /// Whose memory, and on whose account. None for the short responses that the edge makes itself.
    account: Option<(BodyBudget<Sender>, Sender)>,
}

/// Why a response does not begin.
pub(super) enum FirstChunkError {
    NotMade(api::Error),
    /// There is no memory for it.
    Exhausted,
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Vec<u8>, api::Error>> + Send>>;

/// What is in memory and has not been sent.
enum Chunk {
    Uncounted(Bytes),
    Counted {
        memory: PartialBody<Sender>,
        unsent: Range<usize>,
    },
}

impl Chunk {
    fn is_empty(&self) -> bool {
        match self {
            Self::Uncounted(bytes) => bytes.is_empty(),
            Self::Counted { unsent, .. } => unsent.is_empty(),
        }
    }

    /// The next bytes to send, few enough that the rest is still counted while they are in the buffer of
    /// the connection.
    fn next_frame(&mut self) -> Result<Bytes, Exhausted> {
        match self {
            Self::Uncounted(bytes) => Ok(bytes.split_to(bytes.len().min(MAX_FRAME_BYTES))),
            Self::Counted { memory, unsent } => {
                let end = unsent.end.min(unsent.start + MAX_FRAME_BYTES);
                let frame = memory.copy_of(unsent.start..end)?;
                unsent.start = end;
                Ok(frame.into())
            }
        }
    }
}

impl ResponseBody {
    fn streamed(rest: Chunks, left: Option<u64>) -> Self {
        Self {
            chunk: Chunk::Uncounted(Bytes::new()),
            rest: Some(rest),
            left,
            account: None,
        }
    }

    /// A file between `before` and `behind`.
    pub(super) fn framed(before: String, file: FileReader, behind: String) -> Self {
        let size = file.size();
        let left = Some(size + (before.len() + behind.len()) as u64);
        let before = stream::once(Ok(before.into_bytes()));
        let behind = stream::once(Ok(behind.into_bytes()));
        let content = file.chunks(0..size).map(|chunk| Ok(chunk?));
        Self::streamed(Box::pin(before.chain(content).chain(behind)), left)
    }

    /// A part of a file.
    pub(super) fn file(file: FileReader, part: Range<u64>) -> Self {
        let left = Some(part.end - part.start);
        let chunks = file.chunks(part).map(|chunk| Ok(chunk?));
        Self::streamed(Box::pin(chunks), left)
    }

    /// Counts the body as memory of `budget` from now on, unless it is one frame, which the connection gets at
    /// once. The first chunk is made before the response begins, so that it can still be an error.
    pub(super) async fn counted(
        mut self,
        budget: &BodyBudget<Sender>,
        owner: Sender,
    ) -> Result<Self, FirstChunkError> {
        let is_one_frame = |left| left <= MAX_FRAME_BYTES as u64;
        if self.rest.is_none() && self.left.is_some_and(is_one_frame) {
            return Ok(self);
        }
        self.account = Some((budget.clone(), owner));
        let first = match &mut self.chunk {
            Chunk::Uncounted(bytes) if !bytes.is_empty() => Some(Vec::from(std::mem::take(bytes))),
            _ => match &mut self.rest {
                Some(rest) => poll_fn(|cx| rest.as_mut().poll_next(cx))
                    .await
                    .transpose()
                    .map_err(FirstChunkError::NotMade)?,
                None => None,
            },
        };
        self.put(first.unwrap_or_default())
            .map_err(|Exhausted| FirstChunkError::Exhausted)?;
        Ok(self)
    }

    fn gave_way(&self) -> ResponseAborted {
        if let Some((_, owner)) = &self.account {
            log::info!(
                "broke off a response to {owner:?}: too many large responses at once, and it is slow to read"
            );
        }
        ResponseAborted
    }

    /// Takes the next chunk to send, which is in memory from now on.
    fn put(&mut self, bytes: Vec<u8>) -> Result<(), Exhausted> {
        self.chunk = match &self.account {
            None => Chunk::Uncounted(bytes.into()),
            Some((budget, owner)) => {
                let unsent = 0..bytes.len();
                let mut memory = budget.begin(owner.clone());
                memory.fill(bytes)?;
                Chunk::Counted { memory, unsent }
            }
        };
        Ok(())
    }
}

impl From<Vec<u8>> for ResponseBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            left: Some(bytes.len() as u64),
            chunk: Chunk::Uncounted(bytes.into()),
            rest: None,
            account: None,
        }
    }
}

impl From<Streamed> for ResponseBody {
    fn from(streamed: Streamed) -> Self {
        Self::streamed(streamed.into_inner(), None)
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
        let this = &mut *self;
        while this.chunk.is_empty() {
            // Gives its memory back while the next one is made.
            this.chunk = Chunk::Uncounted(Bytes::new());
            let Some(rest) = &mut this.rest else {
                return Poll::Ready(None);
            };
            let next = catch_unwind(AssertUnwindSafe(|| rest.as_mut().poll_next(cx)));
            // The panic hook has logged it.
            let Ok(next) = next else {
                return Poll::Ready(Some(Err(ResponseAborted)));
            };
            match ready!(next) {
                None => return Poll::Ready(None),
                Some(Ok(chunk)) => {
                    if this.put(chunk).is_err() {
                        return Poll::Ready(Some(Err(this.gave_way())));
                    }
                }
                Some(Err(error)) => {
                    log::error!("a streamed response cannot be completed: {error}");
                    return Poll::Ready(Some(Err(ResponseAborted)));
                }
            }
        }
        let Ok(frame) = this.chunk.next_frame() else {
            return Poll::Ready(Some(Err(this.gave_way())));
        };
        let length = frame.len() as u64;
        this.left = this.left.map(|left| left.saturating_sub(length));
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        match self.left {
            Some(left) => left == 0,
            None => self.chunk.is_empty() && self.rest.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
