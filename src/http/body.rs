//! Bodies: those of requests, read whole within limits, and those of answers, whole or in pieces.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
    time::Instant,
};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use smol::{
    Timer, future,
    stream::{self, Stream, StreamExt},
};

use super::{
    error::Refusal,
    limits::{Times, UNWANTED},
};
use crate::{
    api::{self, Streamed},
    media::FileReader,
};

/// The body of a request that nobody has read yet.
#[derive(Debug)]
pub(super) enum Unread {
    /// From a connection.
    Incoming(Incoming),
    /// From a test.
    Whole(Vec<u8>),
}

/// The memory for bodies of requests, shared by all connections.
#[derive(Debug)]
pub(super) struct Room {
    left: AtomicUsize,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self {
            left: AtomicUsize::new(bytes),
        }
    }

    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

/// A body that was read. Gives its memory back when dropped.
#[derive(Debug)]
pub(super) struct Read<'a> {
    bytes: Vec<u8>,
    room: &'a Room,
    taken: usize,
}

impl Read<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        if !self.room.take(piece.len()) {
            return Err(Refusal::NoRoom);
        }
        self.taken += piece.len();
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

impl Drop for Read<'_> {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.taken, Ordering::Relaxed);
    }
}

impl Unread {
    /// Reads the whole body, if it has at most `most` bytes. On an error what is left of it is
    /// still there to be [`skip`](Self::skip)ped.
    pub(super) async fn read<'a>(
        &mut self,
        most: usize,
        room: &'a Room,
        times: &Times,
    ) -> Result<Read<'a>, Refusal> {
        let mut read = Read {
            bytes: Vec::new(),
            room,
            taken: 0,
        };
        match self {
            Self::Whole(bytes) if bytes.len() > most => return Err(Refusal::TooLarge(most)),
            Self::Whole(bytes) => read.push(bytes)?,
            Self::Incoming(body) => {
                if body.size_hint().lower() > most as u64 {
                    return Err(Refusal::TooLarge(most));
                }
                let start = Instant::now();
                while let Some(piece) = next_piece(body, start, times).await? {
                    if read.bytes.len() + piece.len() > most {
                        return Err(Refusal::TooLarge(most));
                    }
                    read.push(&piece)?;
                }
            }
        }
        Ok(read)
    }

    /// The next piece of the body, which somebody takes as it comes since `start`; none at the end.
    pub(super) async fn next_piece(
        &mut self,
        start: Instant,
        times: &Times,
    ) -> Result<Option<Bytes>, Refusal> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Ok(None),
            Self::Whole(bytes) => Ok(Some(std::mem::take(bytes).into())),
            Self::Incoming(body) => next_piece(body, start, times).await,
        }
    }

    /// Whether nothing more can come.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Incoming(body) => body.is_end_stream(),
        }
    }

    /// Throws away what is left of the body, so that whoever sends it is not cut off before they
    /// can read the answer. Gives up on what is too long or too slow.
    pub(super) async fn skip(mut self, times: &Times) {
        let Self::Incoming(body) = &mut self else {
            return;
        };
        let start = Instant::now();
        let mut left = UNWANTED;
        if body.size_hint().lower() > left as u64 {
            return;
        }
        let times = Times {
            body: times.unwanted,
            body_piece: times.unwanted_piece,
            ..*times
        };
        while let Ok(Some(piece)) = next_piece(body, start, &times).await {
            match left.checked_sub(piece.len()) {
                Some(less) => left = less,
                None => return,
            }
        }
    }
}

async fn next_piece(
    body: &mut Incoming,
    start: Instant,
    times: &Times,
) -> Result<Option<Bytes>, Refusal> {
    let late = async {
        Timer::after(times.body_piece).await;
        None
    };
    // The frame first: the timer costs nothing if something has come already.
    let frame = future::or(async { Some(body.frame().await) }, late).await;
    match frame {
        None => Err(Refusal::TooSlow),
        Some(_) if start.elapsed() > times.body => Err(Refusal::TooSlow),
        Some(None) => Ok(None),
        Some(Some(Err(_))) => Err(Refusal::BrokenOff),
        // A frame that is not data is trailers, which nobody asked for.
        Some(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
    }
}

/// The body of an answer.
pub(super) enum Answer {
    Whole(Bytes),
    Pieces {
        pieces: Pin<Box<dyn Stream<Item = Result<Vec<u8>, api::Error>> + Send>>,
        /// How many bytes are still to come, if that is known.
        left: Option<u64>,
    },
}

impl Answer {
    /// A file with something before and behind it.
    pub(super) fn framed(before: String, file: FileReader, behind: String) -> Self {
        let size = file.size();
        let left = Some(size + (before.len() + behind.len()) as u64);
        let before = stream::once(Ok(before.into_bytes()));
        let behind = stream::once(Ok(behind.into_bytes()));
        let content = file.pieces(0..size).map(|piece| Ok(piece?));
        Self::Pieces {
            pieces: Box::pin(before.chain(content).chain(behind)),
            left,
        }
    }

    /// A part of a file.
    pub(super) fn file(file: FileReader, part: Range<u64>) -> Self {
        let left = Some(part.end - part.start);
        let pieces = file.pieces(part).map(|piece| Ok(piece?));
        Self::Pieces {
            pieces: Box::pin(pieces),
            left,
        }
    }
}

impl From<Vec<u8>> for Answer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(bytes.into())
    }
}

impl From<Streamed> for Answer {
    fn from(streamed: Streamed) -> Self {
        Self::Pieces {
            pieces: streamed.into_inner(),
            left: None,
        }
    }
}

/// A streamed answer that ends before its end; the connection is closed, so that the client does
/// not take it for whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(super) struct Broken;

impl Body for Answer {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Pieces { pieces, left } => {
                let poll = catch_unwind(AssertUnwindSafe(|| pieces.as_mut().poll_next(cx)));
                match poll {
                    Ok(Poll::Pending) => Poll::Pending,
                    Ok(Poll::Ready(None)) => Poll::Ready(None),
                    Ok(Poll::Ready(Some(Ok(piece)))) => {
                        let length = piece.len() as u64;
                        *left = left.map(|left| left.saturating_sub(length));
                        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
                    }
                    Ok(Poll::Ready(Some(Err(error)))) => {
                        log::error!("an answer broke off: {error}");
                        Poll::Ready(Some(Err(Broken)))
                    }
                    // The panic hook has logged it.
                    Err(_) => Poll::Ready(Some(Err(Broken))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Pieces { left, .. } => *left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces { left, .. } => left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Room, Unread};
    use crate::http::{error::Refusal, limits::Times};

    #[test]
    fn bodies_share_a_room_and_give_it_back() {
        let room = Room::new(10);
        let times = Times::default();
        smol::block_on(async {
            let six = || Unread::Whole(vec![0; 6]);
            let first = six().read(100, &room, &times).await.unwrap();
            let second = six().read(100, &room, &times).await;
            assert!(matches!(second, Err(Refusal::NoRoom)));
            drop(first);
            let third = six().read(100, &room, &times).await.unwrap();
            assert_eq!(third.bytes().len(), 6);
        });
    }
}
