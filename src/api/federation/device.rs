//! Devices of local users and their keys, for other servers (server-server API, "Device Management" and
//! "End-to-End Encryption"). Devices without keys are left out: they cannot receive encrypted messages.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    DeviceId, OwnedDeviceId, OwnedUserId, ServerName, UInt, UserId,
    api::federation::{
        device::get_devices::{self, v1::UserDevice},
        keys::{
            claim_keys::{self, v1::OneTimeKeys},
            get_keys,
        },
    },
};
use serde_json::value::RawValue;

use crate::{
    api::{
        Api, Error, Origin, Streamed,
        key_claims::{ClaimedKeys, check_count, claims},
        keys::{
            MAX_KEYS, QueryField, QuerySource, UnwrittenKeys, is_wanted, raw, raw_value,
            signing_key,
        },
    },
    rates::{Kind, Rates},
    rooms::{
        self,
        servers::{self, shared_rooms},
    },
    store::{Reader, Records, Snapshot, UserNum},
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
    origin: Origin,
    request: get_devices::v1::Request,
) -> Result<get_devices::v1::Response, Error> {
    let names = api.config.share_device_names;
    let scan = api.store.scan("devices for another server", move |s| {
        let Some(user) = users::num_of(s, &request.user_id)? else {
            return Ok(None);
        };
        if accounts::load(s, user)?.is_none() {
            return Ok(None);
        }
        let version = UInt::new_saturating(device_lists::stream_id(s, user)?.0);
        let mut response = get_devices::v1::Response::new(request.user_id.clone(), version);
        let names = names && shares_room(s, &origin.server, user)?;
        for (device_id, keys) in device_keys::of_user(s, user)? {
            let device = s.devices()?.load((user, device_id.as_str()))?;
            let mut entry = UserDevice::new(device_id, raw(&keys)?);
            let named = device.filter(|_| names);
            entry.device_display_name = named.and_then(|device| device.display_name);
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
) -> Result<Streamed, Error> {
    if request.device_keys.len() > MAX_KEYS {
        return Err(Error::too_large(format!(
            "device_keys may have at most {MAX_KEYS} users, found {}",
            request.device_keys.len()
        )));
    }
    let users = request.device_keys.into_iter().collect();
    Streamed::read(&api.store, UnwrittenKeys::new(QueriedKeys(users))).await
}

/// Keys of local users, and which of their devices are wanted; an empty list means all of them.
struct QueriedKeys(Vec<(OwnedUserId, Vec<OwnedDeviceId>)>);

impl QuerySource for QueriedKeys {
    const FIELDS: &'static [QueryField] = &[
        QueryField::DeviceKeys,
        QueryField::MasterKeys,
        QueryField::SelfSigningKeys,
    ];

    fn count(&self, _field: QueryField) -> usize {
        self.0.len()
    }

    fn entry(
        &mut self,
        s: &Snapshot,
        field: QueryField,
        index: usize,
    ) -> Result<Option<(String, Box<RawValue>)>, Error> {
        let (user_id, wanted) = &self.0[index];
        let Some(user) = users::num_of(s, user_id)? else {
            return Ok(None);
        };
        if accounts::load(s, user)?.is_none() {
            return Ok(None);
        }
        let json = match field {
            QueryField::DeviceKeys => {
                let mut of_user = BTreeMap::new();
                for (device_id, keys) in device_keys::of_user(s, user)? {
                    if is_wanted(wanted, &device_id) {
                        of_user.insert(device_id, raw_value(&keys)?);
                    }
                }
                Some(raw_value(&of_user)?)
            }
            QueryField::MasterKeys => signing_key(s, user, Usage::Master)?,
            QueryField::SelfSigningKeys => signing_key(s, user, Usage::SelfSigning)?,
            QueryField::UserSigningKeys | QueryField::Failures => None,
        };
        Ok(json.map(|json| (user_id.to_string(), json)))
    }
}

/// `POST /_matrix/federation/v1/user/keys/claim`. Servers that share no room with a user could use up all keys of
/// a device that is offline: beyond a rate they get the fallback key only.
pub async fn claim_keys(
    api: Api,
    origin: Origin,
    request: claim_keys::v1::Request,
) -> Result<Streamed, Error> {
    check_count(&request.one_time_keys)?;
    let users: Vec<_> = request.one_time_keys.keys().cloned().collect();
    let (server, of) = (origin.server.clone(), origin.server);
    let scan = api.store.scan("users whose keys are claimed", move |s| {
        let mut unrelated = BTreeSet::new();
        for user_id in users {
            if let Some(user) = users::num_of(s, &user_id)?
                && !shares_room(s, &of, user)?
            {
                unrelated.insert(user_id);
            }
        }
        Ok::<_, Error>(unrelated)
    });
    let unrelated = scan.await?;
    let is_limited = |user: &UserId, _: &DeviceId| {
        unrelated.contains(user) && is_claim_limited(&api.rates, &server, user)
    };
    let claims = claims(request.one_time_keys, is_limited);
    let claimed = ClaimedKeys::new(claims, OneTimeKeys::new(), None, ());
    claimed.into_response(&api.store).await
}

/// Whether `server`, or all such servers together, have claimed their share of the keys of `user`. One of
/// them cannot take what the others need.
fn is_claim_limited(rates: &Rates, server: &ServerName, user: &UserId) -> bool {
    rates.check(Kind::ClaimKeys, (user, server)).is_err()
        || rates.check(Kind::ClaimKeysByAll, user).is_err()
}

fn shares_room(r: &impl Reader, server: &ServerName, user: UserNum) -> Result<bool, rooms::Error> {
    match servers::num(r, server)? {
        Some(server) => shared_rooms::shares_with_server(r, server, user),
        None => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{ServerName, server_name, user_id};

    use super::is_claim_limited;
    use crate::{clock::Clock, rates::Rates};

    #[test]
    fn one_server_cannot_use_up_what_others_may_claim_and_all_together_not_a_devices_keys() {
        let rates = Rates::new(1000, Clock::manual(1_000_000));
        let user = user_id!("@a:here");
        let claimed = |server: &ServerName| {
            let attempts = (0..100).filter(|_| !is_claim_limited(&rates, server, user));
            attempts.count()
        };
        assert_eq!(claimed(server_name!("one.example")), 5);
        assert_eq!(claimed(server_name!("other.example")), 5);
        let all = (0..50).map(|n| {
            let server = ServerName::parse(format!("s{n}.example"));
            claimed(&server.expect("a server name"))
        });
        assert_eq!(all.sum::<usize>(), 20);
    }
}
