//! The response of `GET /_matrix/federation/v1/user/devices/{userId}`.

use std::collections::BTreeMap;

use ruma::{
    OwnedDeviceId, OwnedUserId, UInt, UserId,
    encryption::{CrossSigningKey, DeviceKeys},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check::{
    MAX_DEVICES, MAX_LIST_BYTES, are_valid_device_keys, device_bytes, is_valid_cross_signing_key,
    to_text, truncate_name,
};
use crate::{store::records::RemoteDevice, users::devices::MAX_NAME_BYTES};

/// The valid part of a response.
#[derive(Clone, Debug)]
pub struct DeviceListResponse {
    pub(super) stream_id: u64,
    pub(super) master_key: Option<String>,
    pub(super) self_signing_key: Option<String>,
    pub(super) devices: BTreeMap<OwnedDeviceId, RemoteDevice>,
}

/// ruma's response fails to parse if one device is invalid, which would hide the others.
#[derive(Deserialize)]
struct Body<'a> {
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
    /// Parses the response for `user`. Leaves out invalid devices, and those beyond the limits.
    ///
    /// # Errors
    /// If it is no such response, or of another user.
    pub fn parse(user: &UserId, json: &[u8]) -> Result<Self, String> {
        let body: Body<'_> = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if body.user_id != user {
            return Err(format!("`user_id` is {} instead of {user}", body.user_id));
        }
        let key = |key: Option<Raw<CrossSigningKey>>| {
            let key = key.filter(|key| is_valid_cross_signing_key(user, key));
            key.as_ref().map(to_text)
        };
        Ok(Self {
            stream_id: body.stream_id.into(),
            master_key: key(body.master_key),
            self_signing_key: key(body.self_signing_key),
            devices: valid_devices(user, &body.devices),
        })
    }
}

fn valid_devices(user: &UserId, devices: &[&RawValue]) -> BTreeMap<OwnedDeviceId, RemoteDevice> {
    let (mut valid, mut bytes) = (BTreeMap::new(), 0);
    for json in devices {
        let Ok(device) = serde_json::from_str::<Device>(json.get()) else {
            continue;
        };
        let id = device.device_id;
        if id.as_str().len() > MAX_NAME_BYTES || !are_valid_device_keys(user, &id, &device.keys) {
            continue;
        }
        let name = device.device_display_name.as_deref();
        let device = RemoteDevice {
            display_name: name.map(truncate_name),
            keys: Some(to_text(&device.keys)),
        };
        bytes += device_bytes(id.as_str(), &device);
        if valid.len() >= MAX_DEVICES || bytes > MAX_LIST_BYTES {
            break;
        }
        valid.entry(id).or_insert(device);
    }
    valid
}

#[cfg(test)]
mod tests {
    use ruma::user_id;
    use serde_json::{Value, json};

    use super::{DeviceListResponse, MAX_DEVICES, MAX_LIST_BYTES};

    fn device(id: &str, padding: usize) -> Value {
        json!({
            "device_id": id,
            "keys": {
                "user_id": "@bob:b.example", "device_id": id, "algorithms": [], "keys": {},
                "signatures": {}, "of.the.future": "x".repeat(padding),
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
    fn an_invalid_device_does_not_hide_the_others() {
        let mut of_another = device("OTHER", 0);
        of_another["keys"]["user_id"] = "@eve:b.example".into();
        let mut misnamed = device("MISNAMED", 0);
        misnamed["device_id"] = "DIFFERENT".into();
        let invalid = [json!(7), json!({}), json!({ "device_id": "BARE" })];
        let mut all = vec![device("FIRST", 0), of_another, misnamed];
        all.extend(invalid);
        all.push(device("LAST", 0));
        assert_eq!(ids(all), ["FIRST", "LAST"]);
        let (user, other) = (user_id!("@bob:b.example"), user_id!("@eve:b.example"));
        let json = json!({ "user_id": user, "stream_id": 7, "devices": [] }).to_string();
        assert!(DeviceListResponse::parse(user, json.as_bytes()).is_ok());
        assert!(DeviceListResponse::parse(other, json.as_bytes()).is_err());
        assert!(DeviceListResponse::parse(user, b"{}").is_err());
    }

    #[test]
    fn of_too_many_devices_the_first_are_taken() {
        let all = (0..MAX_DEVICES + 100).map(|number| device(&format!("D{number:04}"), 0));
        let taken = ids(all.collect());
        assert_eq!(taken.len(), MAX_DEVICES);
        assert_eq!(*taken.last().unwrap(), format!("D{:04}", MAX_DEVICES - 1));
    }

    #[test]
    fn of_devices_that_are_too_large_together_the_first_are_taken() {
        let long = 10_000;
        let all = (0..MAX_DEVICES).map(|number| device(&format!("D{number:04}"), long));
        let taken = ids(all.collect()).len();
        assert!((MAX_LIST_BYTES / long - 3..=MAX_LIST_BYTES / long).contains(&taken));
    }
}
