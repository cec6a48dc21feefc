//! Keys of local users, for clients and for other servers.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, DeviceId, OwnedOneTimeKeyId, UserId,
    api::federation::keys::claim_keys::v1::{OneTimeKeyClaims, OneTimeKeys},
    encryption::OneTimeKey,
    serde::Raw,
};
use serde_json::value::to_raw_value;

use super::{Api, Error};
use crate::{
    store::{Reader, Records, Tx},
    users::{
        self,
        keys::one_time_keys::{self, Claimable},
    },
};

/// The most users, devices or keys of one request.
pub(super) const MAX_KEYS: usize = 10_000;
/// The most keys that one job claims.
const MAX_CLAIMS_PER_JOB: usize = 100;

pub(super) fn raw<T>(key: &CanonicalJsonObject) -> Result<Raw<T>, Error> {
    to_raw_value(key)
        .map(Raw::from_json)
        .map_err(|_| Error::Internal("a key that does not serialize"))
}

pub(super) fn check_count(wanted: &OneTimeKeyClaims) -> Result<(), Error> {
    if wanted.values().map(BTreeMap::len).sum::<usize>() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "one_time_keys may have at most {MAX_KEYS} devices"
        )));
    }
    Ok(())
}

/// Claims a key of each of these devices of local users that has one.
pub(super) async fn claim(
    api: &Api,
    wanted: OneTimeKeyClaims,
    claimable: Claimable,
) -> Result<OneTimeKeys, Error> {
    check_count(&wanted)?;
    let each = wanted.into_iter().flat_map(|(user, devices)| {
        let devices = devices.into_iter();
        devices.map(move |(device, algorithm)| (user.clone(), device, algorithm))
    });
    let mut each = each.peekable();
    let mut claimed = OneTimeKeys::new();
    while each.peek().is_some() {
        let some: Vec<_> = each.by_ref().take(MAX_CLAIMS_PER_JOB).collect();
        let job = move |tx: &Tx| {
            let mut found = Vec::new();
            for (user, device, algorithm) in &some {
                let key = claim_one(tx, user, device, algorithm.as_ref(), claimable)?;
                found.extend(key.map(|key| (user.clone(), device.clone(), key)));
            }
            Ok::<_, users::Error>(found)
        };
        for (user, device, key) in api.store.write(job).await? {
            let of_user = claimed.entry(user).or_default();
            of_user.insert(device, BTreeMap::from([key]));
        }
    }
    Ok(claimed)
}

fn claim_one(
    tx: &Tx,
    user_id: &UserId,
    device_id: &DeviceId,
    algorithm: &str,
    claimable: Claimable,
) -> Result<Option<(OwnedOneTimeKeyId, Raw<OneTimeKey>)>, users::Error> {
    let Some(user) = users::num_of(tx, user_id)? else {
        return Ok(None);
    };
    let Some(device) = tx.devices()?.load((user, device_id.as_str()))? else {
        return Ok(None);
    };
    let key = one_time_keys::claim(tx, user, device.num, algorithm, claimable)?;
    Ok(key.and_then(|(id, json)| Some((id.try_into().ok()?, raw_text(json)?))))
}

fn raw_text<T>(json: String) -> Option<Raw<T>> {
    Raw::from_json_string(json).ok()
}
