//! The rows: what each file is, to whom it belongs, and when nothing speaks of it any more.

use ruma::ServerName;

use super::{Error, files::FileId};
use crate::{
    config::Size,
    store::{
        self, Effect, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{Media, MediaFile, Thumbnail},
    },
    users::accounts,
};

/// This server among the servers that media are of.
pub(super) const OWN: ServerNum = ServerNum::MIN;

/// What can be had again, among those whose bytes are counted.
pub(super) const CACHE: UserNum = UserNum::MIN;

/// How many thumbnails are kept of one picture: a crop can have any shape.
const THUMBNAILS: usize = 24;

/// Which media.
pub(super) type Key<'a> = (ServerNum, &'a str);

/// How many bytes `user` uploaded.
pub(super) fn used(reader: &impl Reader, user: UserNum) -> Result<u64, store::Error> {
    Ok(reader
        .media_usage()?
        .get(user)?
        .map_or(0, |row| row.value()))
}

/// Media and their file.
///
/// # Errors
/// [`Error::NotFound`] if they are here and kept from everybody.
pub(super) fn get(reader: &impl Reader, key: Key<'_>) -> Result<Option<(Media, MediaFile)>, Error> {
    let row = load(reader, key)?;
    if let Some((media, _)) = &row
        && reader.quarantined_files()?.has(media.file)?
    {
        return Err(Error::NotFound);
    }
    Ok(row)
}

/// Media and their file.
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

/// Stores media whose file is in its place.
///
/// # Errors
/// [`Error::OverQuota`] if its uploader has more than `quota` then, [`Error::Deactivated`] if they have
/// left meanwhile.
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
        let used = used(tx, user)? + size;
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

/// Whether a row speaks of the file.
pub(super) fn is_known(reader: &impl Reader, file: FileId) -> Result<bool, store::Error> {
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

/// Stores media of another server, or from the web, whose file is in its place.
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

/// Removes media; whether there were any. A file of which nothing else speaks is doomed.
pub(super) fn remove(tx: &Tx, key: Key<'_>) -> Result<bool, store::Error> {
    let Some((media, MediaFile { size })) = load(tx, key)? else {
        return Ok(false);
    };
    tx.media()?.remove(key)?;
    tx.media_of_file()?.remove((media.file, key.0, key.1))?;
    if let Some(user) = media.uploader {
        let left = used(tx, user)?.saturating_sub(size);
        tx.media_usage()?.insert(user, left)?;
        tx.uploads()?.remove((user, key.1))?;
    }
    match holder(tx, media.file)? {
        None => forget(tx, media.file, size)?,
        Some(_) if is_uploaded(tx, media.file)? => {}
        Some(_) => cache(tx, media.file, size, media.created_ts)?,
    }
    Ok(true)
}

/// Stores what the picture in the file `source` is in a smaller shape; its file is in its place. If there
/// are many, another goes.
///
/// # Errors
/// [`Error::NotFound`] if `source` has gone.
pub(super) fn put_thumbnail(
    tx: &Tx,
    (source, shape): (FileId, &str),
    thumbnail: &Thumbnail,
    (size, now): (u64, u64),
) -> Result<(), Error> {
    if !is_known(tx, source)? {
        return Err(Error::NotFound);
    }
    let file = thumbnail.file;
    if thumbnails(tx, source)? >= THUMBNAILS
        && let Some((other, _)) = self::thumbnail(tx, source)?
    {
        remove_file(tx, other)?;
        tx.effect(Effect::MediaGone);
    }
    tx.thumbnails()?.put((source, shape), thumbnail)?;
    tx.thumbnail_sources()?.insert(file, (source, shape))?;
    tx.media_files()?.put(file, &MediaFile { size })?;
    Ok(cache(tx, file, size, now)?)
}

/// Removes a file, and whatever speaks of it; whether there was one.
pub(super) fn remove_file(tx: &Tx, file: FileId) -> Result<bool, store::Error> {
    let Some(MediaFile { size }) = tx.media_files()?.load(file)? else {
        return Ok(false);
    };
    while let Some((server, id)) = holder(tx, file)? {
        remove(tx, (server, &id))?;
    }
    // With the last of the media the file went. A thumbnail is in no media.
    if is_known(tx, file)? {
        forget(tx, file, size)?;
    }
    Ok(true)
}

/// Dooms a file of which no media speak any more, and its thumbnails.
fn forget(tx: &Tx, file: FileId, size: u64) -> Result<(), store::Error> {
    uncache(tx, file, size)?;
    tx.media_files()?.remove(file)?;
    tx.pending_deletion_files()?.insert(file, ())?;
    let of = tx.thumbnail_sources()?.get(file)?.map(|of| {
        let (source, shape) = of.value();
        (source, shape.to_owned())
    });
    if let Some((source, shape)) = of {
        tx.thumbnails()?.remove((source, &*shape))?;
        tx.thumbnail_sources()?.remove(file)?;
    }
    while let Some((thumbnail, size)) = thumbnail(tx, file)? {
        forget(tx, thumbnail, size)?;
    }
    Ok(())
}

/// How many thumbnails there are of the picture in a file.
fn thumbnails(reader: &impl Reader, source: FileId) -> Result<usize, store::Error> {
    Ok(reader.thumbnails()?.prefix(source)?.count())
}

/// One of the thumbnails of the picture in a file, and its size.
fn thumbnail(reader: &impl Reader, source: FileId) -> Result<Option<(FileId, u64)>, store::Error> {
    let table = reader.thumbnails()?;
    let Some(row) = table.prefix(source)?.next().transpose()? else {
        return Ok(None);
    };
    let file = row.1.value().unpack()?.file;
    let size = reader
        .media_files()?
        .load(file)?
        .map_or(0, |file| file.size);
    Ok(Some((file, size)))
}

/// Whether somebody here uploaded the file, so that it cannot be had again.
fn is_uploaded(reader: &impl Reader, file: FileId) -> Result<bool, store::Error> {
    let (all, media) = (reader.media_of_file()?, reader.media()?);
    for row in all.range((file, OWN, "")..)? {
        let row = row?.0;
        let (of, server, id) = row.value();
        if (of, server) != (file, OWN) {
            break;
        }
        if media
            .load((server, id))?
            .is_some_and(|it| it.uploader.is_some())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One of the media that are in the file.
fn holder(reader: &impl Reader, file: FileId) -> Result<Option<(ServerNum, String)>, store::Error> {
    let table = reader.media_of_file()?;
    let row = table.range((file, OWN, "")..)?.next().transpose()?;
    Ok(row.and_then(|(key, _)| {
        let (of, server, id) = key.value();
        (of == file).then(|| (server, id.to_owned()))
    }))
}

/// From now on the file is one that can be had again.
fn cache(tx: &Tx, file: FileId, size: u64, now: u64) -> Result<(), store::Error> {
    if tx.cached_files()?.has(file)? {
        return touch(tx, file, now);
    }
    tx.cached_files()?.insert(file, now)?;
    tx.cached_files_lru()?.insert((now, file), ())?;
    let cached = used(tx, CACHE)? + size;
    tx.media_usage()?.insert(CACHE, cached)
}

/// From now on it is not.
fn uncache(tx: &Tx, file: FileId, size: u64) -> Result<(), store::Error> {
    let since = tx.cached_files()?.get(file)?.map(|row| row.value());
    let Some(since) = since else {
        return Ok(());
    };
    tx.cached_files()?.remove(file)?;
    tx.cached_files_lru()?.remove((since, file))?;
    let cached = used(tx, CACHE)?.saturating_sub(size);
    tx.media_usage()?.insert(CACHE, cached)
}

/// Notes that a file was asked for, if it is one that can be had again.
pub(super) fn touch(tx: &Tx, file: FileId, now: u64) -> Result<(), store::Error> {
    let since = tx.cached_files()?.get(file)?.map(|row| row.value());
    if let Some(since) = since {
        tx.cached_files_lru()?.remove((since, file))?;
        tx.cached_files_lru()?.insert((now, file), ())?;
        tx.cached_files()?.insert(file, now)?;
    }
    Ok(())
}

/// Lets go of files that can be had again and that nobody has asked for the longest, until `excess`
/// bytes are gone, and of so many at most; how many went. `but` stays.
pub(super) fn evict(
    tx: &Tx,
    (excess, most): (u64, usize),
    but: Option<FileId>,
) -> Result<usize, Error> {
    let (mut gone, mut count) = (0, 0);
    while gone < excess && count < most {
        let Some(file) = oldest(tx, but)? else {
            break;
        };
        gone += tx.media_files()?.load(file)?.map_or(0, |file| file.size);
        remove_file(tx, file)?;
        count += 1;
    }
    Ok(count)
}

/// The file that can be had again and that nobody has asked for the longest.
fn oldest(reader: &impl Reader, but: Option<FileId>) -> Result<Option<FileId>, store::Error> {
    for row in reader.cached_files_lru()?.range::<(u64, FileId)>(..)? {
        let (_, file) = row?.0.value();
        if Some(file) != but {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

/// How many bytes this server's own media take up, and how many can be had again.
pub(super) fn spaces(reader: &impl Reader) -> Result<(u64, u64), store::Error> {
    let (mut own, mut cached) = (0, 0);
    for row in reader.media_usage()?.range::<UserNum>(..)? {
        let (user, bytes) = row?;
        match user.value() {
            CACHE => cached = bytes.value(),
            _ => own += bytes.value(),
        }
    }
    Ok((own, cached))
}

/// Some of the files that are to be removed, and whether each is in use again.
pub(super) fn pending_deletion(
    reader: &impl Reader,
    most: usize,
) -> Result<Vec<(FileId, bool)>, store::Error> {
    let table = reader.pending_deletion_files()?;
    let rows = table.range::<FileId>(..)?.take(most);
    rows.map(|row| {
        let file = row?.0.value();
        Ok((file, is_known(reader, file)?))
    })
    .collect()
}
