//! Media: pictures, voice messages, files.
//!
//! - Owns the tables `media`, `media_files`, `media_of_file`, `uploads`, `media_usage`,
//!   `cached_files`, `cached_files_lru`, `thumbnails`, `thumbnail_sources`, `quarantined_files`,
//!   `erased_uploaders`, `pending_deletion_files` and `pending_media`, and the directory `media` beside the database. Files that are the same are
//!   one file.
//! - [`Media`] is what handlers call: a [`FileWriter`] is written, and then stored under a media id. What
//!   it is goes with it in [`MediaInfo`].
//! - [`remove_redacted`] and [`remove_uploads_of`] run in the transactions of others.
//! - A file is in its place and durable before the database speaks of it, and nobody removes one
//!   meanwhile: both are done under the lock `ending`.
//! - Nothing here asks other servers; what they have is brought by `federation/`.

mod cache;
mod error;
mod files;
mod html_metadata;
mod pending;
mod picture;
mod removal;
mod rows;
#[cfg(test)]
mod tests;
mod thumbnails;

use std::{fmt, path::PathBuf, sync::Arc};

use rand::RngExt;
use ruma::{OwnedServerName, ServerName};
use smol::{channel, lock::Mutex};

pub use self::{
    error::Error,
    files::{FileReader, FileWriter, FinishedFile},
    html_metadata::{PageMetadata, parse as parse_html_metadata},
    picture::PictureInfo,
    removal::{
        MediaSelector, Usage, delete, quarantine, remove_redacted, remove_uploads_of, usage,
    },
    thumbnails::ThumbnailRequest,
};
use self::{files::Files, pending::Waiting};
use crate::{
    clock::Clock,
    config::{Config, Size},
    executor::Executor,
    pool::Pool,
    store::{self, Effect, Store, Tx, UserNum, records},
};

/// The length of a media id: it cannot be guessed.
const ID: usize = 24;
/// How long the media ids of other servers can be.
const LONGEST_ID: usize = 255;
/// How long the name of a file can be, and the name of its type, in bytes.
const LONGEST_NAME: usize = 1000;
const LONGEST_TYPE: usize = 255;

/// The media of this server. Clones are the same.
#[derive(Clone)]
pub struct Media(Arc<MediaInner>);

struct MediaInner {
    server_name: OwnedServerName,
    store: Store,
    clock: Clock,
    executor: Executor,
    files: Files,
    max_upload: Size,
    user_quota: Option<Size>,
    disk: Option<Size>,
    data_dir: PathBuf,
    pool: Pool,
    /// Held while a file comes to be, or ceases to.
    ending: Mutex<()>,
    waiting: Waiting,
    /// Held while a thumbnail is made.
    making: Mutex<()>,
    /// How many bytes making a picture smaller may take up.
    picture_memory: u64,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Media").finish_non_exhaustive()
    }
}

/// What is known of media beside their content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MediaInfo {
    /// What kind of content it is; empty if nobody said.
    pub content_type: String,
    /// The name of the file it was uploaded from.
    pub name: Option<String>,
}

impl MediaInfo {
    /// What an upload says of itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is no text for a header, or too long.
    pub fn new(content_type: Option<String>, name: Option<String>) -> Result<Self, Error> {
        let content_type = content_type.unwrap_or_default();
        let visible = |c: char| c == ' ' || c.is_ascii_graphic();
        if content_type.len() > LONGEST_TYPE || !content_type.chars().all(visible) {
            return Err(Error::Invalid("this is not a content type"));
        }
        if name.as_ref().is_some_and(|name| name.len() > LONGEST_NAME) {
            return Err(Error::Invalid("a file name has at most 1000 bytes"));
        }
        Ok(Self { content_type, name })
    }
}

impl MediaInfo {
    /// What another server says; what makes no sense of that is left out.
    pub fn from_remote(content_type: String, name: Option<String>) -> Self {
        Self::new(Some(content_type), name).unwrap_or_default()
    }
}

/// Media that are here.
#[derive(Clone, Debug)]
pub struct StoredMedia {
    /// What they are.
    pub about: MediaInfo,
    /// SHA-256 of the content.
    pub hash: [u8; 32],
    /// In bytes.
    pub size: u64,
}

impl Media {
    /// The media beside the database in `store`. Removes what a crash left half done.
    ///
    /// # Errors
    /// If the files or the tables cannot be read.
    pub async fn start(
        config: &Config,
        store: &Store,
        (clock, pool): (&Clock, &Pool),
        executor: &Executor,
    ) -> Result<Self, Error> {
        let directory = config.data_dir.join("media");
        let media = Self(Arc::new(MediaInner {
            server_name: config.server_name.clone(),
            store: store.clone(),
            clock: clock.clone(),
            executor: executor.clone(),
            files: Files::new(directory, pool.clone()),
            max_upload: config.max_upload,
            user_quota: config.user_quota,
            disk: config.disk,
            data_dir: config.data_dir.clone(),
            pool: pool.clone(),
            ending: Mutex::new(()),
            waiting: Waiting::default(),
            making: Mutex::new(()),
            picture_memory: config.memory.picture() as u64,
        }));
        for file in media.0.files.left_over().await? {
            if !store.read(|s| rows::is_known(s, file))? {
                media.0.files.remove(file).await?;
            }
        }
        media.apply(&Effect::MediaGone);
        Ok(media)
    }

    /// The largest file that is taken.
    pub fn max_upload(&self) -> Size {
        self.0.max_upload
    }

    /// Begins what `user` uploads, of so many bytes if that is known.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OverQuota`] or [`Error::Full`].
    pub async fn begin_upload(
        &self,
        user: UserNum,
        length: Option<u64>,
    ) -> Result<FileWriter, Error> {
        let MediaInner {
            store,
            max_upload,
            user_quota,
            ..
        } = &*self.0;
        let length = length.unwrap_or(0);
        if length > max_upload.bytes() {
            return Err(Error::TooLarge(*max_upload));
        }
        if let Some(quota) = *user_quota {
            let used = store.read(|s| rows::used(s, user))?;
            if used.saturating_add(length) > quota.bytes() {
                return Err(Error::OverQuota(quota));
            }
        }
        self.draft().await
    }

    /// Stores what `user` uploaded under a media id of its own, which is returned.
    ///
    /// # Errors
    /// [`Error::OverQuota`], or what the disk says.
    pub async fn store(
        &self,
        user: UserNum,
        about: MediaInfo,
        content: FinishedFile,
    ) -> Result<String, Error> {
        let id = new_id();
        self.end_upload(user, (id.clone(), about), content, |_, _| Ok(()))
            .await?;
        Ok(id)
    }

    /// Puts `content` in its place and tells the database that `user` uploaded it as `id`, in one
    /// transaction with `also`. It goes on if the one who asked has gone.
    async fn end_upload(
        &self,
        user: UserNum,
        (id, about): (String, MediaInfo),
        content: FinishedFile,
        also: impl Fn(&Tx, &str) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (file, size, quota) = (content.hash, content.size, self.0.user_quota);
        let media = records::Media {
            file,
            content_type: about.content_type,
            name: about.name,
            uploader: Some(user),
            created_ts: self.0.clock.now_ms(),
        };
        let job_id = id.clone();
        let job = move |tx: &Tx| {
            also(tx, &job_id)?;
            rows::put(tx, (rows::OWN, &job_id), &media, size, quota)
        };
        let this = self.clone();
        let (report, ended) = channel::bounded(1);
        let ending = self.0.executor.spawn(async move {
            let result = this.end(content, job).await;
            this.0.waiting.uploaded(&id);
            // Nobody may be waiting any more.
            let _ = report.try_send(result);
        });
        ending.detach();
        ended.recv().await.map_err(|_| store::Error::Closed)?
    }

    /// Puts `content` in its place and does `job`, which tells the database of it.
    async fn end(
        &self,
        content: FinishedFile,
        job: impl Fn(&Tx) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let MediaInner { store, files, .. } = &*self.0;
        let file = content.hash;
        let _ending = self.0.ending.lock().await;
        if store.read(|s| rows::is_known(s, file))? {
            return store.write(job).await;
        }
        let mut ended = files.keep(file, content).await;
        if ended.is_ok() {
            ended = store.write(job).await;
        }
        if ended.is_err() {
            files.remove(file).await?;
        }
        files.forget(file).await?;
        ended
    }

    /// The media `id` of this server.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::NotYetUploaded`].
    pub fn find_local(&self, id: &str) -> Result<StoredMedia, Error> {
        self.0.store.read(|s| match rows::get(s, (rows::OWN, id))? {
            Some(row) => Ok(StoredMedia::from(row)),
            None if pending::is_pending(s, id, self.0.clock.now_ms())? => {
                Err(Error::NotYetUploaded)
            }
            None => Err(Error::NotFound),
        })
    }

    /// Whether media of `server` are this server's own.
    pub fn is_local(&self, server: &ServerName) -> bool {
        *server == self.0.server_name
    }

    /// Opens what was found.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn open(&self, found: &StoredMedia) -> Result<FileReader, Error> {
        self.0.files.open(found.hash, found.size).await
    }
}

impl From<(records::Media, records::MediaFile)> for StoredMedia {
    fn from((media, file): (records::Media, records::MediaFile)) -> Self {
        Self {
            about: MediaInfo {
                content_type: media.content_type,
                name: media.name,
            },
            hash: media.file,
            size: file.size,
        }
    }
}

/// Whether `id` can be the id of media ([security considerations]).
///
/// [security considerations]: https://spec.matrix.org/v1.19/client-server-api/#content-repo-security-considerations
pub fn is_media_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    (1..=LONGEST_ID).contains(&id.len()) && id.bytes().all(allowed)
}

fn new_id() -> String {
    let letters = rand::rng().sample_iter(rand::distr::Alphanumeric);
    letters.take(ID).map(char::from).collect()
}
