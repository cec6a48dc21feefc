//! The tables of media: files, the media that have them, who uploaded them, the cache, thumbnails, and which
//! files are to be deleted.

use std::ops::Bound;

use ruma::ServerName;

use super::{error::Error, files::FileId};
use crate::{
    config::Size,
    store::{
        self, Effect, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{Media, MediaFile, Thumbnail},
    },
    users::accounts,
};

/// The server number of this server's media.
pub(super) const OWN: ServerNum = ServerNum::MIN;

/// The key of the size of the cache in `media_usage`.
pub(super) const CACHE: UserNum = UserNum::MIN;

/// A crop can have any shape.
const MAX_THUMBNAILS_PER_FILE: usize = 24;

/// Server number and media id.
pub(super) type Key<'a> = (ServerNum, &'a str);

/// The size of the uploads of `user`.
pub(super) fn used_bytes(reader: &impl Reader, user: UserNum) -> Result<u64, store::Error> {
    Ok(reader
        .media_usage()?
        .get(user)?
        .map_or(0, |row| row.value()))
}

/// Media and their file, to be served.
///
/// # Errors
/// [`Error::NotFound`] if the file is quarantined.
pub(super) fn get(reader: &impl Reader, key: Key<'_>) -> Result<Option<(Media, MediaFile)>, Error> {
    let row = load(reader, key)?;
    if let Some((media, _)) = &row
        && reader.quarantined_files()?.has(media.file)?
    {
        return Err(Error::NotFound);
    }
    Ok(row)
}

/// Media and their file, quarantined or not.
pub(super) fn load(
    reader: &impl Reader,
    key: Key<'_>,
) -> Result<Option<(Media, MediaFile)>, store::Error> {
    let Some(media) = reader.media()?.load(key)? else {
        return Ok(None);
    };
    let file = reader.media_files()?.load(media.file)?;
    let file = file.ok_or_else(|| {
        store::Error::corrupt("media_files", media.file, "missing, but in `media`")
    })?;
    Ok(Some((media, file)))
}

/// Stores media of this server. The file is in its place.
///
/// # Errors
/// [`Error::OverQuota`], [`Error::Quarantined`], or [`Error::Deactivated`] if the uploader has been
/// deactivated meanwhile.
pub(super) fn put(
    tx: &Tx,
    key: Key<'_>,
    media: &Media,
    size: u64,
    quota: Option<Size>,
) -> Result<(), Error> {
    if tx.quarantined_files()?.has(media.file)? {
        return Err(Error::Quarantined);
    }
    if let Some(user) = media.uploader {
        if accounts::is_deactivated(tx, user)? {
            return Err(Error::Deactivated);
        }
        let used = used_bytes(tx, user)? + size;
        if let Some(quota) = quota.filter(|quota| used > quota.bytes()) {
            return Err(Error::OverQuota(quota));
        }
        tx.media_usage()?.insert(user, used)?;
        tx.uploads()?.insert((user, key.1), ())?;
    }
    uncache(tx, media.file, size)?;
    tx.media()?.put(key, media)?;
    tx.media_files()?.put(media.file, &MediaFile { size })?;
    Ok(tx.media_of_file()?.insert((media.file, key.0, key.1), ())?)
}

/// At most `limit` files after `after`, in the order of their ids and with their sizes, that can be neither fetched nor
/// made again.
pub fn kept_files(
    r: &impl Reader,
    after: Option<FileId>,
    limit: usize,
) -> Result<Vec<(FileId, u64)>, store::Error> {
    let (files, cached) = (r.media_files()?, r.cached_files()?);
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut kept = Vec::new();
    for row in files.range((start, Bound::Unbounded))? {
        let (id, file) = row?;
        if !cached.has(id.value())? {
            kept.push((id.value(), file.record(&id)?.size));
        }
        if kept.len() >= limit {
            break;
        }
    }
    Ok(kept)
}

/// Removes at most `limit` files that can be fetched or made again; how many.
pub fn remove_cached(tx: &Tx, limit: usize) -> Result<usize, Error> {
    evict(tx, u64::MAX, limit, None)
}

/// Whether a row names the file.
pub fn is_known(reader: &impl Reader, file: FileId) -> Result<bool, store::Error> {
    reader.media_files()?.has(file)
}

/// The number of another server, if a row mentions it.
pub(super) fn server(
    reader: &impl Reader,
    name: &ServerName,
) -> Result<Option<ServerNum>, store::Error> {
    let nums = reader.server_nums()?;
    let num = nums.get(name.as_str())?;
    Ok(num.map(|num| num.value()))
}

/// Stores media of another server, or of a preview. The file is in its place.
///
/// # Errors
/// [`Error::NotFound`] if the file is quarantined.
pub(super) fn put_remote(tx: &Tx, key: Key<'_>, media: &Media, size: u64) -> Result<(), Error> {
    if tx.quarantined_files()?.has(media.file)? {
        return Err(Error::NotFound);
    }
    remove(tx, key)?;
    tx.media()?.put(key, media)?;
    tx.media_files()?.put(media.file, &MediaFile { size })?;
    tx.media_of_file()?.insert((media.file, key.0, key.1), ())?;
    if !is_uploaded(tx, media.file)? {
        cache(tx, media.file, size, media.created_ts)?;
    }
    Ok(())
}

/// Removes media; whether there were any. A file that no row names any more is to be deleted.
pub(super) fn remove(tx: &Tx, key: Key<'_>) -> Result<bool, store::Error> {
    let Some((media, MediaFile { size })) = load(tx, key)? else {
        return Ok(false);
    };
    tx.media()?.remove(key)?;
    tx.media_of_file()?.remove((media.file, key.0, key.1))?;
    if let Some(user) = media.uploader {
        let left = used_bytes(tx, user)?.saturating_sub(size);
        tx.media_usage()?.insert(user, left)?;
        tx.uploads()?.remove((user, key.1))?;
        tx.media_references()?.remove(key.1)?;
    }
    match media_of(tx, media.file)? {
        None => remove_file_row(tx, media.file, size)?,
        Some(_) if is_uploaded(tx, media.file)? => {}
        Some(_) => cache(tx, media.file, size, media.created_ts)?,
    }
    Ok(true)
}

/// Stores a thumbnail of the file `source`. Its file is in its place. If there are many, another is removed.
///
/// # Errors
/// [`Error::NotFound`] if `source` has been removed.
pub(super) fn put_thumbnail(
    tx: &Tx,
    source: FileId,
    variant: &str,
    thumbnail: &Thumbnail,
    size: u64,
    now: u64,
) -> Result<(), Error> {
    if !is_known(tx, source)? {
        return Err(Error::NotFound);
    }
    let file = thumbnail.file;
    if thumbnails(tx, source)? >= MAX_THUMBNAILS_PER_FILE
        && let Some((other, _)) = self::thumbnail(tx, source)?
    {
        remove_file(tx, other)?;
        tx.effect(Effect::MediaGone);
    }
    tx.thumbnails()?.put((source, variant), thumbnail)?;
    tx.thumbnail_sources()?.insert(file, (source, variant))?;
    tx.media_files()?.put(file, &MediaFile { size })?;
    Ok(cache(tx, file, size, now)?)
}

/// Removes a file with all rows that name it; whether there was one.
pub(super) fn remove_file(tx: &Tx, file: FileId) -> Result<bool, store::Error> {
    let Some(MediaFile { size }) = tx.media_files()?.load(file)? else {
        return Ok(false);
    };
    while let Some((server, id)) = media_of(tx, file)? {
        remove(tx, (server, &id))?;
    }
    // The row of a file is removed with its last media. A thumbnail has no media.
    if is_known(tx, file)? {
        remove_file_row(tx, file, size)?;
    }
    Ok(true)
}

/// Removes the row of a file that no media have any more, and its thumbnails. The files are to be deleted.
fn remove_file_row(tx: &Tx, file: FileId, size: u64) -> Result<(), store::Error> {
    uncache(tx, file, size)?;
    tx.media_files()?.remove(file)?;
    tx.protected_files()?.remove(file)?;
    tx.pending_deletion_files()?.insert(file, ())?;
    let of = tx.thumbnail_sources()?.get(file)?.map(|of| {
        let (source, variant) = of.value();
        (source, variant.to_owned())
    });
    if let Some((source, variant)) = of {
        tx.thumbnails()?.remove((source, &*variant))?;
        tx.thumbnail_sources()?.remove(file)?;
    }
    while let Some((thumbnail, size)) = thumbnail(tx, file)? {
        remove_file_row(tx, thumbnail, size)?;
    }
    Ok(())
}

fn thumbnails(reader: &impl Reader, source: FileId) -> Result<usize, store::Error> {
    Ok(reader.thumbnails()?.prefix(source)?.count())
}

/// One thumbnail of a file, and its size.
fn thumbnail(reader: &impl Reader, source: FileId) -> Result<Option<(FileId, u64)>, store::Error> {
    let table = reader.thumbnails()?;
    let Some(row) = table.prefix(source)?.next().transpose()? else {
        return Ok(None);
    };
    let file = row.1.record(&row.0)?.file;
    let size = reader
        .media_files()?
        .load(file)?
        .map_or(0, |file| file.size);
    Ok(Some((file, size)))
}

/// Whether a local user uploaded the file, so that it cannot be fetched again.
fn is_uploaded(reader: &impl Reader, file: FileId) -> Result<bool, store::Error> {
    let (all, media) = (reader.media_of_file()?, reader.media()?);
    for row in all.prefix((file, OWN))? {
        let row = row?.0;
        let (_, server, id) = row.value();
        if media
            .load((server, id))?
            .is_some_and(|it| it.uploader.is_some())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One of the media that have the file.
fn media_of(
    reader: &impl Reader,
    file: FileId,
) -> Result<Option<(ServerNum, String)>, store::Error> {
    let table = reader.media_of_file()?;
    let row = table.prefix(file)?.next().transpose()?;
    Ok(row.map(|(key, _)| {
        let (_, server, id) = key.value();
        (server, id.to_owned())
    }))
}

/// Keeps a file.
///
/// # Errors
/// [`Error::NotFound`] if there is no such file.
pub(super) fn protect(tx: &Tx, file: FileId) -> Result<(), Error> {
    let MediaFile { size } = tx.media_files()?.load(file)?.ok_or(Error::NotFound)?;
    uncache(tx, file, size)?;
    Ok(tx.protected_files()?.insert(file, ())?)
}

/// # Errors
/// [`Error::NotFound`] if the file is not protected.
pub(super) fn unprotect(tx: &Tx, file: FileId, now: u64) -> Result<(), Error> {
    if !tx.protected_files()?.remove(file)? {
        return Err(Error::NotFound);
    }
    if let Some(MediaFile { size }) = tx.media_files()?.load(file)?
        && !is_uploaded(tx, file)?
    {
        cache(tx, file, size, now)?;
    }
    Ok(())
}

/// Adds the file to the cache, unless it is protected.
fn cache(tx: &Tx, file: FileId, size: u64, now: u64) -> Result<(), store::Error> {
    if tx.protected_files()?.has(file)? {
        return Ok(());
    }
    if tx.cached_files()?.has(file)? {
        return touch(tx, file, now);
    }
    tx.cached_files()?.insert(file, now)?;
    tx.cached_files_lru()?.insert((now, file), ())?;
    let cached = used_bytes(tx, CACHE)? + size;
    tx.media_usage()?.insert(CACHE, cached)
}

/// Removes the file from the cache, if it is in it, since it must not be evicted.
fn uncache(tx: &Tx, file: FileId, size: u64) -> Result<(), store::Error> {
    let since = tx.cached_files()?.get(file)?.map(|row| row.value());
    let Some(since) = since else {
        return Ok(());
    };
    tx.cached_files()?.remove(file)?;
    tx.cached_files_lru()?.remove((since, file))?;
    let cached = used_bytes(tx, CACHE)?.saturating_sub(size);
    tx.media_usage()?.insert(CACHE, cached)
}

/// Updates the time of last use of a file in the cache.
pub(super) fn touch(tx: &Tx, file: FileId, now: u64) -> Result<(), store::Error> {
    let since = tx.cached_files()?.get(file)?.map(|row| row.value());
    if let Some(since) = since {
        tx.cached_files_lru()?.remove((since, file))?;
        tx.cached_files_lru()?.insert((now, file), ())?;
        tx.cached_files()?.insert(file, now)?;
    }
    Ok(())
}

/// Removes the least recently used files of the cache, except `keep`, until `excess` bytes are removed, at most
/// `limit` of them; how many.
pub(super) fn evict(
    tx: &Tx,
    excess: u64,
    limit: usize,
    keep: Option<FileId>,
) -> Result<usize, Error> {
    let (mut gone, mut count) = (0, 0);
    while gone < excess && count < limit {
        let Some(file) = least_recently_used(tx, keep)? else {
            break;
        };
        gone += tx.media_files()?.load(file)?.map_or(0, |file| file.size);
        remove_file(tx, file)?;
        count += 1;
    }
    Ok(count)
}

fn least_recently_used(
    reader: &impl Reader,
    keep: Option<FileId>,
) -> Result<Option<FileId>, store::Error> {
    for row in reader.cached_files_lru()?.all()? {
        let (_, file) = row?.0.value();
        if Some(file) != keep {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// In bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiskUsage {
    pub(super) uploads: u64,
    pub(super) cached: u64,
}

pub(super) fn disk_usage(reader: &impl Reader) -> Result<DiskUsage, store::Error> {
    let (mut uploads, mut cached) = (0, 0);
    for row in reader.media_usage()?.all()? {
        let (user, bytes) = row?;
        match user.value() {
            CACHE => cached = bytes.value(),
            _ => uploads += bytes.value(),
        }
    }
    Ok(DiskUsage { uploads, cached })
}

/// A file that is to be deleted.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingDeletion {
    pub(super) id: FileId,
    /// Whether it has been stored again since.
    pub(super) is_in_use: bool,
}

pub(super) fn pending_deletion(
    reader: &impl Reader,
    limit: usize,
) -> Result<Vec<PendingDeletion>, store::Error> {
    let table = reader.pending_deletion_files()?;
    let rows = table.all()?.take(limit);
    rows.map(|row| {
        let id = row?.0.value();
        Ok(PendingDeletion {
            id,
            is_in_use: is_known(reader, id)?,
        })
    })
    .collect()
}
