//! The tables `remote_keys` and `published_keys`.

use std::collections::BTreeMap;

use ruma::ServerName;

use super::known::KnownKeys;
use crate::{
    rooms,
    store::{Reader, Rows, Tx},
};

/// A larger response is not stored, only its keys.
const MAX_JSON_BYTES: usize = 32 * 1024;

pub(super) fn load(r: &impl Reader, server: &ServerName) -> Result<KnownKeys, rooms::Error> {
    let mut known = BTreeMap::new();
    for row in r.remote_keys()?.prefix(server.as_str())? {
        let (key, record) = row?;
        let (_, id) = key.value();
        known.insert(id.to_owned(), record.record(&key)?);
    }
    Ok(KnownKeys(known))
}

/// The keys that the server published last, as the JSON that it signed.
pub(super) fn published(
    r: &impl Reader,
    server: &ServerName,
) -> Result<Option<String>, rooms::Error> {
    let published = r.published_keys()?;
    let published = published.get(server.as_str())?;
    Ok(published.map(|json| json.value().to_owned()))
}

/// Stores keys of a server, and the signed JSON that has them.
pub(super) fn put(
    tx: &Tx,
    server: &ServerName,
    keys: &KnownKeys,
    json: &str,
) -> Result<(), rooms::Error> {
    let mut table = tx.remote_keys()?;
    for (id, key) in &keys.0 {
        table.put((server.as_str(), id.as_str()), key)?;
    }
    if json.len() <= MAX_JSON_BYTES {
        tx.published_keys()?.insert(server.as_str(), json)?;
    }
    Ok(())
}
