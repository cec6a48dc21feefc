//! Creating a room from a [`Blueprint`], in one transaction.

use ruma::{
    CanonicalJsonObject, MilliSecondsSinceUnixEpoch, OwnedRoomAliasId, OwnedRoomId, OwnedUserId,
    RoomVersionId, UInt, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::checks;
use crate::{
    protocol::build::{EventDraft, room_id_from_create_event},
    rooms::{
        Actor, Error, Local,
        directory::{self, aliases},
        event::append::{self, Appended},
        event::state_event::StateEvent,
        membership::{change::MembershipChange, moderation},
        room,
    },
    store::{RoomNum, Tx},
};

/// A room that is to be created, with all its events.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The room's id, in room versions in which the server chooses it.
    pub id: OwnedRoomId,
    pub version: RoomVersionId,
    /// The content of the create event.
    pub create: CanonicalJsonObject,
    pub alias: Option<OwnedRoomAliasId>,
    /// The state events that follow the creator's join.
    pub state: Vec<StateEvent>,
    /// The users who are invited last.
    pub invite: Vec<OwnedUserId>,
    /// Whether the invites are to a direct chat.
    pub is_direct: bool,
    /// Whether the room directory lists the room.
    pub listed: bool,
}

impl Blueprint {
    /// Takes out the invitations of users of other servers, which are sent through these once the room
    /// is there.
    ///
    /// # Errors
    /// Those of [`MembershipChange::from_client`].
    pub fn extract_remote_invites(
        &mut self,
        local: &Local,
    ) -> Result<Vec<MembershipChange>, Error> {
        let mut invites = Vec::new();
        for user in self.invite.extract_if(.., |user| !local.has(user)) {
            let invite = MembershipChange::new(&user, MembershipState::Invite, None);
            invites.push(if self.is_direct {
                invite.direct()
            } else {
                invite
            });
        }
        let is_remote = |event: &mut StateEvent| {
            let user = <&UserId>::try_from(event.state_key.as_str());
            event.invites() && user.is_ok_and(|user| !local.has(user))
        };
        for event in self.state.extract_if(.., is_remote) {
            invites.push(MembershipChange::from_client(&event)?);
        }
        Ok(invites)
    }
}

/// Creates the room, with `actor` as its creator and first member.
///
/// # Errors
/// [`Error::InvalidRoomState`] if the state so far does not allow the next event;
/// [`Error::RoomInUse`] if the alias is taken; those of [`moderation::check_invitee`].
pub fn build(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    plan: &Blueprint,
) -> Result<(RoomNum, OwnedRoomId), Error> {
    for user in &plan.invite {
        moderation::check_invitee(tx, local, &actor.id, user)?;
    }
    let Appended { room, room_id, .. } =
        create(tx, local, actor, plan).map_err(as_invalid_state)?;
    if let Some(alias) = &plan.alias {
        aliases::insert(tx, actor, alias, room).map_err(|error| match error {
            Error::AliasTaken => Error::RoomInUse,
            error => error,
        })?;
    }
    send_events(tx, local, actor, plan, room).map_err(as_invalid_state)?;
    if plan.listed {
        directory::list(tx, room)?;
    }
    Ok((room, room_id))
}

fn as_invalid_state(error: Error) -> Error {
    match error {
        Error::Forbidden(reason) | Error::Invalid(reason) => Error::InvalidRoomState(reason),
        error => error,
    }
}

/// Stores the create event. In room versions whose room id is derived from it, two equal requests of
/// one user in the same millisecond would give the same room id; the later one gets a later timestamp.
fn create(tx: &Tx, local: &Local, actor: &Actor, plan: &Blueprint) -> Result<Appended, Error> {
    let rules = room::rules_of(&plan.version)?;
    if rules.authorization.additional_room_creators {
        checks::additional_creators(&plan.create)?;
    }
    let is_derived = room_id_from_create_event(rules);
    let draft = EventDraft {
        room_id: (!is_derived).then(|| plan.id.clone()),
        sender: actor.id.clone(),
        event_type: TimelineEventType::RoomCreate,
        state_key: Some(String::new()),
        content: plan.create.clone(),
        text: None,
        redacts: None,
    };
    let mut sending = actor.sending();
    loop {
        match append::create(tx, local, &plan.version, &draft, &sending) {
            Err(Error::RoomExists) if is_derived => {
                sending.now = MilliSecondsSinceUnixEpoch(sending.now.0 + UInt::from(1u32));
            }
            created => return created,
        }
    }
}

/// Sends the events after the create event.
fn send_events(
    tx: &Tx,
    local: &Local,
    actor: &Actor,
    plan: &Blueprint,
    room: RoomNum,
) -> Result<(), Error> {
    MembershipChange::new(&actor.id, MembershipState::Join, None).send(tx, local, room, actor)?;
    for event in &plan.state {
        if event.kind == StateEventType::RoomMember {
            moderation::send(
                tx,
                local,
                actor,
                room,
                &MembershipChange::from_client(event)?,
            )?;
            continue;
        }
        checks::state_event(tx, room, event)?;
        event.send(tx, local, room, actor)?;
    }
    for user in &plan.invite {
        moderation::invite(tx, local, actor, room, user, None, plan.is_direct)?;
    }
    Ok(())
}
