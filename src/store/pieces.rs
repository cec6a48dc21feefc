//! Responses that are read in pieces, each when the one before has been sent.

use smol::stream::{self, Stream, StreamExt};

use super::{Snapshot, Store};
use crate::pool;

/// A piece ends with what makes it larger.
pub const PIECE_BYTES: usize = 64 * 1024;

/// What has not been read yet of a response.
pub trait Pieces: Send + 'static {
    type Error: From<pool::Error> + Send + 'static;
    /// For the log.
    const NAME: &'static str;

    fn is_complete(&self) -> bool;

    fn next_piece(&mut self, s: &Snapshot) -> Result<Vec<u8>, Self::Error>;
}

impl Store {
    /// Reads the next piece on the pool.
    pub async fn scan_piece<P: Pieces>(&self, mut pieces: P) -> Result<(Vec<u8>, P), P::Error> {
        let read = move |s: &_| Ok((pieces.next_piece(s)?, pieces));
        self.scan(P::NAME, read).await
    }

    /// All pieces. The first is read before this returns: if the pool is full, the response has not begun
    /// and can be an error.
    pub async fn scan_pieces<P: Pieces>(
        &self,
        pieces: P,
    ) -> Result<impl Stream<Item = Result<Vec<u8>, P::Error>> + Send + use<P>, P::Error> {
        let (first, rest) = self.scan_piece(pieces).await?;
        Ok(self.continue_pieces(first, rest))
    }

    /// `first`, and the pieces after it. However full the pool is, it does not break them off: a connection
    /// waits for one piece at a time.
    pub fn continue_pieces<P: Pieces>(
        &self,
        first: Vec<u8>,
        rest: P,
    ) -> impl Stream<Item = Result<Vec<u8>, P::Error>> + Send + use<P> {
        let start = (rest, self.clone());
        let rest = stream::try_unfold(start, async |(mut pieces, store)| {
            if pieces.is_complete() {
                return Ok(None);
            }
            let read = move |s: &_| Ok::<_, P::Error>((pieces.next_piece(s)?, pieces));
            let (piece, pieces) = store.scan_in_background(P::NAME, read).await?;
            Ok(Some((piece, (pieces, store))))
        });
        stream::once(Ok(first)).chain(rest)
    }
}
