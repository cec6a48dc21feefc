//! Devices of local users and their keys, for other servers (server-server API, "Device Management" and
//! "End-to-End Encryption"). Devices without keys are left out: they cannot receive encrypted messages.

use std::collections::BTreeMap;

use ruma::{
    UInt,
    api::federation::{
        device::get_devices::{self, v1::UserDevice},
        keys::{claim_keys, get_keys},
    },
};

use crate::{
    api::{
        Api, Error, Origin,
        keys::{MAX_KEYS, claim, raw},
    },
    store::{Reader, Records},
    users::{
        self, accounts, device_lists,
        keys::{
            cross_signing::{self, Usage},
            device_keys,
        },
    },
};

/// `GET /_matrix/federation/v1/user/devices/{userId}`
pub async fn get_devices(
    api: Api,
    _origin: Origin,
    request: get_devices::v1::Request,
) -> Result<get_devices::v1::Response, Error> {
    let scan = api.store.scan("devices for another server", move |s| {
        let Some(user) = users::num_of(s, &request.user_id)? else {
            return Ok(None);
        };
        if accounts::load(s, user)?.is_none() {
            return Ok(None);
        }
        let version = UInt::new_saturating(device_lists::stream_id(s, user)?.0);
        let mut response = get_devices::v1::Response::new(request.user_id.clone(), version);
        for (device_id, keys) in device_keys::of_user(s, user)? {
            let device = s.devices()?.load((user, device_id.as_str()))?;
            let mut entry = UserDevice::new(device_id, raw(&keys)?);
            entry.device_display_name = device.and_then(|device| device.display_name);
            response.devices.push(entry);
        }
        let key = |usage| {
            let key = cross_signing::load(s, user, usage)?;
            key.map(|key| raw(&key)).transpose()
        };
        response.master_key = key(Usage::Master)?;
        response.self_signing_key = key(Usage::SelfSigning)?;
        Ok::<_, Error>(Some(response))
    });
    let response = scan.await?;
    response.ok_or_else(|| Error::not_found("the user does not exist on this server"))
}

/// `POST /_matrix/federation/v1/user/keys/query`
pub async fn get_keys(
    api: Api,
    _origin: Origin,
    request: get_keys::v1::Request,
) -> Result<get_keys::v1::Response, Error> {
    if request.device_keys.len() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "device_keys may have at most {MAX_KEYS} users, found {}",
            request.device_keys.len()
        )));
    }
    let scan = api.store.scan("keys for another server", move |s| {
        let mut response = get_keys::v1::Response::new(BTreeMap::new());
        for (user_id, wanted) in request.device_keys {
            let Some(user) = users::num_of(s, &user_id)? else {
                continue;
            };
            if accounts::load(s, user)?.is_none() {
                continue;
            }
            let mut of_user = BTreeMap::new();
            for (device_id, keys) in device_keys::of_user(s, user)? {
                if wanted.is_empty() || wanted.contains(&device_id) {
                    of_user.insert(device_id, raw(&keys)?);
                }
            }
            if let Some(key) = cross_signing::load(s, user, Usage::Master)? {
                response.master_keys.insert(user_id.clone(), raw(&key)?);
            }
            if let Some(key) = cross_signing::load(s, user, Usage::SelfSigning)? {
                response
                    .self_signing_keys
                    .insert(user_id.clone(), raw(&key)?);
            }
            response.device_keys.insert(user_id, of_user);
        }
        Ok::<_, Error>(response)
    });
    scan.await
}

/// `POST /_matrix/federation/v1/user/keys/claim`
pub async fn claim_keys(
    api: Api,
    _origin: Origin,
    request: claim_keys::v1::Request,
) -> Result<claim_keys::v1::Response, Error> {
    let claimed = claim(&api, request.one_time_keys).await?;
    Ok(claim_keys::v1::Response::new(claimed))
}
