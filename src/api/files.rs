//! Files that come and go, never whole in memory.

use std::{fmt, pin::Pin};

use hyper::body::Bytes;
use ruma::http_headers::ContentDisposition;
use smol::stream::{Stream, StreamExt};

use super::Error;
use crate::media::FileReader;

/// A file that a client sends: its pieces are taken as they come, and no faster.
pub struct Upload {
    length: Option<u64>,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

impl Upload {
    /// The pieces as they come, and how many bytes they are in all if that is known.
    pub fn new(
        length: Option<u64>,
        pieces: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Self {
        Self {
            length,
            pieces: Box::pin(pieces),
        }
    }

    /// How many bytes come, if the client said so.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// If the client takes too long or breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.pieces.next().await.transpose()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// A file that a client or another server gets.
#[derive(Clone, Debug)]
pub struct Download {
    /// What is in it.
    pub file: FileReader,
    /// What kind of content that is.
    pub content_type: String,
    /// Whether it is to be shown or saved, and under what name.
    pub disposition: ContentDisposition,
    /// Differs where the content does.
    pub tag: String,
}

/// A [`Download`] for another server, sent as `multipart/mixed` (server-server API, "Content
/// Repository").
#[derive(Clone, Debug)]
pub struct Multipart(pub Download);
