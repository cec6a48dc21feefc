//! The service that handlers call; each subject adds its methods to it.

use std::{fmt, path::PathBuf, sync::Arc};

use rand::RngExt;
use ruma::{OwnedServerName, ServerName};
use smol::lock::Mutex;

use super::{
    error::Error,
    files::{self, Files, FinishedFile},
    rows,
    upload_waiters::UploadWaiters,
};
use crate::{
    clock::Clock,
    config::{Config, Size},
    executor::Executor,
    pool::Pool,
    store::{Store, Tx, records},
};

/// Of media ids that are made here: they cannot be guessed.
const MEDIA_ID_CHARS: usize = 24;
const MAX_MEDIA_ID_BYTES: usize = 255;
const MAX_FILE_NAME_BYTES: usize = 1000;
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The media of this server. Clones are the same.
#[derive(Clone)]
pub struct Media(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) server_name: OwnedServerName,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) executor: Executor,
    pub(super) files: Files,
    pub(super) max_upload: Size,
    pub(super) user_quota: Option<Size>,
    pub(super) disk: Option<Size>,
    pub(super) cache_leaves_disk_free: bool,
    pub(super) data_dir: PathBuf,
    pub(super) pool: Pool,
    /// Held while a file is added or removed.
    pub(super) commit_lock: Mutex<()>,
    pub(super) upload_waiters: UploadWaiters,
    /// Held while a thumbnail is made: one at a time bounds the memory.
    pub(super) thumbnail_lock: Mutex<()>,
    /// What decoding a picture may take.
    pub(super) max_picture_bytes: u64,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media").finish_non_exhaustive()
    }
}

/// What is known of media beside the content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaInfo {
    /// Empty if unknown.
    pub content_type: String,
    /// The file name.
    pub name: Option<String>,
}

impl MediaInfo {
    /// # Errors
    /// [`Error::Invalid`].
    pub fn new(content_type: Option<String>, name: Option<String>) -> Result<Self, Error> {
        let content_type = content_type.unwrap_or_default();
        let is_visible = |c: char| c == ' ' || c.is_ascii_graphic();
        if content_type.len() > MAX_CONTENT_TYPE_BYTES || !content_type.chars().all(is_visible) {
            return Err(Error::Invalid(
                "a content type has at most 255 bytes, all of them visible ASCII characters",
            ));
        }
        if name
            .as_ref()
            .is_some_and(|name| name.len() > MAX_FILE_NAME_BYTES)
        {
            return Err(Error::Invalid("a file name has at most 1000 bytes"));
        }
        Ok(Self { content_type, name })
    }

    /// As another server sends it; empty if it is invalid.
    pub fn from_remote(content_type: String, name: Option<String>) -> Self {
        Self::new(Some(content_type), name).unwrap_or_default()
    }
}

/// Media whose file is stored.
#[derive(Clone, Debug)]
pub struct StoredMedia {
    pub info: MediaInfo,
    /// SHA-256 of the content.
    pub hash: [u8; 32],
    /// In bytes.
    pub size: u64,
    /// When it was stored here, in milliseconds since the epoch.
    pub created_ts: u64,
}

impl From<(records::Media, records::MediaFile)> for StoredMedia {
    fn from((media, file): (records::Media, records::MediaFile)) -> Self {
        Self {
            info: MediaInfo {
                content_type: media.content_type,
                name: media.name,
            },
            hash: media.file,
            size: file.size,
            created_ts: media.created_ts,
        }
    }
}

impl Media {
    pub(super) fn new(
        config: &Config,
        store: &Store,
        clock: &Clock,
        pool: &Pool,
        executor: &Executor,
    ) -> Self {
        let directory = config.data_dir.join(files::DIRECTORY);
        Self(Arc::new(Inner {
            server_name: config.server_name.clone(),
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            files: Files::new(directory, pool.clone()),
            max_upload: config.max_upload,
            user_quota: config.user_quota,
            disk: config.disk,
            cache_leaves_disk_free: config.cache_leaves_disk_free,
            data_dir: config.data_dir.clone(),
            pool: pool.clone(),
            commit_lock: Mutex::new(()),
            upload_waiters: UploadWaiters::default(),
            thumbnail_lock: Mutex::new(()),
            max_picture_bytes: config.memory.picture() as u64,
        }))
    }

    /// The size of the largest file that is accepted.
    pub fn max_upload(&self) -> Size {
        self.0.max_upload
    }

    /// Whether `server` is this server.
    pub fn is_local(&self, server: &ServerName) -> bool {
        *server == self.0.server_name
    }

    /// Puts `content` in its place and runs `job`, which stores the rows that name it.
    pub(super) async fn commit(
        &self,
        content: FinishedFile,
        job: impl Fn(&Tx) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let Inner { store, files, .. } = &*self.0;
        let file = content.hash;
        let _lock = self.0.commit_lock.lock().await;
        if store.read(|s| rows::is_known(s, file))? {
            return store.write(job).await;
        }
        let mut result = files.put(file, content).await;
        if result.is_ok() {
            result = store.write(job).await;
        }
        if result.is_err() {
            files.remove(file).await?;
        }
        files.remove_intent(file).await?;
        result
    }
}

/// Whether `id` is a valid media id ([security considerations]).
///
/// [security considerations]: https://spec.matrix.org/v1.19/client-server-api/#content-repo-security-considerations
pub fn is_media_id(id: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=MAX_MEDIA_ID_BYTES).contains(&id.len()) && id.bytes().all(is_allowed)
}

pub(super) fn new_media_id() -> String {
    let chars = rand::rng().sample_iter(rand::distr::Alphanumeric);
    chars.take(MEDIA_ID_CHARS).map(char::from).collect()
}
