//! Device management (client-server API, "Device Management").

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{
        Device, delete_device, delete_devices, get_device, get_devices, update_device,
    },
};
use serde_json::Value;

use super::uiaa::{self, Interactive};
use crate::{
    api::{Adapted, Api, Error, Session, Streamed, streamed::remove_nulls},
    store::records,
};

/// `GET /_matrix/client/v3/devices`
pub async fn get_devices(
    api: Api,
    session: Session,
    _request: get_devices::v3::Request,
) -> Result<Streamed, Error> {
    let devices = api.users.devices(session.user)?;
    let devices = devices
        .into_iter()
        .map(|(id, device)| device_info(id, device));
    let response = get_devices::v3::Response::new(devices.collect());
    Streamed::edited(response, |body| {
        let devices = body.get_mut("devices").and_then(Value::as_array_mut);
        for device in devices.into_iter().flatten() {
            device.as_object_mut().map(remove_nulls);
        }
    })
}

/// `GET /_matrix/client/v3/devices/{deviceId}`
pub async fn get_device(
    api: Api,
    session: Session,
    request: get_device::v3::Request,
) -> Result<Streamed, Error> {
    let device = api.users.device(session.user, &request.device_id)?;
    let device = device_info(request.device_id, device);
    Streamed::edited(get_device::v3::Response::new(device), |_| {})
}

fn device_info(device_id: OwnedDeviceId, device: records::Device) -> Device {
    let mut info = Device::new(device_id);
    info.display_name = device.display_name;
    info.last_seen_ip = device.last_seen_ip;
    let ts = device.last_seen_ts.map(UInt::new_saturating);
    info.last_seen_ts = ts.map(MilliSecondsSinceUnixEpoch);
    info
}

/// `PUT /_matrix/client/v3/devices/{deviceId}`
pub async fn update_device(
    api: Api,
    session: Session,
    request: update_device::v3::Request,
) -> Result<update_device::v3::Response, Error> {
    match request.display_name {
        Some(name) => {
            let rename = api
                .users
                .rename_device(session.user, request.device_id, name);
            rename.await?;
        }
        None => {
            api.users.device(session.user, &request.device_id)?;
        }
    }
    Ok(update_device::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/devices/{deviceId}`
pub async fn delete_device(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<delete_device::v3::Request>,
) -> Result<delete_device::v3::Response, Error> {
    uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
    let devices = vec![request.device_id];
    api.users.remove_devices(session.user, devices).await?;
    Ok(delete_device::v3::Response::new())
}

/// `POST /_matrix/client/v3/delete_devices`
pub async fn delete_devices(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: operation,
    }: Interactive<delete_devices::v3::Request>,
) -> Result<delete_devices::v3::Response, Error> {
    uiaa::confirm_password(&api, &session, operation, request.auth.as_ref()).await?;
    let remove = api.users.remove_devices(session.user, request.devices);
    remove.await?;
    Ok(delete_devices::v3::Response::new())
}
