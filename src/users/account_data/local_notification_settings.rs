//! The notification settings of a device ([MSC3890]), account data that are removed with the device. Clients
//! that had them get an empty object once; to others they do not exist (as MSC3391 says of deleted data).
//!
//! [MSC3890]: https://github.com/matrix-org/matrix-spec-proposals/pull/3890

use ruma::DeviceId;

use super::rows::{self, GLOBAL};
use crate::store::{self, Tx, UserNum};

const PREFIXES: [&str; 2] = [
    "m.local_notification_settings.",
    "org.matrix.msc3890.local_notification_settings.",
];
const REMOVED: &str = "{}";

/// Whether data of this type are such settings.
pub(super) fn is_type_of_settings(kind: &str) -> bool {
    PREFIXES.iter().any(|prefix| kind.starts_with(prefix))
}

/// Whether this is what is left of removed settings.
pub(super) fn are_removed(kind: &str, content: &str) -> bool {
    is_type_of_settings(kind) && content == REMOVED
}

/// Removes the settings of a device.
pub(in crate::users) fn remove(
    tx: &Tx,
    user: UserNum,
    device_id: &DeviceId,
) -> Result<(), store::Error> {
    for prefix in PREFIXES {
        let kind = format!("{prefix}{device_id}");
        let stored = rows::load(tx, user, GLOBAL, &kind)?;
        if stored.is_some_and(|data| data.content != REMOVED) {
            rows::put(tx, user, GLOBAL, &kind, REMOVED)?;
        }
    }
    Ok(())
}
