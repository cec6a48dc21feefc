//! Media that are taken away: with the event that showed them, with their uploader, or by the owner of
//! the server.

use ruma::{MxcUri, OwnedMxcUri, UserId};
use serde::Deserialize;

use super::{Error, Media, files::FileId, rows};
use crate::store::{self, Effect, Reader, Rows, ServerNum, Store, Tx, UserNum};

/// How many media go in one transaction.
const SLICE: usize = 50;

/// What an event shows, wherever the specification has the address of media in its content: of messages
/// and stickers, of their thumbnails, and of both where they are encrypted.
#[derive(Debug, Default, Deserialize)]
struct Shows {
    url: Option<OwnedMxcUri>,
    file: Option<File>,
    info: Option<Info>,
}

#[derive(Debug, Deserialize)]
struct File {
    url: Option<OwnedMxcUri>,
}

#[derive(Debug, Deserialize)]
struct Info {
    thumbnail_url: Option<OwnedMxcUri>,
    thumbnail_file: Option<File>,
}

/// Takes away what an event of `sender`, which is redacted, shows: of this server what the sender
/// uploaded, of the sender's what is here of it. What else the sender showed with the same media is
/// without them then.
///
/// # Errors
/// If the tables cannot be read or written.
pub fn remove_redacted(tx: &Tx, sender: &UserId, content: &str) -> Result<(), store::Error> {
    // What is not as it should be shows nothing.
    let shows: Shows = serde_json::from_str(content).unwrap_or_default();
    let info = shows.info;
    let (thumbnail_url, thumbnail_file) = info.map_or((None, None), |info| {
        (info.thumbnail_url, info.thumbnail_file)
    });
    let addresses = [
        shows.url,
        shows.file.and_then(|file| file.url),
        thumbnail_url,
        thumbnail_file.and_then(|file| file.url),
    ];
    for address in addresses.into_iter().flatten() {
        let Some((server, id)) = key_of(tx, &address)? else {
            continue;
        };
        let Some((media, _)) = rows::load(tx, (server, &id))? else {
            continue;
        };
        let is_theirs = match media.uploader {
            Some(uploader) => crate::users::num_of(tx, sender)? == Some(uploader),
            None => address.server_name().ok() == Some(sender.server_name()),
        };
        if is_theirs {
            rows::remove(tx, (server, &id))?;
            tx.effect(Effect::MediaGone);
        }
    }
    Ok(())
}

/// Takes away everything that `user` uploaded: in a moment, as it may be much.
///
/// # Errors
/// If the table cannot be written.
pub fn remove_uploads_of(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.effect(Effect::MediaGone);
    tx.erased_uploaders()?.insert(user, ())
}

/// Some of what has to go with its uploader; whether there is more.
pub(super) fn remove_some_uploads(tx: &Tx) -> Result<bool, Error> {
    let Some(user) = next_erased(tx)? else {
        return Ok(false);
    };
    let ids = uploads(tx, user, SLICE)?;
    for id in &ids {
        rows::remove(tx, (rows::OWN, id))?;
    }
    if ids.is_empty() {
        tx.erased_uploaders()?.remove(user)?;
    }
    Ok(true)
}

fn next_erased(r: &impl Reader) -> Result<Option<UserNum>, store::Error> {
    let table = r.erased_uploaders()?;
    let first = table.range::<UserNum>(..)?.next().transpose()?;
    Ok(first.map(|(user, _)| user.value()))
}

fn uploads(r: &impl Reader, user: UserNum, most: usize) -> Result<Vec<String>, store::Error> {
    let table = r.uploads()?;
    let rows = table
        .range((user, "")..(UserNum(user.0 + 1), ""))?
        .take(most);
    rows.map(|row| Ok(row?.0.value().1.to_owned())).collect()
}

/// Which media of those that are here have this address.
fn key_of(r: &impl Reader, address: &MxcUri) -> Result<Option<(ServerNum, String)>, store::Error> {
    let Ok((server, id)) = address.parts() else {
        return Ok(None);
    };
    let own = r.facts()?;
    let own = own.get("server_name")?;
    let num = if own.is_some_and(|own| own.value() == server.as_str()) {
        Some(rows::OWN)
    } else {
        rows::server(r, server)?
    };
    Ok(num.map(|num| (num, id.to_owned())))
}

impl Media {
    /// To be told of every effect.
    pub fn apply(&self, effect: &Effect) {
        if let Effect::MediaGone | Effect::Reopened = effect {
            let this = self.clone();
            let sweeping = self.0.executor.spawn(async move {
                if let Err(error) = this.sweep().await {
                    log::error!("cannot remove media that are gone: {error}");
                }
            });
            sweeping.detach();
        }
    }
}

/// Media as the owner of the server names them: by their address, or by the SHA-256 of the content.
#[derive(Clone, Debug)]
pub enum MediaSelector {
    /// `mxc://…`
    Address(OwnedMxcUri),
    /// The file.
    File(FileId),
}

impl MediaSelector {
    /// What `text` names.
    pub fn parse(text: &str) -> Option<Self> {
        let address = OwnedMxcUri::from(text);
        if address.is_valid() {
            return Some(Self::Address(address));
        }
        super::files::unhex(text).map(Self::File)
    }

    /// The file that is meant, if the media are here.
    fn file(&self, r: &impl Reader) -> Result<Option<FileId>, store::Error> {
        match self {
            Self::File(file) => Ok(Some(*file)),
            Self::Address(address) => match key_of(r, address)? {
                Some((server, id)) => {
                    let media = store::Records::load(&r.media()?, (server, &*id))?;
                    Ok(media.map(|media| media.file))
                }
                None => Ok(None),
            },
        }
    }
}

/// Deletes the file that is meant, and all media that are in it. The server's next start removes it
/// from the disk.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn delete(store: &Store, named: MediaSelector) -> Result<(), Error> {
    let job = move |tx: &Tx| {
        let file = named.file(tx)?.ok_or(Error::NotFound)?;
        if !rows::remove_file(tx, file)? {
            return Err(Error::NotFound);
        }
        Ok(())
    };
    store.write_shrinking(job).await
}

/// Keeps the file that is meant from everybody, and does not take it again; or ends that.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn quarantine(store: &Store, named: MediaSelector, is_bad: bool) -> Result<(), Error> {
    let job = move |tx: &Tx| {
        let file = named.file(tx)?.ok_or(Error::NotFound)?;
        let mut table = tx.quarantined_files()?;
        if is_bad {
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

/// Who takes up how much.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Users of this server, each with how many media of how many bytes in all; those with the most
    /// first.
    pub users: Vec<(String, u64, u64)>,
    /// How many files can be had again, and how many bytes they are.
    pub cached: (u64, u64),
    /// How many files are kept from everybody.
    pub quarantined: u64,
}

/// Who takes up how much.
///
/// # Errors
/// If the tables cannot be read.
pub fn usage(r: &impl Reader) -> Result<Usage, store::Error> {
    let mut users = Vec::new();
    let mut cached = 0;
    for row in r.media_usage()?.range::<UserNum>(..)? {
        let (user, bytes) = row?;
        let (user, bytes) = (user.value(), bytes.value());
        if user == rows::CACHE {
            cached = bytes;
        } else if bytes > 0 {
            let count = uploads(r, user, usize::MAX)?.len() as u64;
            users.push((crate::users::id_of(r, user)?.to_string(), count, bytes));
        }
    }
    users.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    Ok(Usage {
        users,
        cached: (r.cached_files()?.len()?, cached),
        quarantined: r.quarantined_files()?.len()?,
    })
}
