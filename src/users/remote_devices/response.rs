//! What another server tells of the devices of one of its users.

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedUserId, UInt, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    MOST, MOST_BYTES, are_valid_device_keys, is_valid_cross_signing_key, shortened, size, text,
};
use crate::{store::records::RemoteDevice, users::devices::LONGEST};

/// The list of a user's devices as the user's server tells it, as far as it makes sense and is kept.
#[derive(Clone, Debug)]
pub struct DeviceListResponse {
    /// What the server calls this version of it.
    pub(super) stream_id: u64,
    pub(super) master_key: Option<String>,
    pub(super) self_signing_key: Option<String>,
    pub(super) devices: BTreeMap<OwnedDeviceId, RemoteDevice>,
}

/// The answer of `GET /_matrix/federation/v1/user/devices/{userId}`. ruma's has devices that all make
/// sense: one that does not would hide the others.
#[derive(Deserialize)]
struct Answer<'a> {
    user_id: OwnedUserId,
    stream_id: UInt,
    #[serde(borrow)]
    devices: Vec<&'a RawValue>,
    master_key: Option<Raw<CrossSigningKey>>,
    self_signing_key: Option<Raw<CrossSigningKey>>,
}

#[derive(Deserialize)]
struct Device {
    device_id: OwnedDeviceId,
    device_display_name: Option<String>,
    keys: Raw<DeviceKeys>,
}

impl DeviceListResponse {
    /// Reads what is told of `user`. DeviceList that make no sense, and those for which there is no room,
    /// are left out.
    ///
    /// # Errors
    /// If it is no such answer, or is one about another user.
    pub fn parse(user: &UserId, json: &[u8]) -> Result<Self, String> {
        let answer: Answer<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if answer.user_id != user {
            return Err("devices of another user".into());
        }
        let key = |key: Option<Raw<CrossSigningKey>>| {
            let key = key.filter(|key| is_valid_cross_signing_key(user, key));
            key.as_ref().map(text)
        };
        Ok(Self {
            stream_id: answer.stream_id.into(),
            master_key: key(answer.master_key),
            self_signing_key: key(answer.self_signing_key),
            devices: kept(user, &answer.devices),
        })
    }
}

/// The devices that make sense, of which the first are kept.
fn kept(user: &UserId, told: &[&RawValue]) -> BTreeMap<OwnedDeviceId, RemoteDevice> {
    let (mut devices, mut bytes) = (BTreeMap::new(), 0);
    for json in told {
        let Ok(device) = serde_json::from_str::<Device>(json.get()) else {
            continue;
        };
        let id = device.device_id;
        if id.as_str().len() > LONGEST || !are_valid_device_keys(user, &id, &device.keys) {
            continue;
        }
        let name = device.device_display_name.as_deref();
        let device = RemoteDevice {
            display_name: name.map(shortened),
            keys: Some(text(&device.keys)),
        };
        bytes += size(id.as_str(), &device);
        if devices.len() >= MOST || bytes > MOST_BYTES {
            break;
        }
        devices.entry(id).or_insert(device);
    }
    devices
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::{DeviceListResponse, MOST, MOST_BYTES};

    fn device(id: &str, filling: usize) -> Value {
        json!({
            "device_id": id,
            "keys": {
                "user_id": "@bob:b.example", "device_id": id, "algorithms": [], "keys": {},
                "signatures": {}, "of.the.future": "x".repeat(filling),
            },
        })
    }

    fn parse(devices: Vec<Value>) -> Result<DeviceListResponse, String> {
        let json = json!({ "user_id": "@bob:b.example", "stream_id": 7, "devices": devices });
        DeviceListResponse::parse(user_id!("@bob:b.example"), json.to_string().as_bytes())
    }

    fn ids(devices: Vec<Value>) -> Vec<String> {
        let devices = parse(devices).unwrap().devices.into_keys();
        devices.map(|id| id.to_string()).collect()
    }

    #[test]
    fn a_device_that_makes_no_sense_does_not_hide_the_others() {
        let mut of_another = device("OTHER", 0);
        of_another["keys"]["user_id"] = "@eve:b.example".into();
        let mut misnamed = device("MISNAMED", 0);
        misnamed["device_id"] = "DIFFERENT".into();
        let nonsense = [json!(7), json!({}), json!({ "device_id": "BARE" })];
        let mut all = vec![device("FIRST", 0), of_another, misnamed];
        all.extend(nonsense);
        all.push(device("LAST", 0));
        assert_eq!(ids(all), ["FIRST", "LAST"]);
        let (user, other) = (user_id!("@bob:b.example"), user_id!("@eve:b.example"));
        let json = json!({ "user_id": user, "stream_id": 7, "devices": [] }).to_string();
        assert!(DeviceListResponse::parse(user, json.as_bytes()).is_ok());
        assert!(DeviceListResponse::parse(other, json.as_bytes()).is_err());
        assert!(DeviceListResponse::parse(user, b"{}").is_err());
    }

    #[test]
    fn of_too_many_devices_the_first_are_kept() {
        let all = (0..MOST + 100).map(|number| device(&format!("D{number:04}"), 0));
        let kept = ids(all.collect());
        assert_eq!(kept.len(), MOST);
        assert_eq!(*kept.last().unwrap(), format!("D{:04}", MOST - 1));
    }

    #[test]
    fn of_devices_that_are_too_long_together_the_first_are_kept() {
        let long = 10_000;
        let all = (0..MOST).map(|number| device(&format!("D{number:04}"), long));
        let kept = ids(all.collect()).len();
        assert!((MOST_BYTES / long - 3..=MOST_BYTES / long).contains(&kept));
    }
}
