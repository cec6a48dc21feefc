//! What the owner of the server does with media on the command line.

use std::cmp::Reverse;

use ruma::OwnedMxcUri;

use super::{
    error::Error,
    files::{FileId, parse_file_id},
    removal::key_of,
    rows,
};
use crate::{
    store::{self, Effect, Reader, Records, Rows, Store, Tx},
    users::id_of,
};

/// Media, named by URI or by the SHA-256 of the content.
#[derive(Clone, Debug)]
pub enum MediaSelector {
    /// `mxc://…`
    Uri(OwnedMxcUri),
    File(FileId),
}

impl MediaSelector {
    pub fn parse(text: &str) -> Option<Self> {
        let uri = OwnedMxcUri::from(text);
        if uri.is_valid() {
            return Some(Self::Uri(uri));
        }
        parse_file_id(text).map(Self::File)
    }

    /// The selected file, if it is stored.
    fn file(&self, r: &impl Reader) -> Result<Option<FileId>, store::Error> {
        match self {
            Self::File(file) => Ok(Some(*file)),
            Self::Uri(uri) => match key_of(r, uri)? {
                Some((server, id)) => {
                    let media = r.media()?.load((server, &*id))?;
                    Ok(media.map(|media| media.file))
                }
                None => Ok(None),
            },
        }
    }
}

/// Deletes the rows of the file and of all media with it; then the file.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn delete(store: &Store, selector: MediaSelector) -> Result<(), Error> {
    let job = move |tx: &Tx| {
        let file = selector.file(tx)?.ok_or(Error::NotFound)?;
        if !rows::remove_file(tx, file)? {
            return Err(Error::NotFound);
        }
        tx.effect(Effect::MediaGone);
        Ok(())
    };
    store.write_shrinking(job).await
}

/// Quarantines the file: it is neither served nor accepted any more; or ends that.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Protected`].
pub async fn quarantine(
    store: &Store,
    selector: MediaSelector,
    is_quarantined: bool,
) -> Result<(), Error> {
    let job = move |tx: &Tx| {
        let file = selector.file(tx)?.ok_or(Error::NotFound)?;
        let mut table = tx.quarantined_files()?;
        if is_quarantined && tx.protected_files()?.has(file)? {
            return Err(Error::Protected);
        }
        if is_quarantined {
            return Ok(table.insert(file, ())?);
        }
        if table.remove(file)? {
            Ok(())
        } else {
            Err(Error::NotFound)
        }
    };
    store.write_shrinking(job).await
}

/// Protects the file: it is not quarantined, and removed neither with a redacted event nor from the cache; or ends
/// that. Its uploader's erasure and [`delete`] remove it all the same.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Quarantined`].
pub async fn protect(
    store: &Store,
    selector: MediaSelector,
    now_ms: u64,
    is_protected: bool,
) -> Result<(), Error> {
    let job = move |tx: &Tx| {
        let file = selector.file(tx)?.ok_or(Error::NotFound)?;
        if is_protected && tx.quarantined_files()?.has(file)? {
            return Err(Error::Quarantined);
        }
        match is_protected {
            true => rows::protect(tx, file),
            false => rows::unprotect(tx, file, now_ms),
        }
    };
    store.write(job).await
}

/// Files, and their size.
#[derive(Clone, Copy, Debug, Default)]
pub struct MediaUsage {
    pub files: u64,
    pub bytes: u64,
}

/// How the disk is used.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The uploads of each user id, the largest usage first.
    pub users: Vec<(String, MediaUsage)>,
    /// Files that can be fetched or made again.
    pub cached: MediaUsage,
    pub quarantined_files: u64,
    pub protected_files: u64,
}

/// The bytes of all uploads, and those of the cache: sums that the quota keeps.
pub fn bytes(r: &impl Reader) -> Result<(u64, u64), store::Error> {
    let (mut uploads, mut cached) = (0_u64, 0);
    for row in r.media_usage()?.all()? {
        let (user, bytes) = row?;
        match user.value() {
            rows::CACHE => cached = bytes.value(),
            _ => uploads = uploads.saturating_add(bytes.value()),
        }
    }
    Ok((uploads, cached))
}

pub fn usage(r: &impl Reader) -> Result<Usage, store::Error> {
    let mut users = Vec::new();
    let mut cached = 0;
    let uploads = r.uploads()?;
    for row in r.media_usage()?.all()? {
        let (user, bytes) = row?;
        let (user, bytes) = (user.value(), bytes.value());
        if user == rows::CACHE {
            cached = bytes;
        } else if bytes > 0 {
            let files = uploads.prefix(user)?.count() as u64;
            users.push((id_of(r, user)?.to_string(), MediaUsage { files, bytes }));
        }
    }
    users.sort_by_key(|(_, usage)| Reverse(usage.bytes));
    Ok(Usage {
        users,
        cached: MediaUsage {
            files: r.cached_files()?.len()?,
            bytes: cached,
        },
        quarantined_files: r.quarantined_files()?.len()?,
        protected_files: r.protected_files()?.len()?,
    })
}
