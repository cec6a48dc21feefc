//! The keys of devices and users, and what users have signed of them (client-server API, "End-to-End
//! Encryption").

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

use super::keys::{LONGEST, MOST, PATIENCE, by_place, failure, raw};
use crate::{
    api::{Api, Error, Session},
    store::{Reader, Records, UserNum},
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

/// What is asked of devices: of which users, and of which devices; none are all.
type Asked = BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>;

/// `POST /_matrix/client/v3/keys/query`. Of users of other servers with whom somebody here shares a room
/// it answers from the lists of their devices, also while their servers are away; others are asked for.
/// A list that may be out of date is shown together with the failure of its server.
pub async fn get_keys(api: Api, who: Session, request: Request) -> Result<Response, Error> {
    if request.device_keys.len() > MOST {
        return Err(Error::too_large("too many users at once"));
    }
    let deadline = Instant::now() + request.timeout.unwrap_or(PATIENCE).min(LONGEST);
    let left = || deadline.saturating_duration_since(Instant::now());
    let viewer = Signer {
        user: who.user,
        id: who.user_id,
    };
    let (of_local, mut remote) = by_place(&api, request.device_keys);
    let mut response = of_local_users(&api, viewer.clone(), of_local).await?;
    let lists = api.federation.device_lists();
    let (found, missing) = lists.look_up(remote.keys().cloned().collect()).await?;
    let mut of_strangers = remote.clone();
    of_strangers.retain(|user, _| found.untracked.contains(user));
    let (found, answers) = future::zip(
        lists.fetch_missing(found, missing, left()),
        api.federation.user_keys().query(of_strangers, left()),
    )
    .await;
    let found = found?;
    for (user, list) in found.lists {
        let wanted = remote.remove(&user).unwrap_or_default();
        show_list(&api, &viewer, (user, list, &wanted), &mut response)?;
    }
    let mut failures = found.failures;
    for (server, answer) in answers {
        match answer {
            Ok(answer) => show_answer(&api, &viewer, answer, &mut response)?,
            Err(error) => drop(failures.insert(server, error)),
        }
    }
    let failures = failures.into_iter();
    let failures = failures.map(|(server, error)| (server.to_string(), failure(&error)));
    response.failures.extend(failures);
    Ok(response)
}

fn is_wanted(wanted: &[OwnedDeviceId], device_id: &OwnedDeviceId) -> bool {
    wanted.is_empty() || wanted.contains(device_id)
}

fn show_list(
    api: &Api,
    viewer: &Signer,
    (user, list, wanted): (OwnedUserId, DeviceList, &[OwnedDeviceId]),
    response: &mut Response,
) -> Result<(), Error> {
    let mut of_user = BTreeMap::new();
    for (device_id, device) in list.devices {
        let Some(keys) = device.keys.filter(|_| is_wanted(wanted, &device_id)) else {
            continue;
        };
        let shown = match keys.deserialize_as_unchecked::<CanonicalJsonObject>() {
            Ok(mut object) => {
                show_name(&mut object, device.display_name);
                raw(&object)?
            }
            Err(_) => keys,
        };
        of_user.insert(device_id, shown);
    }
    if let Some(master) = list.master_key {
        let master = as_seen_by(api, viewer, &user, master)?;
        response.master_keys.insert(user.clone(), master);
    }
    if let Some(key) = list.self_signing_key {
        response.self_signing_keys.insert(user.clone(), key);
    }
    response.device_keys.insert(user, of_user);
    Ok(())
}

/// Shows what a server says of users of whom no list is kept.
fn show_answer(
    api: &Api,
    viewer: &Signer,
    answer: get_remote_keys::v1::Response,
    response: &mut Response,
) -> Result<(), Error> {
    response.device_keys.extend(answer.device_keys);
    for (user, master) in answer.master_keys {
        let master = as_seen_by(api, viewer, &user, master)?;
        response.master_keys.insert(user, master);
    }
    response.self_signing_keys.extend(answer.self_signing_keys);
    Ok(())
}

/// The master key of another server's user with what `viewer` has signed of it.
fn as_seen_by(
    api: &Api,
    viewer: &Signer,
    user: &OwnedUserId,
    master: Raw<CrossSigningKey>,
) -> Result<Raw<CrossSigningKey>, Error> {
    let Ok(mut key) = master.deserialize_as_unchecked::<CanonicalJsonObject>() else {
        return Ok(master);
    };
    api.store.read(|s| {
        if let Some(num) = users::num_of(s, user)? {
            signatures::add_viewer_signatures(s, viewer, num, &mut key)?;
        }
        raw(&key)
    })
}

async fn of_local_users(api: &Api, viewer: Signer, asked: Asked) -> Result<Response, Error> {
    let scan = api.store.scan("keys", move |s| {
        let mut response = Response::new();
        for (user_id, wanted) in &asked {
            let Some(user) = users::num_of(s, user_id)? else {
                continue;
            };
            let mut of_user = BTreeMap::new();
            for (device_id, mut keys) in device_keys::of_user(s, user)? {
                if is_wanted(wanted, &device_id) {
                    let device = s.devices()?.load((user, device_id.as_str()))?;
                    let name = device.and_then(|device| device.display_name);
                    show_name(&mut keys, name);
                    of_user.insert(device_id, raw(&keys)?);
                }
            }
            response.device_keys.insert(user_id.clone(), of_user);
            show_signing_keys(s, &viewer, (user, user_id), &mut response)?;
        }
        Ok::<_, Error>(response)
    });
    scan.await
}

fn show_signing_keys(
    s: &impl Reader,
    viewer: &Signer,
    (user, user_id): (UserNum, &OwnedUserId),
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
    // Whom users trust is nobody else's business.
    if user == viewer.user
        && let Some(key) = cross_signing::load(s, user, Usage::UserSigning)?
    {
        response
            .user_signing_keys
            .insert(user_id.clone(), raw(&key)?);
    }
    Ok(())
}

fn show_name(keys: &mut CanonicalJsonObject, name: Option<String>) {
    let mut unsigned = CanonicalJsonObject::new();
    if let Some(name) = name {
        unsigned.insert("device_display_name".to_owned(), name.into());
    }
    let unsigned = CanonicalJsonValue::Object(unsigned);
    keys.insert("unsigned".to_owned(), unsigned);
}
