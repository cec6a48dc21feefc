//! What is known of one room in a user's list.

use std::{borrow::Cow, cmp::Reverse, collections::BTreeMap};

use ruma::{OwnedUserId, RoomId, UserId, events::StateEventType};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::request::{Filters, MAX_TAGS};
use crate::{
    rooms::{
        Error, event,
        membership::out_of_band,
        room,
        state::{content, current},
    },
    store::{
        Position, Reader, RoomNum, Rows, UserNum,
        records::{MemberRow, Membership},
    },
    sync::membership_history::{self, last_leave},
    users::account_data,
};

/// Of a name, a type or a tag; the rest is cut off.
const MAX_TEXT_CHARS: usize = 255;

pub const TAG: &str = "m.tag";

/// The order of rooms in lists: the last active first.
pub type Order = (Reverse<Position>, Reverse<RoomNum>);

#[derive(Clone, Debug)]
pub struct Entry {
    pub room: RoomNum,
    pub activity: Position,
    pub membership: Membership,
    /// Of the membership.
    pub member_position: Position,
    pub listing: Listing,
    /// Whether it is in `m.direct`.
    pub is_dm: bool,
    details: Option<Box<Details>>,
}

/// What few rooms have, or few requests ask for: each request passes over all entries, so they are small.
#[derive(Clone, Debug)]
pub struct Details {
    /// Who invited the user.
    pub inviter: Option<OwnedUserId>,
    pub attributes: Attributes,
    pub tags: Vec<String>,
}

impl Details {
    const NONE: Self = Self {
        inviter: None,
        attributes: Attributes {
            room_type: None,
            is_encrypted: false,
            name: None,
            state_position: Position::MIN,
        },
        tags: Vec::new(),
    };

    /// As an entry has them.
    fn boxed(self) -> Option<Box<Self>> {
        let Attributes {
            room_type,
            is_encrypted,
            name,
            state_position,
        } = &self.attributes;
        // Those of a room that this server is not in have no position.
        let is_any = self.inviter.is_some()
            || !self.tags.is_empty()
            || *state_position > Position::MIN
            || room_type.is_some()
            || *is_encrypted
            || name.is_some();
        is_any.then(|| Box::new(self))
    }
}

/// When a room is in the lists of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    Always,
    /// If it was sent before: the user has left it.
    IfSent,
    /// If it was sent before, and not for a subscription otherwise: the user was banned without ever being in
    /// it.
    NeverJoined,
    /// The user has forgotten it.
    Forgotten,
}

/// What filters read of a room's state.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    pub room_type: Option<String>,
    pub is_encrypted: bool,
    /// In lower case.
    pub name: Option<String>,
    /// The position of the state from which they are.
    state_position: Position,
}

/// What filters read of rooms beside memberships and `m.direct`: a bit for each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterInputs(u8);

impl FilterInputs {
    pub const ROOM_TYPE: Self = Self(1);
    pub const ENCRYPTION: Self = Self(2);
    pub const NAME: Self = Self(4);
    pub const ATTRIBUTES: Self = Self(7);
    pub const TAGS: Self = Self(8);

    pub fn of<'a>(filters: impl Iterator<Item = &'a Filters>) -> Self {
        let mut parts = Self::default();
        for filters in filters {
            let is_read = [
                (
                    Self::ROOM_TYPE,
                    filters.room_types.is_some() || filters.not_room_types.is_some(),
                ),
                (Self::ENCRYPTION, filters.is_encrypted.is_some()),
                (Self::NAME, filters.room_name_like.is_some()),
                (
                    Self::TAGS,
                    filters.tags.is_some() || filters.not_tags.is_some(),
                ),
            ];
            for (part, _) in is_read.into_iter().filter(|(_, is_read)| *is_read) {
                parts = parts.and(part);
            }
        }
        parts
    }

    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Entry {
    /// Of a deleted room that the user had left at `position`.
    pub fn deleted(room: RoomNum, position: Position) -> Self {
        Self {
            room,
            activity: position,
            membership: Membership::Leave,
            member_position: position,
            listing: Listing::IfSent,
            is_dm: false,
            details: None,
        }
    }

    pub fn details(&self) -> &Details {
        const NONE: &Details = &Details::NONE;
        self.details.as_deref().unwrap_or(NONE)
    }

    /// Whether a client may lack it in lists with all rooms: what decides that is not known here.
    pub fn is_special(&self) -> bool {
        self.listing != Listing::Always || self.details().inviter.is_some()
    }

    /// Leaves an entry without details.
    pub fn take(&mut self) -> Self {
        let details = self.details.take();
        Self {
            details,
            ..self.clone()
        }
    }

    pub fn set_details(&mut self, details: Details) {
        self.details = details.boxed();
    }

    pub fn take_details(&mut self) -> Details {
        self.details
            .take()
            .map_or(Details::NONE, |details| *details)
    }

    pub fn order(&self) -> Order {
        (Reverse(self.activity), Reverse(self.room))
    }
}

/// The user of a list.
pub struct Owner<'a> {
    pub user: UserNum,
    pub id: &'a UserId,
    /// What of the entries is to be read.
    pub parts: FilterInputs,
}

impl Owner<'_> {
    /// `before` is the entry of the room so far.
    pub fn entry(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
        before: Option<Entry>,
    ) -> Result<Entry, Error> {
        let heads = room::heads(r, room)?;
        let activity = match member.membership {
            Membership::Join => heads.last_position.max(member.position),
            _ => member.position,
        };
        let before = before.filter(|before| before.member_position == member.position);
        let is_new = before.is_none();
        let (known, mut details) = match before {
            Some(mut before) => (Some(before.listing), before.take_details()),
            None => (None, Details::NONE),
        };
        let listing = match known {
            Some(listing) if !member.forgotten => listing,
            _ => {
                details.inviter = self.inviter(r, member)?;
                self.listing(r, room, member)?
            }
        };
        let is_old = is_new || details.attributes.state_position < heads.state_position;
        if is_old && self.parts.has_any(FilterInputs::ATTRIBUTES) {
            details.attributes = self.attributes(r, room, member, heads.state_position)?;
        }
        if is_new && self.parts.has(FilterInputs::TAGS) {
            details.tags = self.tags(r, room)?;
        }
        Ok(Entry {
            room,
            activity,
            membership: member.membership,
            member_position: member.position,
            listing,
            is_dm: false,
            details: details.boxed(),
        })
    }

    fn listing(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
    ) -> Result<Listing, Error> {
        let has_left = matches!(member.membership, Membership::Leave | Membership::Ban);
        if member.forgotten {
            return Ok(Listing::Forgotten);
        }
        if !has_left {
            return Ok(Listing::Always);
        }
        let is_own = member.membership == Membership::Leave
            && event::load(r, member.event)?.sender()? == *self.id;
        if is_own {
            return Ok(Listing::IfSent);
        }
        let is_refused_knock = || {
            let before = membership_history::before(r, room, member)?;
            Ok::<_, Error>(
                member.membership == Membership::Leave && before == Some(Membership::Knock),
            )
        };
        let was_joined = last_leave(r, room, member, Position::MIN)?.is_some();
        Ok(if was_joined || is_refused_knock()? {
            Listing::Always
        } else if member.membership == Membership::Ban {
            Listing::NeverJoined
        } else {
            Listing::IfSent
        })
    }

    fn inviter(&self, r: &impl Reader, member: &MemberRow) -> Result<Option<OwnedUserId>, Error> {
        match member.membership {
            Membership::Invite => event::load(r, member.event)?.sender().map(Some),
            _ => Ok(None),
        }
    }

    pub fn tags(&self, r: &impl Reader, room: RoomNum) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Content {
            tags: BTreeMap<String, IgnoredAny>,
        }
        let data = account_data::load(r, self.user, room, TAG)?;
        let content = data.and_then(|data| serde_json::from_str::<Content>(&data.content).ok());
        let tags = content
            .into_iter()
            .flat_map(|content| content.tags.into_keys());
        Ok(tags.take(MAX_TAGS).map(|tag| shortened(&tag)).collect())
    }

    pub fn attributes(
        &self,
        r: &impl Reader,
        room: RoomNum,
        member: &MemberRow,
        state_position: Position,
    ) -> Result<Attributes, Error> {
        if member.membership != Membership::Join
            && let Some(outside) = out_of_band::load(r, self.user, room)?
        {
            return Ok(Attributes::of_stripped(
                &outside.stripped_state,
                state_position,
            ));
        }
        let mut attributes = Attributes {
            state_position,
            ..Attributes::default()
        };
        if self.parts.has(FilterInputs::ROOM_TYPE) {
            let room_types = r.room_types()?;
            let room_type = room_types.get(room)?;
            attributes.room_type = room_type.map(|kind| shortened(kind.value()));
        }
        if self.parts.has(FilterInputs::ENCRYPTION) {
            let encryption = current::get(r, room, "m.room.encryption", "")?;
            attributes.is_encrypted = encryption.is_some();
        }
        // A room that the user has left may have another name now.
        let is_member = !matches!(member.membership, Membership::Leave | Membership::Ban);
        if is_member && self.parts.has(FilterInputs::NAME) {
            let name = content::current::<Name>(r, room, &StateEventType::RoomName, "")?;
            attributes.name = name.map(|name| shortened(&name.name.to_lowercase()));
        }
        Ok(attributes)
    }
}

#[derive(Default, Deserialize)]
struct Create {
    #[serde(rename = "type")]
    room_type: Option<String>,
}

#[derive(Default, Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
}

impl Attributes {
    fn of_stripped(events: &[String], state_position: Position) -> Self {
        #[derive(Deserialize)]
        struct Stripped<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow)]
            content: &'a RawValue,
        }
        let mut attributes = Self {
            state_position,
            ..Self::default()
        };
        for event in events {
            let Ok(event) = serde_json::from_str::<Stripped<'_>>(event) else {
                continue;
            };
            let content = event.content.get();
            match &*event.kind {
                "m.room.create" => {
                    let create = serde_json::from_str::<Create>(content).unwrap_or_default();
                    attributes.room_type = create.room_type.map(|kind| shortened(&kind));
                }
                "m.room.encryption" => attributes.is_encrypted = true,
                "m.room.name" => {
                    let name = serde_json::from_str::<Name>(content).unwrap_or_default();
                    attributes.name = Some(shortened(&name.name.to_lowercase()));
                }
                _ => {}
            }
        }
        attributes
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// The number of the room `id`, if it is here.
pub fn room_num(r: &impl Reader, id: &str) -> Result<Option<RoomNum>, Error> {
    let Ok(id) = <&RoomId>::try_from(id) else {
        return Ok(None);
    };
    match room::num(r, id) {
        Err(Error::UnknownRoom) => Ok(None),
        num => num.map(Some),
    }
}
