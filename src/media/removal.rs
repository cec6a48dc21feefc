//! Removing media with the event that names them, or with their uploader.

use ruma::{MxcUri, OwnedMxcUri, UserId};
use serde::Deserialize;

use super::{error::Error, references, rows};
use crate::{
    store::{self, Effect, Reader, Rows, ServerNum, Tx, UserNum},
    users::num_of,
};

/// Media of one transaction.
const BATCH_MEDIA: usize = 50;

/// The fields of an event's content that name media: of messages and stickers, of their thumbnails, and of
/// both where they are encrypted.
#[derive(Debug, Default, Deserialize)]
struct Content {
    url: Option<OwnedMxcUri>,
    file: Option<EncryptedFile>,
    info: Option<Info>,
}

#[derive(Debug, Deserialize)]
struct EncryptedFile {
    url: Option<OwnedMxcUri>,
}

#[derive(Debug, Deserialize)]
struct Info {
    thumbnail_url: Option<OwnedMxcUri>,
    thumbnail_file: Option<EncryptedFile>,
}

impl Content {
    fn uris(self) -> impl Iterator<Item = OwnedMxcUri> {
        let (thumbnail_url, thumbnail_file) = self.info.map_or((None, None), |info| {
            (info.thumbnail_url, info.thumbnail_file)
        });
        let uris = [
            self.url,
            self.file.and_then(|file| file.url),
            thumbnail_url,
            thumbnail_file.and_then(|file| file.url),
        ];
        uris.into_iter().flatten()
    }
}

/// Removes the media that a redacted event of `sender` names, if the sender uploaded them here and nothing else
/// refers to them. Media of the sender's server are removed from the cache: they can be fetched again. Protected
/// files stay.
pub fn remove_redacted(tx: &Tx, sender: &UserId, content: &str) -> Result<(), store::Error> {
    // An invalid content names no media.
    let content: Content = serde_json::from_str(content).unwrap_or_default();
    for uri in content.uris() {
        let Some((server, id)) = key_of(tx, &uri)? else {
            continue;
        };
        let Some((media, _)) = rows::load(tx, (server, &id))? else {
            continue;
        };
        let is_to_go = match media.uploader {
            Some(uploader) => {
                num_of(tx, sender)? == Some(uploader) && references::count(tx, &id)? == 0
            }
            None => uri.server_name().ok() == Some(sender.server_name()),
        };
        if is_to_go && !tx.protected_files()?.has(media.file)? {
            rows::remove(tx, (server, &id))?;
            tx.effect(Effect::MediaGone);
        }
    }
    Ok(())
}

/// Makes a background task remove everything that `user` uploaded.
pub fn remove_uploads_of(tx: &Tx, user: UserNum) -> Result<(), store::Error> {
    tx.effect(Effect::MediaGone);
    tx.erased_uploaders()?.insert(user, ())
}

/// Removes some of the uploads of an erased user.
pub(super) fn remove_some_uploads(tx: &Tx) -> Result<(), Error> {
    let user = {
        let table = tx.erased_uploaders()?;
        let first = table.all()?.next().transpose()?;
        first.map(|(user, _)| user.value())
    };
    let Some(user) = user else {
        return Ok(());
    };
    let ids = uploads(tx, user, BATCH_MEDIA)?;
    for id in &ids {
        rows::remove(tx, (rows::OWN, id))?;
    }
    if ids.is_empty() {
        tx.erased_uploaders()?.remove(user)?;
    }
    Ok(())
}

fn uploads(r: &impl Reader, user: UserNum, limit: usize) -> Result<Vec<String>, store::Error> {
    let table = r.uploads()?;
    let rows = table.prefix(user)?.take(limit);
    rows.map(|row| Ok(row?.0.value().1.to_owned())).collect()
}

/// The server number and the media id of `uri`; `None` if no row mentions its server.
pub(super) fn key_of(
    r: &impl Reader,
    uri: &MxcUri,
) -> Result<Option<(ServerNum, String)>, store::Error> {
    let Ok((server, id)) = uri.parts() else {
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
