//! Media.

use serde::{Deserialize, Serialize};

use super::{Record, record};
use crate::store::ids::UserNum;

record! {
    Media {
        /// The id of the file with the content.
        file: [u8; 32],
        /// As the uploader sent it; empty if unknown.
        content_type: String,
        /// The file name.
        name: Option<String>,
        /// A local user; `None` if it can be fetched again.
        uploader: Option<UserNum>,
        /// In milliseconds since the epoch.
        created_ts: u64,
    }
}

record! {
    Thumbnail {
        /// The id of the file with the content.
        file: [u8; 32],
        content_type: String,
    }
}

record! {
    MediaFile {
        /// In bytes.
        size: u64,
    }
}
