//! What a registration token of the owner does beside letting somebody register.

use ruma::{OwnedRoomOrAliasId, UserId, events::room::member::MembershipState};

use crate::{
    api::{Api, Error},
    rooms::{
        self, Actor,
        directory::aliases,
        membership::{change::MembershipChange, join, moderation},
    },
    store::{Tx, UserNum, records::RegistrationToken},
    users,
};

/// Lets a new user into the rooms of the token. The account exists already, so what fails is only logged.
pub(super) async fn join_rooms(
    api: &Api,
    user: UserNum,
    user_id: &UserId,
    token: &RegistrationToken,
) {
    let actor = |num, id| Actor {
        num,
        id,
        now: api.clock.timestamp(),
    };
    let inviter = token.inviter.and_then(|inviter| {
        let id = api.store.read(|s| users::id_of(s, inviter)).ok()?;
        Some(actor(inviter, id))
    });
    let user = actor(user, user_id.to_owned());
    for room in &token.rooms {
        let joined = match join(api, &user, None, room).await {
            Err(Error::Rooms(rooms::Error::Forbidden(_))) if inviter.is_some() => {
                join(api, &user, inviter.clone(), room).await
            }
            joined => joined,
        };
        if let Err(error) = joined {
            log::warn!(
                "{user_id} registered with an invitation to {room} but cannot join it: {error}"
            );
        }
    }
}

/// Joins a room of this server, if needed by an invite of `inviter`.
async fn join(api: &Api, user: &Actor, inviter: Option<Actor>, room: &str) -> Result<(), Error> {
    let room = OwnedRoomOrAliasId::try_from(room).map_err(|_| rooms::Error::UnknownRoom)?;
    let (user, local) = (user.clone(), api.local.clone());
    let job = move |tx: &Tx| {
        let room = aliases::find(tx, &room)?;
        if let Some(inviter) = &inviter {
            moderation::invite(tx, &local, inviter, room, &user.id, None, false)?;
        }
        let change = MembershipChange::new(&user.id, MembershipState::Join, None);
        join::join(tx, &local, &user, room, &change)
    };
    api.write_events(job).await
}
