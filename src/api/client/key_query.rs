//! Queries for device keys and cross-signing keys (client-server API, "End-to-End Encryption").

use std::{collections::BTreeMap, time::Instant};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedUserId,
    api::{
        client::keys::get_keys::v3::{Request, Response},
        federation::keys::get_keys as get_remote_keys,
    },
    encryption::CrossSigningKey,
    serde::Raw,
};
use smol::future;

use super::keys::{DEFAULT_TIMEOUT, MAX_TIMEOUT, failure, split_by_server};
use crate::{
    api::{
        Api, Error, Session, Streamed,
        keys::{MAX_KEYS, raw},
    },
    store::{Reader, Records, Snapshot, UserNum},
    users::{
        self,
        keys::{
            cross_signing::{self, Usage},
            device_keys,
            signatures::{self, Signer},
        },
        remote_devices::DeviceList,
    },
};

/// The devices whose keys are wanted, by user; an empty list means all devices of the user.
type WantedDevices = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// `POST /_matrix/client/v3/keys/query`
///
/// Device lists are kept of the remote users who share a room with a local user, so their keys are known
/// even if their server is unreachable; a list that may be outdated is sent together with the failure of
/// its server. For other remote users, their server is queried.
pub async fn get_keys(api: Api, session: Session, request: Request) -> Result<Streamed, Error> {
    if request.device_keys.len() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "device_keys may have at most {MAX_KEYS} users, found {}",
            request.device_keys.len()
        )));
    }
    let deadline = Instant::now() + request.timeout.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
    let left = || deadline.saturating_duration_since(Instant::now());
    let viewer = Signer {
        user: session.user,
        id: session.user_id,
    };
    let (local, mut remote) = split_by_server(&api, request.device_keys);
    let mut response = local_keys(&api, viewer.clone(), local).await?;
    let lists = api.federation.device_lists();
    let (found, missing) = lists.look_up(remote.keys().cloned().collect()).await?;
    let mut untracked = remote.clone();
    untracked.retain(|user, _| found.untracked.contains(user));
    let (found, responses) = future::zip(
        lists.fetch_missing(found, missing, left()),
        api.federation
            .user_keys()
            .query(session.user, untracked, left()),
    )
    .await;
    let found = found?;
    // Grows with the devices of all these users.
    let scan = api.store.scan("keys of other servers' users", move |s| {
        for (user, list) in found.lists {
            let wanted = remote.remove(&user).unwrap_or_default();
            add_device_list(s, &viewer, user, list, &wanted, &mut response)?;
        }
        let (mut failures, mut memory) = (found.failures, Vec::new());
        for (server, server_response) in responses {
            match server_response {
                Ok((keys, of_keys)) => {
                    add_response(s, &viewer, keys, &mut response)?;
                    memory.push(of_keys);
                }
                Err(error) => drop(failures.insert(server, error)),
            }
        }
        let failures = failures.into_iter();
        let failures = failures.map(|(server, error)| (server.to_string(), failure(&error)));
        response.failures.extend(failures);
        Streamed::holding(response, memory)
    });
    scan.await
}

fn is_wanted(wanted: &[OwnedDeviceId], device_id: &OwnedDeviceId) -> bool {
    wanted.is_empty() || wanted.contains(device_id)
}

fn add_device_list(
    s: &Snapshot,
    viewer: &Signer,
    user: OwnedUserId,
    list: DeviceList,
    wanted: &[OwnedDeviceId],
    response: &mut Response,
) -> Result<(), Error> {
    let mut of_user = BTreeMap::new();
    for (device_id, device) in list.devices {
        let Some(keys) = device.keys.filter(|_| is_wanted(wanted, &device_id)) else {
            continue;
        };
        let keys = match keys.deserialize_as_unchecked::<CanonicalJsonObject>() {
            Ok(mut object) => {
                set_display_name(&mut object, device.display_name);
                raw(&object)?
            }
            Err(_) => keys,
        };
        of_user.insert(device_id, keys);
    }
    if let Some(master) = list.master_key {
        let master = with_viewer_signatures(s, viewer, &user, master)?;
        response.master_keys.insert(user.clone(), master);
    }
    if let Some(key) = list.self_signing_key {
        response.self_signing_keys.insert(user.clone(), key);
    }
    response.device_keys.insert(user, of_user);
    Ok(())
}

/// Adds the keys of users of whom no device list is kept.
fn add_response(
    s: &Snapshot,
    viewer: &Signer,
    keys: get_remote_keys::v1::Response,
    response: &mut Response,
) -> Result<(), Error> {
    response.device_keys.extend(keys.device_keys);
    for (user, master) in keys.master_keys {
        let master = with_viewer_signatures(s, viewer, &user, master)?;
        response.master_keys.insert(user, master);
    }
    response.self_signing_keys.extend(keys.self_signing_keys);
    Ok(())
}

/// The master key of a remote user with the signatures by `viewer`.
fn with_viewer_signatures(
    s: &Snapshot,
    viewer: &Signer,
    user: &OwnedUserId,
    master: Raw<CrossSigningKey>,
) -> Result<Raw<CrossSigningKey>, Error> {
    let Ok(mut key) = master.deserialize_as_unchecked::<CanonicalJsonObject>() else {
        return Ok(master);
    };
    if let Some(num) = users::num_of(s, user)? {
        signatures::add_viewer_signatures(s, viewer, num, &mut key)?;
    }
    raw(&key)
}

async fn local_keys(api: &Api, viewer: Signer, wanted: WantedDevices) -> Result<Response, Error> {
    let scan = api.store.scan("keys", move |s| {
        let mut response = Response::new();
        for (user_id, devices) in &wanted {
            let Some(user) = users::num_of(s, user_id)? else {
                continue;
            };
            let mut of_user = BTreeMap::new();
            for (device_id, mut keys) in device_keys::of_user(s, user)? {
                if is_wanted(devices, &device_id) {
                    let device = s.devices()?.load((user, device_id.as_str()))?;
                    let name = device.and_then(|device| device.display_name);
                    set_display_name(&mut keys, name);
                    of_user.insert(device_id, raw(&keys)?);
                }
            }
            response.device_keys.insert(user_id.clone(), of_user);
            add_signing_keys(s, &viewer, user, user_id, &mut response)?;
        }
        Ok::<_, Error>(response)
    });
    scan.await
}

fn add_signing_keys(
    s: &impl Reader,
    viewer: &Signer,
    user: UserNum,
    user_id: &OwnedUserId,
    response: &mut Response,
) -> Result<(), Error> {
    if let Some(mut master) = cross_signing::load(s, user, Usage::Master)? {
        signatures::add_viewer_signatures(s, viewer, user, &mut master)?;
        response.master_keys.insert(user_id.clone(), raw(&master)?);
    }
    if let Some(key) = cross_signing::load(s, user, Usage::SelfSigning)? {
        response
            .self_signing_keys
            .insert(user_id.clone(), raw(&key)?);
    }
    // The user-signing key is visible to its owner only.
    if user == viewer.user
        && let Some(key) = cross_signing::load(s, user, Usage::UserSigning)?
    {
        response
            .user_signing_keys
            .insert(user_id.clone(), raw(&key)?);
    }
    Ok(())
}

fn set_display_name(keys: &mut CanonicalJsonObject, name: Option<String>) {
    let mut unsigned = CanonicalJsonObject::new();
    if let Some(name) = name {
        unsigned.insert("device_display_name".to_owned(), name.into());
    }
    let unsigned = CanonicalJsonValue::Object(unsigned);
    keys.insert("unsigned".to_owned(), unsigned);
}
