//! The devices of this server's users and their keys, for other servers (server-server API,
//! "Device Management" and "End-to-End Encryption").
//!
//! No device can hand in keys here yet. One without keys is not told of: nobody could send it
//! anything.

use std::collections::BTreeMap;

use ruma::{
    UInt, UserId,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
};

use crate::{
    api::{Api, Error, Origin},
    store,
    users::{self, accounts},
};

/// The version of a list of devices that never changed.
const UNCHANGED: UInt = UInt::MIN;

/// `GET /_matrix/federation/v1/user/devices/{userId}`
pub async fn get_devices(
    api: Api,
    _who: Origin,
    request: get_devices::v1::Request,
) -> Result<get_devices::v1::Response, Error> {
    if !api.store.read(|s| has_account(s, &request.user_id))? {
        return Err(Error::not_found("there is no such user"));
    }
    Ok(get_devices::v1::Response::new(request.user_id, UNCHANGED))
}

/// `POST /_matrix/federation/v1/user/keys/query`
pub async fn get_keys(
    api: Api,
    _who: Origin,
    request: get_keys::v1::Request,
) -> Result<get_keys::v1::Response, Error> {
    let scan = api.store.scan("keys for another server", move |s| {
        let mut keys = BTreeMap::new();
        for user in request.device_keys.into_keys() {
            if has_account(s, &user)? {
                keys.insert(user, BTreeMap::new());
            }
        }
        Ok::<_, users::Error>(keys)
    });
    Ok(get_keys::v1::Response::new(scan.await?))
}

/// `POST /_matrix/federation/v1/user/keys/claim`. What has no key left is left out.
pub async fn claim_keys(
    _api: Api,
    _who: Origin,
    _request: claim_keys::v1::Request,
) -> Result<claim_keys::v1::Response, Error> {
    Ok(claim_keys::v1::Response::new(BTreeMap::new()))
}

fn has_account(r: &impl store::Reader, user: &UserId) -> Result<bool, store::Error> {
    match users::num_of(r, user)? {
        Some(num) => Ok(accounts::load(r, num)?.is_some()),
        None => Ok(false),
    }
}
