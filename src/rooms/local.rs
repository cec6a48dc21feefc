//! Who this server is.

use std::{fmt, sync::Arc};

use ruma::{OwnedServerName, ServerName, UserId};

use super::Error;
use crate::{
    protocol::ServerKey,
    store::{Bytes, Reader, Records, Rows, Store, Tx, records::SigningKey},
};

/// The fact that says whose database this is.
const SERVER_NAME: &str = "server_name";

/// Who this server is: its name and the key with which it signs. Clones are the same.
#[derive(Clone)]
pub struct Local(Arc<Parts>);

struct Parts {
    server_name: OwnedServerName,
    key: ServerKey,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local").field(&self.0.server_name).finish()
    }
}

impl Local {
    /// The server `server_name`, signing with `key`.
    pub fn new(server_name: OwnedServerName, key: ServerKey) -> Self {
        Self(Arc::new(Parts { server_name, key }))
    }

    /// The server whose database `store` is, under the name `server_name`: with the key that it
    /// made at its first start, which is now if there is none.
    ///
    /// # Errors
    /// [`Error::OtherServer`] if the database belongs to a server of another name.
    pub async fn load(
        store: &Store,
        server_name: OwnedServerName,
        now_ms: u64,
    ) -> Result<Self, Error> {
        let new = ServerKey::generate();
        let (id, new_key) = (new.id().as_str().to_owned(), new.seed());
        let name = server_name.clone();
        let (id, seed) = store
            .write(move |tx: &Tx| {
                let record = SigningKey {
                    seed: new_key,
                    created_ts: now_ms,
                    expired_ts: None,
                };
                claim(tx, &name)?;
                match current_key(tx)? {
                    Some(found) => Ok(found),
                    None => {
                        tx.signing_keys()?.put(id.as_str(), &record)?;
                        Ok::<_, Error>((id.clone(), new_key))
                    }
                }
            })
            .await?;
        let version = id
            .split_once(':')
            .map_or(id.as_str(), |(_, version)| version);
        let key = ServerKey::from_seed(seed, version)
            .map_err(|_| Error::corrupt("signing_keys", &id, "not an Ed25519 key"))?;
        Ok(Self::new(server_name, key))
    }

    /// Gives the server whose database `store` is a new key, with which it signs from its next
    /// start on. The one before stays known for what it has signed. The ids of both.
    ///
    /// # Errors
    /// [`Error::OtherServer`] if the database belongs to a server of another name.
    pub async fn rotate_key(
        store: &Store,
        server_name: OwnedServerName,
        now_ms: u64,
    ) -> Result<(Option<String>, String), Error> {
        let mut new = ServerKey::generate();
        while store.read(|s| s.signing_keys()?.has(new.id().as_str()))? {
            new = ServerKey::generate();
        }
        let (id, seed) = (new.id().as_str().to_owned(), new.seed());
        let write = store.write(move |tx: &Tx| {
            claim(tx, &server_name)?;
            let before = current_key(tx)?.map(|(before, _)| before);
            let mut keys = tx.signing_keys()?;
            if let Some(before) = &before
                && let Some(key) = keys.load(before.as_str())?
            {
                let expired_ts = Some(now_ms);
                keys.put(before.as_str(), &SigningKey { expired_ts, ..key })?;
            }
            let key = SigningKey {
                seed,
                created_ts: now_ms,
                expired_ts: None,
            };
            keys.put(id.as_str(), &key)?;
            Ok::<_, Error>((before, id.clone()))
        });
        write.await
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.0.server_name
    }

    /// The key with which the server signs.
    pub fn key(&self) -> &ServerKey {
        &self.0.key
    }

    /// Whether `user` has an account here, or would have it here.
    pub fn has(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}

/// Makes sure that the database is `name`'s: every id in it ends in that name.
fn claim(tx: &Tx, name: &ServerName) -> Result<(), Error> {
    let owner = tx
        .facts()?
        .get(SERVER_NAME)?
        .map(|row| row.value().to_owned());
    match owner {
        Some(owner) if owner == name.as_str() => Ok(()),
        Some(owner) => Err(Error::OtherServer(owner.into())),
        None => Ok(tx.facts()?.insert(SERVER_NAME, name.as_str())?),
    }
}

/// The key that signs: the one that has not expired.
fn current_key(r: &impl Reader) -> Result<Option<(String, [u8; 32])>, Error> {
    for row in r.signing_keys()?.range::<&str>(..)? {
        let (id, key) = row?;
        let key: SigningKey = Bytes::unpack(&key.value())?;
        if key.expired_ts.is_none() {
            return Ok(Some((id.value().to_owned(), key.seed)));
        }
    }
    Ok(None)
}
