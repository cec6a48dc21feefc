//! Finding and reading media.

use ruma::ServerName;

use super::{
    error::Error,
    files::FileReader,
    pending, rows,
    service::{Media, StoredMedia},
};
use crate::store::{Reader, Rows};

impl Media {
    /// The media `id` of this server.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::NotYetUploaded`].
    pub fn find_local(&self, id: &str) -> Result<StoredMedia, Error> {
        let now = self.0.clock.now_ms();
        self.0.store.read(|s| match rows::get(s, (rows::OWN, id))? {
            Some(row) => Ok(StoredMedia::from(row)),
            None if pending::is_pending(s, id, now)? => Err(Error::NotYetUploaded),
            None => Err(Error::NotFound),
        })
    }

    /// The media `id` of another server, if it is cached.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is quarantined.
    pub fn find_remote(&self, server: &ServerName, id: &str) -> Result<Option<StoredMedia>, Error> {
        let now = self.0.clock.now_ms();
        let found = self.0.store.read(|s| {
            let Some(server) = rows::server(s, server)? else {
                return Ok(None);
            };
            let Some(row) = rows::get(s, (server, id))? else {
                return Ok(None);
            };
            let last_used = s.cached_files()?.get(row.0.file)?.map(|row| row.value());
            Ok::<_, Error>(Some((StoredMedia::from(row), last_used)))
        })?;
        let Some((media, last_used)) = found else {
            return Ok(None);
        };
        self.touch(media.hash, last_used, now);
        Ok(Some(media))
    }

    pub async fn open(&self, media: &StoredMedia) -> Result<FileReader, Error> {
        self.0.files.open(media.hash, media.size).await
    }
}
