//! Making a room from a [`Blueprint`]: everything in one transaction, so that there is the whole
//! room or none.

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    RoomVersionId, UInt,
    events::{TimelineEventType, room::member::MembershipState},
};

use super::checks;
use crate::{
    protocol::build::{EventDraft, room_id_from_create_event},
    rooms::{
        Actor, Error, Local,
        directory::{self, aliases},
        event::append::{self, Appended},
        membership::{change::MembershipChange, moderation},
        room,
        state::content::StateEvent,
    },
    store::{RoomNum, Tx},
};

/// A room that is to be made, down to its last event.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The room's id in versions that let the server choose it.
    pub id: OwnedRoomId,
    /// The room's version.
    pub version: RoomVersionId,
    /// The content of the create event.
    pub create: CanonicalJsonObject,
    /// An alias to be made for the room.
    pub alias: Option<OwnedRoomAliasId>,
    /// The state events that follow the creator's join.
    pub state: Vec<StateEvent>,
    /// Who is invited at the end.
    pub invite: Vec<OwnedUserId>,
    /// Whether the invites are to a direct chat.
    pub is_direct: bool,
    /// Whether the directory lists the room.
    pub listed: bool,
}

/// Makes the room, with `actor` as its creator and first member.
///
/// # Errors
/// [`Error::InvalidRoomState`] if the room that has come about so far forbids the next event;
/// [`Error::RoomInUse`] if the alias is taken; those of [`moderation::invite`] for who cannot be
/// invited at all.
pub fn build(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    plan: &Blueprint,
) -> Result<(RoomNum, OwnedRoomId), Error> {
    for user in &plan.invite {
        moderation::check_invitee(tx, local, user)?;
    }
    let Appended { room, room_id, .. } = create(tx, local, actor, plan)?;
    if let Some(alias) = &plan.alias {
        aliases::insert(tx, actor, alias, room).map_err(|error| match error {
            Error::AliasTaken => Error::RoomInUse,
            error => error,
        })?;
    }
    events(tx, local, actor, plan, room).map_err(|error| match error {
        Error::Forbidden(reason) => Error::InvalidRoomState(reason),
        error => error,
    })?;
    if plan.listed {
        directory::list(tx, room)?;
    }
    Ok((room, room_id))
}

/// Makes the room with its create event. Where the room's id is made of that event, the same wish
/// of the same user in the same millisecond would be the same room: the later one moves on by a
/// millisecond until it is another.
fn create(tx: &Tx, local: &Local, actor: &Actor, plan: &Blueprint) -> Result<Appended, Error> {
    let rules = room::rules_of(&plan.version)?;
    let made = room_id_from_create_event(rules);
    let draft = EventDraft {
        room_id: (!made).then(|| plan.id.clone()),
        sender: actor.id.clone(),
        event_type: TimelineEventType::RoomCreate,
        state_key: Some(String::new()),
        content: plan.create.clone(),
        redacts: None,
    };
    let mut sending = actor.sending();
    loop {
        match append::create(tx, local, &plan.version, &draft, &sending) {
            Err(Error::RoomExists) if made => {
                sending.now = MilliSecondsSinceUnixEpoch(sending.now.0 + UInt::from(1u32));
            }
            created => return created,
        }
    }
}

/// What follows the create event.
fn events(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    plan: &Blueprint,
    room: RoomNum,
) -> Result<(), Error> {
    MembershipChange::new(&actor.id, MembershipState::Join, None)
        .with_profile(tx, local)?
        .send(tx, local, room, actor)?;
    for event in &plan.state {
        checks::state_event(tx, local, room, event)?;
        event.send(tx, local, room, actor)?;
    }
    for user in &plan.invite {
        moderation::invite(tx, local, actor, room, user, None, plan.is_direct)?;
    }
    Ok(())
}
