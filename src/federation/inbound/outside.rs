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
    peers::{EventSource, RawPdu},
    work::{Receiver, Taken},
};
use crate::{
    protocol::Pdu,
    rooms::{self, Local, event, membership::out_of_band, room},
    store::{Reader, Records, RoomNum, Rows, Tx},
    users,
};

impl<P: EventSource> Receiver<P> {
    /// Takes what `origin` sends of a room that this server is not in; what does not concern an
    /// invitation that came from there is dropped.
    pub(super) async fn take_outside(
        &self,
        origin: &ServerName,
        id: &RoomId,
        pdus: Vec<RawPdu>,
    ) -> Result<BTreeMap<OwnedEventId, Result<Taken, String>>, Error> {
        let mut results = BTreeMap::new();
        let room = self.store().read(|s| Room::load(s, room::num(s, id)?))?;
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
            let ends = self
                .store()
                .read(|s| ends_invitation(s, num, &user, (origin, &event.pdu)))?;
            if ends {
                results.insert(event.pdu.event_id().to_owned(), Ok(Taken::In));
                let job = move |tx: &Tx| out_of_band::end(tx, num, &event);
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

/// Whether `pdu` ends the user's invitation: it must name that as its authority, being older
/// otherwise, as the lifting of a ban is, and come from where the invitation came from.
fn ends_invitation(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
    (origin, pdu): (&ServerName, &Pdu),
) -> Result<bool, rooms::Error> {
    let Some(user) = users::num_of(r, user)? else {
        return Ok(false);
    };
    let (Some(invitation), Some(row)) = (
        out_of_band::load(r, user, room)?,
        r.memberships()?.load((user, room))?,
    ) else {
        return Ok(false);
    };
    let is_later = pdu.auth_events().contains(&event::id(r, row.event)?);
    let servers = [origin, pdu.sender().server_name()];
    let is_by_host = servers
        .iter()
        .any(|server| server.as_str() == invitation.server);
    Ok(is_later && is_by_host)
}

/// Whether anybody here is invited to the room, or knocks.
fn any(r: &impl Reader, room: RoomNum) -> Result<bool, rooms::Error> {
    for (user, _) in rooms::state::current::local_members(r, room)? {
        if r.out_of_band_memberships()?.has((user, room))? {
            return Ok(true);
        }
    }
    Ok(false)
}
