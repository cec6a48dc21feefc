//! Asynchronous uploads: media ids that are created before their content (client-server API,
//! `POST /_matrix/media/v1/create`).

use std::time::Duration;

use super::{
    error::Error,
    files::FinishedFile,
    rows,
    service::{Media, MediaInfo, new_media_id},
};
use crate::store::{self, Reader, Rows, Tx, UserNum};

/// As the specification recommends.
const LIFETIME: Duration = Duration::from_hours(24);
const MAX_PENDING_PER_USER: usize = 50;

/// Whether `id` was created and can still be uploaded to.
pub(super) fn is_pending(r: &impl Reader, id: &str, now_ms: u64) -> Result<bool, store::Error> {
    let row = r.pending_media()?.get(id)?.map(|row| row.value());
    Ok(row.is_some_and(|(_, expires_ts)| now_ms < expires_ts))
}

/// Reads the whole table, which has the ids of one day.
fn create(tx: &Tx, id: &str, user: UserNum, now: u64, expires_ts: u64) -> Result<(), Error> {
    let mut pending = tx.pending_media()?;
    let mut expired = Vec::new();
    pending.remove_in::<&str>(.., |id, (_, expires_ts)| {
        let is_expired = expires_ts <= now;
        if is_expired {
            expired.push(id.to_owned());
        }
        is_expired
    })?;
    for id in expired {
        tx.media_references()?.remove(&*id)?;
    }
    let mut own = 0;
    for row in pending.all()? {
        own += usize::from(row?.1.value().0 == user);
    }
    if own >= MAX_PENDING_PER_USER {
        return Err(Error::TooManyPending);
    }
    Ok(pending.insert(id, (user, expires_ts))?)
}

/// Checks that `user` may upload to `id`.
fn check(r: &impl Reader, id: &str, user: UserNum, now_ms: u64) -> Result<(), Error> {
    if r.media()?.has((rows::OWN, id))? {
        return Err(Error::CannotOverwrite);
    }
    let row = r.pending_media()?.get(id)?.map(|row| row.value());
    match row {
        Some((owner, _)) if owner != user => Err(Error::NotYours),
        Some((_, expires_ts)) if now_ms < expires_ts => Ok(()),
        _ => Err(Error::NotFound),
    }
}

impl Media {
    /// Creates a media id; returns it and when it expires, in milliseconds since the epoch.
    ///
    /// # Errors
    /// [`Error::TooManyPending`].
    pub async fn create(&self, user: UserNum) -> Result<(String, u64), Error> {
        let id = new_media_id();
        let now = self.0.clock.now_ms();
        let expires_ts = now + LIFETIME.as_millis() as u64;
        let job_id = id.clone();
        let job = move |tx: &Tx| create(tx, &job_id, user, now, expires_ts);
        self.0.store.write(job).await?;
        Ok((id, expires_ts))
    }

    /// Checks that `user` may upload to `id`, which [`create`](Self::create) returned.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotYours`] or [`Error::CannotOverwrite`].
    pub fn check_pending_upload(&self, user: UserNum, id: &str) -> Result<(), Error> {
        let now = self.0.clock.now_ms();
        self.0.store.read(|s| check(s, id, user, now))
    }

    /// Stores the content of `id`.
    ///
    /// # Errors
    /// Those of [`check_pending_upload`](Self::check_pending_upload) and [`store`](Self::store).
    pub async fn store_pending(
        &self,
        user: UserNum,
        id: &str,
        info: MediaInfo,
        content: FinishedFile,
    ) -> Result<(), Error> {
        let now = self.0.clock.now_ms();
        let also = move |tx: &Tx, id: &str| {
            check(tx, id, user, now)?;
            tx.pending_media()?.remove(id)?;
            Ok(())
        };
        self.commit_upload(user, id.to_owned(), info, content, also)
            .await
    }

    /// Waits until the content of `id` is uploaded.
    pub async fn wait_for_upload(&self, id: &str) {
        self.0.upload_waiters.wait(id).await;
    }
}
