//! This server: its name and its signing key.

use std::{fmt, sync::Arc};

use ruma::{OwnedServerName, ServerName, UserId};

use super::{Error, policy_signatures::PolicySignatures};
use crate::{
    protocol::ServerKey,
    store::{Reader, Records, Rows, Store, Tx, records::SigningKey},
};

/// The key in `facts`.
const SERVER_NAME: &str = "server_name";

/// This server: its name and its signing key. Clones share them.
#[derive(Clone)]
pub struct Local {
    inner: Arc<LocalInner>,
    asks_policy_servers: bool,
}

struct LocalInner {
    server_name: OwnedServerName,
    key: ServerKey,
    policy_signatures: PolicySignatures,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Local")
            .field(&self.inner.server_name)
            .finish()
    }
}

impl Local {
    pub fn new(server_name: OwnedServerName, key: ServerKey) -> Self {
        Self {
            inner: Arc::new(LocalInner {
                server_name,
                key,
                policy_signatures: PolicySignatures::default(),
            }),
            asks_policy_servers: true,
        }
    }

    /// Loads the signing key from `store`, or generates it at the first start.
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
        // Nothing is written at a later start, which must succeed on a disk that is almost full.
        let stored = store.read(|s| match is_claimed(s, &server_name)? {
            true => current_key(s),
            false => Ok(None),
        })?;
        let (id, seed) = match stored {
            Some(stored) => stored,
            None => {
                store
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
                    .await?
            }
        };
        let version = id
            .split_once(':')
            .map_or(id.as_str(), |(_, version)| version);
        let key = ServerKey::from_seed(seed, version)
            .map_err(|_| Error::corrupt("signing_keys", &id, "not an Ed25519 key"))?;
        Ok(Self::new(server_name, key))
    }

    /// Generates a new signing key, which is used from the next start on. The old one expires, and still
    /// verifies what it has signed. Returns the ids of the old and the new key.
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

    pub fn server_name(&self) -> &ServerName {
        &self.inner.server_name
    }

    pub fn key(&self) -> &ServerKey {
        &self.inner.key
    }

    /// The same server, which sends events without asking policy servers: the servers that receive them ask.
    pub fn without_policy_servers(&self) -> Self {
        Self {
            asks_policy_servers: false,
            ..self.clone()
        }
    }

    pub fn asks_policy_servers(&self) -> bool {
        self.asks_policy_servers
    }

    pub fn policy_signatures(&self) -> &PolicySignatures {
        &self.inner.policy_signatures
    }

    /// Whether `user` is a user of this server.
    pub fn has(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name()
    }
}

/// Whether the database belongs to the server `name`, whose name is in every id in it; a new one belongs to
/// none.
fn is_claimed(r: &impl Reader, name: &ServerName) -> Result<bool, Error> {
    let owner = r
        .facts()?
        .get(SERVER_NAME)?
        .map(|row| row.value().to_owned());
    match owner {
        Some(owner) if owner == name.as_str() => Ok(true),
        Some(owner) => Err(Error::OtherServer(owner.into())),
        None => Ok(false),
    }
}

fn claim(tx: &Tx, name: &ServerName) -> Result<(), Error> {
    if !is_claimed(tx, name)? {
        tx.facts()?.insert(SERVER_NAME, name.as_str())?;
    }
    Ok(())
}

/// The key that has not expired.
fn current_key(r: &impl Reader) -> Result<Option<(String, [u8; 32])>, Error> {
    for row in r.signing_keys()?.range::<&str>(..)? {
        let (id, key) = row?;
        let key: SigningKey = key.record(&id)?;
        if key.expired_ts.is_none() {
            return Ok(Some((id.value().to_owned(), key.seed)));
        }
    }
    Ok(None)
}
