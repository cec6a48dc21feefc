//! Who calls.

use std::net::IpAddr;

use ruma::{OwnedDeviceId, OwnedUserId};

use crate::store::{DeviceNum, UserNum};

/// A device of a user of this server, proven by its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The user's number.
    pub user: UserNum,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The device's number.
    pub device: DeviceNum,
}

/// Somebody who need not say who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anyone {
    /// Where they call from: their own address, or what a proxy on our side says it is.
    pub address: IpAddr,
}
