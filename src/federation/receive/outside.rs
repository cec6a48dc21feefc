//! What this server hears of rooms that it is not in: that one of its users is not invited there any
//! more, or will not be let in.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{
    Error,
    fetch::{Room, check},
    peers::{Peers, RawPdu},
    work::{Receiver, Taken},
};
use crate::{
    protocol::Pdu,
    rooms::{self, Local, invitation},
    store::{Reader, RoomNum, Rows, Tx},
};

impl<P: Peers> Receiver<P> {
    /// Takes what `origin` sends of a room that this server is not in; what does not concern an
    /// invitation that came from there is dropped.
    pub(super) async fn take_outside(
        &self,
        origin: &ServerName,
        id: &RoomId,
        pdus: Vec<RawPdu>,
    ) -> Result<BTreeMap<OwnedEventId, Result<Taken, String>>, Error> {
        let mut results = BTreeMap::new();
        let room = self.store().read(|s| Room::load(s, rooms::num(s, id)?))?;
        let has_invitations = self.store().read(|s| any(s, room.num))?;
        if !has_invitations {
            return Ok(results);
        }
        for event in check(self.peers(), &room, pdus).await {
            let num = room.num;
            let turned_away = turned_away(self.local(), &event.pdu).map(ToOwned::to_owned);
            let Some(user) = turned_away else {
                continue;
            };
            let is_by_host = self
                .store()
                .read(|s| is_by_host(s, num, &user, (origin, event.pdu.sender().server_name())))?;
            if is_by_host {
                results.insert(event.pdu.event_id().to_owned(), Ok(Taken::In));
                let job = move |tx: &Tx| invitation::end(tx, num, &user, &event);
                self.store().write(job).await?;
            }
        }
        Ok(results)
    }
}

/// The local user whom `pdu` keeps out of its room.
fn turned_away<'a>(local: &Local, pdu: &'a Pdu) -> Option<&'a UserId> {
    let (StateEventType::RoomMember, user) = pdu.state_pair()? else {
        return None;
    };
    let out = matches!(
        pdu.membership()?,
        MembershipState::Leave | MembershipState::Ban
    );
    let user = <&UserId>::try_from(user).ok()?;
    (out && local.has(user)).then_some(user)
}

/// Whether the user's invitation came from one of these servers.
fn is_by_host(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
    (origin, sender): (&ServerName, &ServerName),
) -> Result<bool, rooms::Error> {
    let Some(user) = crate::users::num_of(r, user)? else {
        return Ok(false);
    };
    let host = invitation::load(r, user, room)?.map(|invitation| invitation.server);
    Ok(host.is_some_and(|host| {
        [origin, sender]
            .iter()
            .any(|server| server.as_str() == host)
    }))
}

/// Whether anybody here is invited to the room, or knocks.
fn any(r: &impl Reader, room: RoomNum) -> Result<bool, rooms::Error> {
    for (user, _) in rooms::current::local_members(r, room)? {
        if r.invitations()?.has((user, room))? {
            return Ok(true);
        }
    }
    Ok(false)
}
