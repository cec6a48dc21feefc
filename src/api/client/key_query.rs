//! Queries for device keys and cross-signing keys (client-server API, "End-to-End Encryption").

use std::{collections::BTreeMap, time::Instant};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId,
    api::{client::keys::get_keys::v3::Request, federation::keys::get_keys as get_remote_keys},
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde_json::value::RawValue;
use smol::future;

use super::keys::{DEFAULT_TIMEOUT, MAX_TIMEOUT, failure, share_of_requests, split_by_server};
use crate::{
    api::{
        Api, Error, Session, Streamed,
        keys::{
            MAX_KEYS, QueryField, QuerySource, UnwrittenKeys, is_wanted, raw_value, signing_key,
        },
    },
    federation::{self, ResponseMemory},
    shares::Share,
    store::{self, Reader, Records, Snapshot, UserNum},
    users::{
        self,
        keys::{
            cross_signing::{self, Usage},
            device_keys,
            signatures::{self, Signer},
        },
        remote_devices,
    },
};

/// The devices of a user whose keys are wanted; an empty list means all of them.
type WantedDevices = Vec<OwnedDeviceId>;

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
    let (local, mut remote) = split_by_server(&api, request.device_keys);
    let share = share_of_requests(&api, &session, remote.len())?;
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
    let local = local.into_iter();
    let mut users: Vec<_> = local
        .map(|(user, wanted)| (user, KeptAt::Here(wanted)))
        .collect();
    for user in found.stored {
        let wanted = remote.remove(&user).unwrap_or_default();
        users.push((user, KeptAt::DeviceLists(wanted)));
    }
    let (mut failures, mut memory) = (found.failures, Vec::new());
    let mut received = BTreeMap::new();
    for (server, response) in responses {
        match response {
            Ok((keys, of_keys)) => {
                add_response(keys, &mut received);
                memory.push(of_keys);
            }
            Err(error) => drop(failures.insert(server, error)),
        }
    }
    let received = received.into_iter();
    users.extend(received.map(|(user, keys)| (user, KeptAt::Response(keys))));
    let queried = QueriedKeys {
        viewer: Signer {
            user: session.user,
            id: session.user_id,
        },
        users,
        failures: failures.into_iter().collect(),
        _held: (share, memory),
    };
    Streamed::read(&api.store, UnwrittenKeys::new(queried)).await
}

/// The keys of a user of whom no device list is kept.
#[derive(Default)]
struct ReceivedKeys {
    devices: Option<BTreeMap<OwnedDeviceId, Raw<DeviceKeys>>>,
    master: Option<Raw<CrossSigningKey>>,
    self_signing: Option<Raw<CrossSigningKey>>,
}

fn add_response(
    response: get_remote_keys::v1::Response,
    received: &mut BTreeMap<OwnedUserId, ReceivedKeys>,
) {
    for (user, devices) in response.device_keys {
        received.entry(user).or_default().devices = Some(devices);
    }
    for (user, key) in response.master_keys {
        received.entry(user).or_default().master = Some(key);
    }
    for (user, key) in response.self_signing_keys {
        received.entry(user).or_default().self_signing = Some(key);
    }
}

/// Where the keys of a user are, and which devices are wanted of those that are read when they are sent.
enum KeptAt {
    Here(WantedDevices),
    DeviceLists(WantedDevices),
    Response(ReceivedKeys),
}

struct QueriedKeys {
    viewer: Signer,
    users: Vec<(OwnedUserId, KeptAt)>,
    failures: Vec<(OwnedServerName, federation::Error)>,
    /// Until the response is sent.
    _held: (Share<UserNum>, Vec<ResponseMemory>),
}

impl QuerySource for QueriedKeys {
    const FIELDS: &'static [QueryField] = &[
        QueryField::DeviceKeys,
        QueryField::MasterKeys,
        QueryField::SelfSigningKeys,
        QueryField::UserSigningKeys,
        QueryField::Failures,
    ];

    fn count(&self, field: QueryField) -> usize {
        match field {
            QueryField::Failures => self.failures.len(),
            _ => self.users.len(),
        }
    }

    fn entry(
        &mut self,
        s: &Snapshot,
        field: QueryField,
        index: usize,
    ) -> Result<Option<(String, Box<RawValue>)>, Error> {
        if field == QueryField::Failures {
            let (server, error) = &self.failures[index];
            return Ok(Some((server.to_string(), raw_value(&failure(error))?)));
        }
        let (user_id, kept_at) = &self.users[index];
        let json = match kept_at {
            KeptAt::Here(wanted) => local_keys(s, &self.viewer, user_id, wanted, field)?,
            KeptAt::DeviceLists(wanted) => tracked_keys(s, &self.viewer, user_id, wanted, field)?,
            KeptAt::Response(keys) => received_keys(s, &self.viewer, user_id, keys, field)?,
        };
        Ok(json.map(|json| (user_id.to_string(), json)))
    }
}

fn local_keys(
    s: &Snapshot,
    viewer: &Signer,
    user_id: &UserId,
    wanted: &[OwnedDeviceId],
    field: QueryField,
) -> Result<Option<Box<RawValue>>, Error> {
    let Some(user) = users::num_of(s, user_id)? else {
        return Ok(None);
    };
    match field {
        QueryField::DeviceKeys => {
            let mut of_user = BTreeMap::new();
            for (device_id, mut keys) in device_keys::of_user(s, user)? {
                if is_wanted(wanted, &device_id) {
                    let device = s.devices()?.load((user, device_id.as_str()))?;
                    let name = device.and_then(|device| device.display_name);
                    set_display_name(&mut keys, name);
                    of_user.insert(device_id, raw_value(&keys)?);
                }
            }
            raw_value(&of_user).map(Some)
        }
        QueryField::MasterKeys => {
            let Some(mut master) = cross_signing::load(s, user, Usage::Master)? else {
                return Ok(None);
            };
            signatures::add_viewer_signatures(s, viewer, user, &mut master)?;
            raw_value(&master).map(Some)
        }
        QueryField::SelfSigningKeys => signing_key(s, user, Usage::SelfSigning),
        // It is visible to its owner only.
        QueryField::UserSigningKeys if user == viewer.user => {
            signing_key(s, user, Usage::UserSigning)
        }
        QueryField::UserSigningKeys | QueryField::Failures => Ok(None),
    }
}

/// The keys in a device list.
fn tracked_keys(
    s: &Snapshot,
    viewer: &Signer,
    user_id: &UserId,
    wanted: &[OwnedDeviceId],
    field: QueryField,
) -> Result<Option<Box<RawValue>>, Error> {
    let Some(user) = users::num_of(s, user_id)? else {
        return Ok(None);
    };
    // It may be gone since the response was begun. No entry says less than an empty one: that no device is left.
    let Some(list) = s.remote_device_lists()?.load(user)? else {
        return Ok(None);
    };
    let key = |json: String| {
        let json = RawValue::from_string(json);
        json.map_err(|_| store::Error::corrupt("remote_device_lists", user, "a key is not JSON"))
    };
    match field {
        QueryField::DeviceKeys => {
            let mut of_user = BTreeMap::new();
            for (device_id, device) in remote_devices::devices(s, user)? {
                let Some(keys) = device.keys.filter(|_| is_wanted(wanted, &device_id)) else {
                    continue;
                };
                let keys = match keys.deserialize_as_unchecked::<CanonicalJsonObject>() {
                    Ok(mut object) => {
                        set_display_name(&mut object, device.display_name);
                        raw_value(&object)?
                    }
                    Err(_) => keys.into_json(),
                };
                of_user.insert(device_id, keys);
            }
            raw_value(&of_user).map(Some)
        }
        QueryField::MasterKeys => {
            let master = list.master_key.map(key).transpose()?;
            let with_signatures =
                |master: Box<RawValue>| with_viewer_signatures(s, viewer, user_id, &master);
            master.map(with_signatures).transpose()
        }
        QueryField::SelfSigningKeys => Ok(list.self_signing_key.map(key).transpose()?),
        QueryField::UserSigningKeys | QueryField::Failures => Ok(None),
    }
}

fn received_keys(
    s: &Snapshot,
    viewer: &Signer,
    user_id: &UserId,
    keys: &ReceivedKeys,
    field: QueryField,
) -> Result<Option<Box<RawValue>>, Error> {
    match field {
        QueryField::DeviceKeys => keys.devices.as_ref().map(raw_value).transpose(),
        QueryField::MasterKeys => {
            let master = keys.master.as_ref();
            let with_signatures = |master: &Raw<CrossSigningKey>| {
                with_viewer_signatures(s, viewer, user_id, master.json())
            };
            master.map(with_signatures).transpose()
        }
        QueryField::SelfSigningKeys => keys.self_signing.as_ref().map(raw_value).transpose(),
        QueryField::UserSigningKeys | QueryField::Failures => Ok(None),
    }
}

/// The master key of a remote user with the signatures by `viewer`.
fn with_viewer_signatures(
    s: &Snapshot,
    viewer: &Signer,
    user: &UserId,
    master: &RawValue,
) -> Result<Box<RawValue>, Error> {
    let Ok(mut key) = serde_json::from_str::<CanonicalJsonObject>(master.get()) else {
        return Ok(master.to_owned());
    };
    if let Some(num) = users::num_of(s, user)? {
        signatures::add_viewer_signatures(s, viewer, num, &mut key)?;
    }
    raw_value(&key)
}

fn set_display_name(keys: &mut CanonicalJsonObject, name: Option<String>) {
    let mut unsigned = CanonicalJsonObject::new();
    if let Some(name) = name {
        unsigned.insert("device_display_name".to_owned(), name.into());
    }
    let unsigned = CanonicalJsonValue::Object(unsigned);
    keys.insert("unsigned".to_owned(), unsigned);
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::{QueryField, Signer, tracked_keys};
    use crate::{rooms::tests::with_store, store::UserNum};

    #[test]
    fn a_user_whose_device_list_is_gone_has_no_entry_instead_of_no_devices() {
        let bob = user_id!("@bob:b.example");
        let viewer = Signer {
            user: UserNum(1),
            id: user_id!("@alice:a.example").to_owned(),
        };
        with_store(async |store| {
            let known = store.write(move |tx| tx.user_num(bob.as_str()));
            known.await.expect("it is written");
            for field in [QueryField::DeviceKeys, QueryField::MasterKeys] {
                let keys = store.read(|s| tracked_keys(s, &viewer, bob, &[], field));
                assert!(keys.expect("a read").is_none(), "{field:?}");
            }
        });
    }
}
