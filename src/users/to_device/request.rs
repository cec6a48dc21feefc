//! The request of a client to send messages to devices.

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, OwnedServerName, api::federation::transactions::edu::DirectDeviceMessages,
    events::ToDeviceEventType,
};

use crate::users::Error;

/// Of the content of one message.
pub const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// Of the type of a message.
pub const MAX_TYPE_BYTES: usize = 255;

/// Messages of one type.
#[derive(Clone, Debug)]
pub struct Batch {
    pub kind: ToDeviceEventType,
    /// The content for each device.
    pub messages: DirectDeviceMessages,
}

impl Batch {
    /// Checks sizes, and that each content is canonical JSON: transactions to other servers are signed.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::BadJson`].
    pub fn check(&self) -> Result<(), Error> {
        if self.kind.to_string().len() > MAX_TYPE_BYTES {
            return Err(Error::TooLarge(
                "the type of a to-device message has at most 255 bytes",
            ));
        }
        for content in self.messages.values().flat_map(BTreeMap::values) {
            let json = content.json().get();
            if json.len() > MAX_CONTENT_BYTES {
                return Err(Error::TooLarge(
                    "the content of a to-device message has at most 64 KiB",
                ));
            }
            serde_json::from_str::<CanonicalJsonObject>(json).map_err(|_| {
                Error::BadJson(
                    "the content of a to-device message is an object of canonical JSON, which has \
                     no fractions",
                )
            })?;
        }
        Ok(())
    }

    pub fn by_server(self) -> BTreeMap<OwnedServerName, DirectDeviceMessages> {
        let mut servers: BTreeMap<_, DirectDeviceMessages> = BTreeMap::new();
        for (user, messages) in self.messages {
            let server = servers.entry(user.server_name().to_owned()).or_default();
            server.insert(user, messages);
        }
        servers
    }
}
