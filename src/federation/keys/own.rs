//! The keys of this server.

use std::{collections::BTreeMap, time::Duration};

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::federation::discovery::{OldVerifyKey, ServerSigningKeys, VerifyKey},
    serde::Raw,
};

use super::known::KnownKeys;
use crate::{
    protocol::{ServerKey, signed_object::SignedObject},
    rooms::{self, Local},
    store::{
        Reader, Rows,
        records::{RemoteKey, SigningKey},
    },
};

/// For how long other servers may cache the keys.
pub const VALIDITY: Duration = Duration::from_hours(24);

/// Every key of this server, and when it expired, in milliseconds since the epoch.
fn all(r: &impl Reader) -> Result<Vec<(ServerKey, Option<u64>)>, rooms::Error> {
    let mut keys = Vec::new();
    for row in r.signing_keys()?.range::<&str>(..)? {
        let (id, record) = row?;
        let record: SigningKey = record.record(&id)?;
        let (_, version) = id.value().split_once(':').unwrap_or_default();
        let key = ServerKey::from_seed(record.seed, version)
            .map_err(|_| rooms::Error::corrupt("signing_keys", id.value(), "not an Ed25519 key"))?;
        keys.push((key, record.expired_ts));
    }
    Ok(keys)
}

/// The keys for events of this server that other servers send.
pub(super) fn known(r: &impl Reader) -> Result<KnownKeys, rooms::Error> {
    let mut known = BTreeMap::new();
    for (key, expired_ts) in all(r)? {
        let public = key.public_key();
        let public = <[u8; 32]>::try_from(public.as_bytes())
            .map_err(|_| rooms::Error::corrupt("signing_keys", key.id(), "not an Ed25519 key"))?;
        let record = RemoteKey {
            key: public,
            valid_until_ts: expired_ts.unwrap_or(u64::MAX),
        };
        known.insert(key.id().to_string(), record);
    }
    Ok(KnownKeys(known))
}

/// The keys that this server publishes, signed.
///
/// Source: server-server API, `GET /_matrix/key/v2/server`.
pub fn published(
    r: &impl Reader,
    local: &Local,
    now_ms: u64,
) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
    let at = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let valid_until = now_ms.saturating_add(VALIDITY.as_secs() * 1000);
    let mut keys = ServerSigningKeys::new(local.server_name().to_owned(), at(valid_until));
    for (key, expired_ts) in all(r)? {
        let (id, public) = (key.id().to_owned(), key.public_key());
        match expired_ts {
            None => drop(keys.verify_keys.insert(id, VerifyKey::new(public))),
            Some(ts) => drop(
                keys.old_verify_keys
                    .insert(id, OldVerifyKey::new(at(ts), public)),
            ),
        }
    }
    let object = serde_json::to_vec(&keys).map_err(|_| unfit())?;
    signed(SignedObject::parse(&object).map_err(|_| unfit())?, local)
}

/// Adds this server's signature to published keys.
pub(super) fn signed(
    mut keys: SignedObject,
    local: &Local,
) -> Result<Raw<ServerSigningKeys>, rooms::Error> {
    let signed = keys.sign(local.server_name(), local.key());
    let json = signed.and_then(|()| keys.to_json());
    json.map(Raw::from_json).map_err(|_| unfit())
}

fn unfit() -> rooms::Error {
    rooms::Error::not_serializable("signing keys")
}
