//! The rows: what each file is, to whom it belongs, and when nothing speaks of it any more.

use super::{Error, files::FileId};
use crate::{
    config::Size,
    store::{
        self, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{Media, MediaFile},
    },
};

/// This server among the servers that media are of.
pub(super) const OWN: ServerNum = ServerNum::MIN;

/// Which media.
pub(super) type Key<'a> = (ServerNum, &'a str);

/// How many bytes `user` uploaded.
pub(super) fn used(reader: &impl Reader, user: UserNum) -> Result<u64, store::Error> {
    Ok(reader
        .media_space()?
        .get(user)?
        .map_or(0, |row| row.value()))
}

/// Media and the size of its file.
pub(super) fn get(
    reader: &impl Reader,
    key: Key<'_>,
) -> Result<Option<(Media, MediaFile)>, store::Error> {
    let Some(media) = reader.media()?.load(key)? else {
        return Ok(None);
    };
    let file = reader.media_files()?.load(media.file)?;
    let file = file.ok_or(store::Error::Corrupt("media without its file"))?;
    Ok(Some((media, file)))
}

/// Stores media whose file is in its place.
///
/// # Errors
/// [`Error::OverQuota`] if its uploader has more than `quota` then.
pub(super) fn put(
    tx: &Tx,
    key: Key<'_>,
    media: &Media,
    size: u64,
    quota: Option<Size>,
) -> Result<(), Error> {
    if let Some(user) = media.uploader {
        let used = used(tx, user)? + size;
        if let Some(quota) = quota.filter(|quota| used > quota.bytes()) {
            return Err(Error::OverQuota(quota));
        }
        tx.media_space()?.insert(user, used)?;
        tx.uploads()?.insert((user, key.1), ())?;
    }
    tx.media()?.put(key, media)?;
    tx.media_files()?.put(media.file, &MediaFile { size })?;
    Ok(tx.media_of_file()?.insert((media.file, key.0, key.1), ())?)
}

/// Whether a row speaks of the file.
pub(super) fn is_known(reader: &impl Reader, file: FileId) -> Result<bool, store::Error> {
    reader.media_files()?.has(file)
}
