//! What one server is to get beside events and must not miss: messages to its users' devices, and what
//! changed of the devices of users here. It stays in the store until the server has taken it, and goes
//! ahead of what is only in memory.
//!
//! `told_lists` says up to where a server has been told of `device_list_log`. One that has no row yet is
//! told the last change of each user's list, from which it sees that it lacks the others.
//!
//! Source: server-server API, "Send-to-device messaging" and "Device Management".

use std::collections::BTreeMap;

use ruma::{
    CanonicalJsonObject, OwnedUserId, UInt,
    api::federation::transactions::edu::{DeviceListUpdateContent, Edu, SigningKeyUpdateContent},
    serde::Raw,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::edus::EDUS;
use crate::{
    rooms::{self, current},
    store::{
        Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{ListChange, Membership, WhatChanged},
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

/// So many changes that do not concern a server are not looked at again.
const IRRELEVANT: usize = 50;

/// What goes into one transaction.
#[derive(Debug, Default)]
pub struct Durable {
    /// The messages.
    pub edus: Vec<Raw<Edu>>,
    letters: Option<Position>,
    lists: Option<Position>,
}

#[derive(Serialize)]
struct Named<'a> {
    edu_type: &'a str,
    content: &'a RawValue,
}

impl Durable {
    /// What `server` is to get next.
    pub fn next(r: &impl Reader, server: ServerNum) -> Result<Self, rooms::Error> {
        let mut durable = Self::default();
        if let Some((letters, last)) = to_device::posted(r, server, EDUS)? {
            for content in &letters {
                durable.edus.push(named("m.direct_to_device", content)?);
            }
            durable.letters = Some(last);
        }
        durable.add_lists(r, server)?;
        Ok(durable)
    }

    /// Adds what there is room for of the changes of lists that the server has not been told of.
    fn add_lists(&mut self, r: &impl Reader, server: ServerNum) -> Result<(), rooms::Error> {
        let told = r.told_lists()?.get(server)?.map(|row| row.value());
        let after = told.unwrap_or(Position::MIN);
        let mut changes = device_lists::changed_between(r, after, Position::MAX)?;
        if told.is_none() {
            changes = last_of_each(changes);
        }
        let (mut shares, mut irrelevant) = (BTreeMap::new(), 0);
        for (position, change) in changes {
            if self.edus.len() == EDUS {
                return Ok(());
            }
            let user = change.user;
            let is_known = match shares.get(&user) {
                Some(is_known) => *is_known,
                None => *shares
                    .entry(user)
                    .or_insert(shares_a_room(r, server, user)?),
            };
            if is_known {
                let edu = Raw::new(&told_of(r, position, change)?);
                let edu =
                    edu.map_err(|_| rooms::Error::corrupt("a device that does not serialize"));
                self.edus.push(edu?);
            } else {
                irrelevant += 1;
            }
            if is_known || self.lists.is_some() || irrelevant >= IRRELEVANT {
                self.lists = Some(position);
            }
        }
        Ok(())
    }

    /// Whether something is to be noted when it has been taken.
    pub fn is_to_be_noted(&self) -> bool {
        self.letters.is_some() || self.lists.is_some()
    }

    /// What of it need not be sent again, now that `server` has taken it.
    pub fn taken(&self, tx: &Tx, server: ServerNum) -> Result<(), rooms::Error> {
        if let Some(last) = self.letters {
            to_device::has_taken(tx, server, last)?;
        }
        if let Some(upto) = self.lists {
            tx.told_lists()?.insert(server, upto)?;
        }
        Ok(())
    }
}

fn last_of_each(changes: Vec<(Position, ListChange)>) -> Vec<(Position, ListChange)> {
    let changes = changes.into_iter();
    let last: BTreeMap<UserNum, _> = changes.map(|change| (change.1.user, change)).collect();
    let mut last: Vec<_> = last.into_values().collect();
    last.sort_unstable_by_key(|(position, _)| *position);
    last
}

fn shares_a_room(r: &impl Reader, server: ServerNum, user: UserNum) -> Result<bool, rooms::Error> {
    for room in rooms::servers::rooms(r, server)? {
        let row = current::local_membership(r, user, room)?;
        if row.is_some_and(|row| row.membership == Membership::Join) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a server is told of a change: how things are now.
fn told_of(r: &impl Reader, position: Position, change: ListChange) -> Result<Edu, rooms::Error> {
    let user_id: OwnedUserId = users::id_of(r, change.user)?;
    let id = |position: Position| UInt::new_saturating(position.0);
    match change.what {
        WhatChanged::Device(device_id) => {
            let device = r.devices()?.load((change.user, device_id.as_str()))?;
            let mut update = DeviceListUpdateContent::new(user_id, device_id.into(), id(position));
            if change.before > Position::MIN {
                update.prev_id = vec![id(change.before)];
            }
            update.deleted = Some(device.is_none());
            let keys = keys::devices::of_device(r, change.user, &update.device_id)?;
            update.keys = keys.map(|keys| raw(&keys)).transpose()?;
            update.device_display_name = device.and_then(|device| device.display_name);
            Ok(Edu::DeviceListUpdate(update))
        }
        WhatChanged::SigningKeys => {
            let key = |usage| {
                let key = cross_signing::of_user(r, change.user, usage)?;
                key.map(|key| raw(&key)).transpose()
            };
            let mut update = SigningKeyUpdateContent::new(user_id);
            update.master_key = key(Usage::Master)?;
            update.self_signing_key = key(Usage::SelfSigning)?;
            Ok(Edu::SigningKeyUpdate(update))
        }
    }
}

fn raw<T>(keys: &CanonicalJsonObject) -> Result<Raw<T>, rooms::Error> {
    let json = to_raw_value(keys).map(Raw::from_json);
    json.map_err(|_| rooms::Error::corrupt("keys that do not serialize"))
}

fn named(edu_type: &str, content: &RawValue) -> Result<Raw<Edu>, rooms::Error> {
    let edu = to_raw_value(&Named { edu_type, content });
    let edu = edu.map_err(|_| rooms::Error::corrupt("a message that does not serialize"))?;
    Ok(Raw::from_json(edu))
}
