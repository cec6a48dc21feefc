//! The request of a client to send messages to devices.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{
    OwnedServerName, UserId,
    api::federation::transactions::edu::DirectDeviceMessages,
    events::{AnyToDeviceEventContent, ToDeviceEventType},
    serde::Raw,
};

use super::sender::SharedRooms;
use crate::{protocol::canonical_text::normalized_text, store::UserNum, users::Error};

/// Of the content of one message.
pub(super) const MAX_CONTENT_BYTES: usize = 64 * 1024;
/// Of the type of a message.
pub const MAX_TYPE_BYTES: usize = 255;
/// Of one request. All of its messages are stored in one transaction, as it may be repeated. Encrypted messages to
/// more devices do not fit into a request.
const MAX_MESSAGES: usize = 2_000;

/// Messages of one type.
#[derive(Clone, Debug)]
pub struct Batch {
    pub kind: ToDeviceEventType,
    /// The content for each device.
    pub messages: DirectDeviceMessages,
}

impl Batch {
    /// Checks the type, and [normalizes](normalize) the contents.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::BadJson`].
    pub fn new(kind: ToDeviceEventType, mut messages: DirectDeviceMessages) -> Result<Self, Error> {
        if kind.to_string().len() > MAX_TYPE_BYTES {
            return Err(Error::TooLarge(
                "the type of a to-device message has at most 255 bytes",
            ));
        }
        if messages.values().map(BTreeMap::len).sum::<usize>() > MAX_MESSAGES {
            return Err(Error::TooLarge("a request has at most 2,000 messages"));
        }
        let mut contents = messages.values_mut().flat_map(BTreeMap::values_mut);
        contents.try_for_each(normalize)?;
        Ok(Self { kind, messages })
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

/// What has become of the messages of a request or of some EDUs, each counted for each device or server.
#[derive(Debug, Default)]
pub struct Delivery {
    stored: usize,
    refused: usize,
    /// A recipient to whom a message did not fit.
    full: Option<String>,
    /// Users of whom no device gets more from senders who share such rooms: what all of their devices have is
    /// not counted for each message again.
    full_users: BTreeSet<(UserNum, SharedRooms)>,
}

impl Delivery {
    pub(super) fn stored(&mut self) {
        self.stored += 1;
    }

    pub(super) fn full(&mut self, user: UserNum, shared: SharedRooms) {
        self.full_users.insert((user, shared));
    }

    pub(super) fn is_full(&self, user: UserNum, shared: SharedRooms) -> bool {
        self.full_users.contains(&(user, shared))
    }

    pub(super) fn refused(&mut self, recipient: String) {
        self.refused += 1;
        self.full.get_or_insert(recipient);
    }

    /// # Errors
    /// [`Error::QueueFull`] if none of the messages of `sender` was stored because none fits. Then the job has
    /// to fail.
    pub fn finish(self, sender: &UserId) -> Result<(), Error> {
        if self.stored == 0 && self.refused > 0 {
            return Err(Error::QueueFull);
        }
        self.log_refused(sender.as_str());
        Ok(())
    }

    pub(super) fn log_refused(&self, sender: &str) {
        if let Some(full) = &self.full {
            log::info!(
                "dropped {} to-device messages of {sender} to {full} or others: too many wait that were not fetched",
                self.refused
            );
        }
    }
}

/// Checks the content of a message, and writes its numbers as every server and client can read them: those
/// that canonical JSON forbids too.
///
/// # Errors
/// [`Error::TooLarge`] or [`Error::BadJson`].
pub fn normalize(content: &mut Raw<AnyToDeviceEventContent>) -> Result<(), Error> {
    let normalized = normalized_text(content.json().get().as_bytes()).ok();
    let object = normalized.filter(|json| json.starts_with('{'));
    let object = object.and_then(|json| Raw::from_json_string(json).ok());
    *content = object.ok_or(Error::BadJson(
        "the content of a to-device message is an object, with no number beyond 1.8e308",
    ))?;
    if content.json().get().len() > MAX_CONTENT_BYTES {
        return Err(Error::TooLarge(
            "the content of a to-device message has at most 64 KiB",
        ));
    }
    Ok(())
}
