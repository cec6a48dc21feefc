//! Media ids that were given out before there is anything under them (client-server API,
//! `POST /_matrix/media/v1/create`).

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use smol::channel::{self, Receiver, Sender};

use super::{Error, FinishedFile, Media, MediaInfo, new_id, rows};
use crate::store::{self, Reader, Rows, Tx, UserNum};

/// How long something may be uploaded to a media id: what the specification recommends.
const LIFETIME: Duration = Duration::from_hours(24);
/// How many media ids of one user may wait for an upload.
const MOST: usize = 50;

/// Who waits for an upload, by the media id. The channel closes when it is there.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<String, Line>>);

type Line = (Sender<Infallible>, Receiver<Infallible>);

impl Waiting {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `id` is uploaded.
    async fn wait(&self, id: &str) {
        let (_, uploaded) = self
            .all()
            .entry(id.to_owned())
            .or_insert_with(|| channel::bounded(1))
            .clone();
        let leaving = Leaving(self, id);
        let _ = uploaded.recv().await;
        drop(leaving);
    }

    /// Tells those who wait for `id` that it is there.
    pub(super) fn uploaded(&self, id: &str) {
        if let Some((sender, _)) = self.all().remove(id) {
            sender.close();
        }
    }
}

/// The last one who stops waiting takes the entry away.
struct Leaving<'a>(&'a Waiting, &'a str);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let mut all = self.0.all();
        // The entry holds one itself, and the one who leaves another.
        if all
            .get(self.1)
            .is_some_and(|(_, waiting)| waiting.receiver_count() <= 2)
        {
            all.remove(self.1);
        }
    }
}

/// Whether `id` was given out and may still be uploaded to.
pub(super) fn is_pending(r: &impl Reader, id: &str, now_ms: u64) -> Result<bool, store::Error> {
    let row = r.pending_media()?.get(id)?.map(|row| row.value());
    Ok(row.is_some_and(|(_, until_ts)| now_ms < until_ts))
}

fn add(tx: &Tx, id: &str, user: UserNum, (now, until): (u64, u64)) -> Result<(), Error> {
    let mut pending = tx.pending_media()?;
    // The table holds a day's worth of ids at most, and so many a user.
    pending.remove_in::<&str>(.., |_, (_, until_ts)| until_ts <= now)?;
    let mut own = 0;
    for row in pending.range::<&str>(..)? {
        own += usize::from(row?.1.value().0 == user);
    }
    if own >= MOST {
        return Err(Error::TooManyPending);
    }
    Ok(pending.insert(id, (user, until))?)
}

/// Whether `user` may upload to `id` now.
fn check(r: &impl Reader, id: &str, user: UserNum, now_ms: u64) -> Result<(), Error> {
    if r.media()?.has((rows::OWN, id))? {
        return Err(Error::CannotOverwrite);
    }
    let row = r.pending_media()?.get(id)?.map(|row| row.value());
    match row {
        Some((owner, _)) if owner != user => Err(Error::NotYours),
        Some((_, until_ts)) if now_ms < until_ts => Ok(()),
        _ => Err(Error::NotFound),
    }
}

impl Media {
    /// A media id to which `user` may upload something later, and until when, in milliseconds since
    /// the epoch.
    ///
    /// # Errors
    /// [`Error::TooManyPending`].
    pub async fn create(&self, user: UserNum) -> Result<(String, u64), Error> {
        let id = new_id();
        let now = self.0.clock.now_ms();
        let until = now + LIFETIME.as_millis() as u64;
        let given = id.clone();
        let job = move |tx: &Tx| add(tx, &given, user, (now, until));
        self.0.store.write(job).await?;
        Ok((id, until))
    }

    /// Whether `user` may upload something to the media id `id`, which [`create`](Self::create)
    /// gave.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotYours`] or [`Error::CannotOverwrite`].
    pub fn check_pending_upload(&self, user: UserNum, id: &str) -> Result<(), Error> {
        let now = self.0.clock.now_ms();
        self.0.store.read(|s| check(s, id, user, now))
    }

    /// Stores what `user` uploaded to the media id `id`.
    ///
    /// # Errors
    /// As [`check_pending_upload`](Self::check_pending_upload) and [`store`](Self::store).
    pub async fn store_pending(
        &self,
        user: UserNum,
        (id, about): (&str, MediaInfo),
        content: FinishedFile,
    ) -> Result<(), Error> {
        let now = self.0.clock.now_ms();
        let also = move |tx: &Tx, id: &str| {
            check(tx, id, user, now)?;
            tx.pending_media()?.remove(id)?;
            Ok(())
        };
        self.end_upload(user, (id.to_owned(), about), content, also)
            .await
    }

    /// Waits until something is uploaded to the media id `id`.
    pub async fn wait_for_upload(&self, id: &str) {
        self.0.waiting.wait(id).await;
    }
}
