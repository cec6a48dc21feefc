//! Uploads of local users.

use super::{
    error::Error,
    files::{FileWriter, FinishedFile},
    rows,
    service::{Inner, Media, MediaInfo, new_media_id},
};
use crate::store::{self, Tx, UserNum, records};

impl Media {
    /// Begins an upload of `user`, of `length` bytes if that is known.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::OverQuota`] or [`Error::Full`].
    pub async fn begin_upload(
        &self,
        user: UserNum,
        length: Option<u64>,
    ) -> Result<FileWriter, Error> {
        let Inner {
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
            let used = store.read(|s| rows::used_bytes(s, user))?;
            if used.saturating_add(length) > quota.bytes() {
                return Err(Error::OverQuota(quota));
            }
        }
        self.create_file().await
    }

    /// Stores an upload of `user` and returns its media id.
    ///
    /// # Errors
    /// [`Error::OverQuota`], [`Error::Quarantined`] or [`Error::Deactivated`].
    pub async fn store(
        &self,
        user: UserNum,
        info: MediaInfo,
        content: FinishedFile,
    ) -> Result<String, Error> {
        let id = new_media_id();
        self.commit_upload(user, id.clone(), info, content, |_, _| Ok(()))
            .await?;
        Ok(id)
    }

    /// Stores an upload as `id`, in one transaction with `also`. Goes on if the request is cancelled.
    pub(super) async fn commit_upload(
        &self,
        user: UserNum,
        id: String,
        info: MediaInfo,
        content: FinishedFile,
        also: impl Fn(&Tx, &str) -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (file, size, quota) = (content.hash, content.size, self.0.user_quota);
        let media = records::Media {
            file,
            content_type: info.content_type,
            name: info.name,
            uploader: Some(user),
            created_ts: self.0.clock.now_ms(),
        };
        let job_id = id.clone();
        let job = move |tx: &Tx| {
            also(tx, &job_id)?;
            rows::put(tx, (rows::OWN, &job_id), &media, size, quota)
        };
        let this = self.clone();
        let committed = self.0.executor.spawn_and_wait(async move {
            let result = this.commit(content, job).await;
            this.0.upload_waiters.uploaded(&id);
            result
        });
        committed.await.ok_or(store::Error::Closed)?
    }
}
