//! The EDUs that are stored until a server has acknowledged them: to-device messages, and changes of the
//! devices of local users.
//!
//! `device_list_cursors` has the position in `device_list_log` up to which a server has received the
//! changes. A server without a cursor, or that lacks changes that are not kept any more, receives the last
//! change of a device of that user, from which it learns that it lacks others, and the cross-signing keys.
//!
//! What cannot be sent is left out, and removed when the others are acknowledged.
//!
//! Source: server-server API, "Send-to-device messaging" and "Device Management".

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UInt,
    api::federation::transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::ephemeral_edus::MAX_EDUS;
use crate::{
    rooms::{self, servers::shared_rooms},
    store::{
        Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{ChangedPart, DeviceListChange},
    },
    users::{
        self, device_lists,
        keys::{
            self,
            cross_signing::{self, Usage},
        },
        to_device,
    },
};

/// How many changes of device lists are read for one transaction.
const MAX_CHANGES_READ: usize = 500;
/// The cursor is moved over changes that do not concern the server when there are so many.
const MIN_IRRELEVANT_CHANGES: usize = 50;

/// The stored EDUs of one transaction.
#[derive(Debug, Default)]
pub struct StoredEdus {
    pub edus: Vec<Raw<Edu>>,
    /// The position of the last to-device message.
    to_device: Option<Position>,
    /// The new cursor in `device_list_log`.
    device_lists: Option<Position>,
    names: bool,
}

#[derive(Serialize)]
struct TypedContent<'a> {
    edu_type: &'a str,
    content: &'a RawValue,
}

impl StoredEdus {
    /// The next EDUs for `server`, at most `max` or one more. `names` says whether they have the names of devices.
    pub fn next(
        r: &impl Reader,
        server: ServerNum,
        max: usize,
        names: bool,
    ) -> Result<Self, rooms::Error> {
        let mut stored = Self {
            names,
            ..Self::default()
        };
        let max = max.min(MAX_EDUS);
        if let Some(messages) = to_device::outbound(r, server, max)? {
            let edu_type = "m.direct_to_device";
            for content in &messages.contents {
                let edu = to_raw_value(&TypedContent { edu_type, content });
                let edu = edu.map_err(|_| rooms::Error::not_serializable("an EDU"))?;
                stored.edus.push(Raw::from_json(edu));
            }
            stored.to_device = Some(messages.last);
        }
        stored.add_device_lists(r, server, max.min(MAX_EDUS - 1))?;
        Ok(stored)
    }

    /// Adds changes of device lists that the server has not received.
    fn add_device_lists(
        &mut self,
        r: &impl Reader,
        server: ServerNum,
        max: usize,
    ) -> Result<(), rooms::Error> {
        let cursor = r.device_list_cursors()?.get(server)?.map(|row| row.value());
        let after = cursor.unwrap_or(Position::MIN);
        let (mut extents, mut irrelevant) = (BTreeMap::new(), 0);
        for (position, change) in device_lists::changes_after(r, after, MAX_CHANGES_READ)? {
            if self.edus.len() >= max {
                return Ok(());
            }
            let user = change.user;
            let extent = match extents.get(&user) {
                Some(extent) => *extent,
                None => Extent::of(r, server, user, cursor)?,
            };
            match extent {
                Extent::Nothing => irrelevant += 1,
                Extent::EachChange => {
                    self.push_or_skip(r, user, update_edu(r, position, change, self.names))?;
                }
                Extent::CurrentState => self.add_current_state(r, user)?,
                Extent::Sent => {}
            }
            let is_relevant = extent != Extent::Nothing;
            let next = match extent {
                Extent::CurrentState => Extent::Sent,
                extent => extent,
            };
            extents.insert(user, next);
            if is_relevant || self.device_lists.is_some() || irrelevant >= MIN_IRRELEVANT_CHANGES {
                self.device_lists = Some(position);
            }
        }
        Ok(())
    }

    /// Adds the last change of a device of `user`, from which the server learns that it lacks others, and
    /// the cross-signing keys, which it would not request.
    fn add_current_state(&mut self, r: &impl Reader, user: UserNum) -> Result<(), rooms::Error> {
        if let Some((position, change)) = device_lists::last_device_change(r, user)? {
            self.push_or_skip(r, user, update_edu(r, position, change, self.names))?;
        }
        if cross_signing::load(r, user, Usage::Master)?.is_some() {
            self.push_or_skip(r, user, signing_key_edu(r, user))?;
        }
        Ok(())
    }

    /// Adds the update `edu` about `user`, unless a row that it is made from is corrupt.
    fn push_or_skip(
        &mut self,
        r: &impl Reader,
        user: UserNum,
        edu: Result<Edu, rooms::Error>,
    ) -> Result<(), rooms::Error> {
        let edu = edu
            .and_then(|edu| Raw::new(&edu).map_err(|_| rooms::Error::not_serializable("an EDU")));
        match edu {
            Ok(edu) => self.edus.push(edu),
            Err(rooms::Error::Store(error)) if error.is_caused_by_data() => {
                let user_id = users::id_of(r, user)?;
                log::error!("a device-list update of {user_id} is not sent: {error}");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether [`acknowledged`](Self::acknowledged) changes anything.
    pub fn advances(&self) -> bool {
        self.to_device.is_some() || self.device_lists.is_some()
    }

    /// Removes the messages that `server` has acknowledged, and moves its cursor.
    pub fn acknowledged(&self, tx: &Tx, server: ServerNum) -> Result<(), rooms::Error> {
        if let Some(last) = self.to_device {
            to_device::remove_outbound_until(tx, server, last)?;
        }
        if let Some(position) = self.device_lists {
            tx.device_list_cursors()?.insert(server, position)?;
        }
        Ok(())
    }
}

/// What a server receives of the changes of a user's devices.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// It shares no room with the user.
    Nothing,
    EachChange,
    /// It lacks changes that are not kept any more.
    CurrentState,
    /// The current state is in this transaction already.
    Sent,
}

impl Extent {
    fn of(
        r: &impl Reader,
        server: ServerNum,
        user: UserNum,
        cursor: Option<Position>,
    ) -> Result<Self, rooms::Error> {
        Ok(if !shared_rooms::shares_with_server(r, server, user)? {
            Self::Nothing
        } else if let Some(cursor) = cursor
            && !device_lists::is_truncated_after(r, user, cursor)?
        {
            Self::EachChange
        } else {
            Self::CurrentState
        })
    }
}

/// The EDU for a change. It has the current keys and, with `names`, the current name.
fn update_edu(
    r: &impl Reader,
    position: Position,
    change: DeviceListChange,
    names: bool,
) -> Result<Edu, rooms::Error> {
    let stream_id = |position: Position| UInt::new_saturating(position.0);
    let device_id = match change.what {
        ChangedPart::Device(device_id) => device_id,
        ChangedPart::CrossSigningKeys => return signing_key_edu(r, change.user),
    };
    let user_id: OwnedUserId = users::id_of(r, change.user)?;
    let device = r.devices()?.load((change.user, device_id.as_str()))?;
    let mut update = DeviceListUpdateContent::new(user_id, device_id.into(), stream_id(position));
    if change.before > Position::MIN {
        update.prev_id = vec![stream_id(change.before)];
    }
    update.deleted = Some(device.is_none());
    let keys = keys::device_keys::of_device(r, change.user, &update.device_id)?;
    update.keys = keys.map(|keys| raw(&keys)).transpose()?;
    let named = device.filter(|_| names);
    update.device_display_name = named.and_then(|device| device.display_name);
    Ok(Edu::DeviceListUpdate(update))
}

fn signing_key_edu(r: &impl Reader, user: UserNum) -> Result<Edu, rooms::Error> {
    let key = |usage| {
        let key = cross_signing::load(r, user, usage)?;
        key.map(|key| raw(&key)).transpose()
    };
    let mut update = SigningKeyUpdateContent::new(users::id_of(r, user)?);
    update.master_key = key(Usage::Master)?;
    update.self_signing_key = key(Usage::SelfSigning)?;
    Ok(Edu::SigningKeyUpdate(update))
}

/// Whether every server can read `item` in a transaction: it is canonical JSON, and not nested too deep for
/// the parsers.
pub fn is_sendable(item: &RawValue) -> bool {
    let in_transaction = format!("[[{item}]]");
    serde_json::from_str::<CanonicalJsonValue>(&in_transaction).is_ok()
}

fn raw<T>(keys: &CanonicalJsonObject) -> Result<Raw<T>, rooms::Error> {
    let json = to_raw_value(keys).map(Raw::from_json);
    json.map_err(|_| rooms::Error::not_serializable("a public key"))
}
