//! What one server is to get beside events and must not miss: messages to its users' devices, and what
//! changed of the devices of users here. It stays in the store until the server has taken it, and goes
//! ahead of what is only in memory.
//!
//! `told_lists` says up to where a server has been told of `device_list_log`. One that has no row yet, or
//! lacks changes that are not kept any more, is told the last change of a device of that user, from which
//! it sees that it lacks others, and the keys with which the user signs.
//!
//! A message that cannot be sent as it is stands in nobody's way: it is left out, and gone when the others
//! are taken.
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

use super::edus::EDUS;
use crate::{
    rooms::{self, state::current},
    store::{
        Position, Reader, Records, Rows, ServerNum, Tx, UserNum,
        records::{ChangedPart, DeviceListChange, Membership},
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

/// How many changes are looked at for one transaction.
const LOOKED_AT: usize = 500;
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
    /// What `server` is to get next, `most` messages or one more.
    pub fn next(r: &impl Reader, server: ServerNum, most: usize) -> Result<Self, rooms::Error> {
        let mut durable = Self::default();
        let most = most.min(EDUS);
        if let Some((letters, last)) = to_device::outbound(r, server, most)? {
            for content in &letters {
                let edu = named("m.direct_to_device", content)?;
                if is_sendable(&edu) {
                    durable.edus.push(edu);
                } else {
                    log::warn!("a message to devices that is no canonical JSON is thrown away");
                }
            }
            durable.letters = Some(last);
        }
        durable.add_lists(r, server, most.min(EDUS - 1))?;
        Ok(durable)
    }

    /// Adds what there is room for of the changes of lists that the server has not been told of.
    fn add_lists(
        &mut self,
        r: &impl Reader,
        server: ServerNum,
        most: usize,
    ) -> Result<(), rooms::Error> {
        let told = r.told_lists()?.get(server)?.map(|row| row.value());
        let after = told.unwrap_or(Position::MIN);
        let (mut ways, mut irrelevant) = (BTreeMap::new(), 0);
        for (position, change) in device_lists::changes_after(r, after, LOOKED_AT)? {
            if self.edus.len() >= most {
                return Ok(());
            }
            let user = change.user;
            let way = match ways.get(&user) {
                Some(way) => *way,
                None => Way::of(r, server, user, told)?,
            };
            match way {
                Way::NotAtAll => irrelevant += 1,
                Way::Each => self.push(told_of(r, position, change)?)?,
                Way::Whole => self.add_whole(r, user)?,
                Way::Told => {}
            }
            let is_known = way != Way::NotAtAll;
            ways.insert(user, if way == Way::Whole { Way::Told } else { way });
            if is_known || self.lists.is_some() || irrelevant >= IRRELEVANT {
                self.lists = Some(position);
            }
        }
        Ok(())
    }

    /// Adds the last change of a device of `user`, from which the server sees that it lacks others, and
    /// the keys with which the user signs, which it would not ask for.
    fn add_whole(&mut self, r: &impl Reader, user: UserNum) -> Result<(), rooms::Error> {
        if let Some((position, change)) = device_lists::last_device_change(r, user)? {
            self.push(told_of(r, position, change)?)?;
        }
        if cross_signing::load(r, user, Usage::Master)?.is_some() {
            self.push(signing_keys(r, user)?)?;
        }
        Ok(())
    }

    fn push(&mut self, edu: Edu) -> Result<(), rooms::Error> {
        let edu = Raw::new(&edu);
        let edu = edu.map_err(|_| rooms::Error::not_serializable("an EDU"))?;
        self.edus.push(edu);
        Ok(())
    }

    /// Whether something is to be noted when it has been taken.
    pub fn is_to_be_noted(&self) -> bool {
        self.letters.is_some() || self.lists.is_some()
    }

    /// What of it need not be sent again, now that `server` has taken it.
    pub fn taken(&self, tx: &Tx, server: ServerNum) -> Result<(), rooms::Error> {
        if let Some(last) = self.letters {
            to_device::remove_outbound_until(tx, server, last)?;
        }
        if let Some(upto) = self.lists {
            tx.told_lists()?.insert(server, upto)?;
        }
        Ok(())
    }
}

/// How a server is told of the changes of a user's list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It shares no room with the user.
    NotAtAll,
    /// Of each.
    Each,
    /// How things are: it lacks changes that are not kept any more.
    Whole,
    /// That has been done.
    Told,
}

impl Way {
    fn of(
        r: &impl Reader,
        server: ServerNum,
        user: UserNum,
        told: Option<Position>,
    ) -> Result<Self, rooms::Error> {
        Ok(if !shares_a_room(r, server, user)? {
            Self::NotAtAll
        } else if let Some(told) = told
            && !device_lists::is_truncated_after(r, user, told)?
        {
            Self::Each
        } else {
            Self::Whole
        })
    }
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
fn told_of(
    r: &impl Reader,
    position: Position,
    change: DeviceListChange,
) -> Result<Edu, rooms::Error> {
    let id = |position: Position| UInt::new_saturating(position.0);
    match change.what {
        ChangedPart::Device(device_id) => {
            let user_id: OwnedUserId = users::id_of(r, change.user)?;
            let device = r.devices()?.load((change.user, device_id.as_str()))?;
            let mut update = DeviceListUpdateContent::new(user_id, device_id.into(), id(position));
            if change.before > Position::MIN {
                update.prev_id = vec![id(change.before)];
            }
            update.deleted = Some(device.is_none());
            let keys = keys::device_keys::of_device(r, change.user, &update.device_id)?;
            update.keys = keys.map(|keys| raw(&keys)).transpose()?;
            update.device_display_name = device.and_then(|device| device.display_name);
            Ok(Edu::DeviceListUpdate(update))
        }
        ChangedPart::CrossSigningKeys => signing_keys(r, change.user),
    }
}

/// With which keys `user` signs now.
fn signing_keys(r: &impl Reader, user: UserNum) -> Result<Edu, rooms::Error> {
    let key = |usage| {
        let key = cross_signing::load(r, user, usage)?;
        key.map(|key| raw(&key)).transpose()
    };
    let mut update = SigningKeyUpdateContent::new(users::id_of(r, user)?);
    update.master_key = key(Usage::Master)?;
    update.self_signing_key = key(Usage::SelfSigning)?;
    Ok(Edu::SigningKeyUpdate(update))
}

/// Whether a request can have `edu` in it, which is signed and so has to be canonical JSON.
fn is_sendable(edu: &Raw<Edu>) -> bool {
    // As deep in other things as in the request: there is an end to that.
    let within = format!("[[{}]]", edu.json());
    serde_json::from_str::<CanonicalJsonValue>(&within).is_ok()
}

fn raw<T>(keys: &CanonicalJsonObject) -> Result<Raw<T>, rooms::Error> {
    let json = to_raw_value(keys).map(Raw::from_json);
    json.map_err(|_| rooms::Error::not_serializable("a public key"))
}

fn named(edu_type: &str, content: &RawValue) -> Result<Raw<Edu>, rooms::Error> {
    let edu = to_raw_value(&Named { edu_type, content });
    let edu = edu.map_err(|_| rooms::Error::not_serializable("a to-device message"))?;
    Ok(Raw::from_json(edu))
}
