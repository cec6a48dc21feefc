//! Out-of-band membership: PDUs of a room that this server is not in. Only one kind matters: a local
//! user's invitation is revoked, or their knock is denied.

use std::collections::BTreeMap;

use ruma::{
    OwnedEventId, RoomId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{
    error::Error,
    event_fetcher::verify,
    event_source::{EventSource, RawPdu},
    receiver::{PduOutcome, PduReceiver},
};
use crate::{
    protocol::Pdu,
    rooms::{self, Local, event, membership::out_of_band, room},
    store::{Reader, Records, RoomNum, Tx, records::Membership},
    users,
};

impl<S: EventSource> PduReceiver<S> {
    /// Receives PDUs of `origin` in a room that this server is not in. PDUs that do not end an
    /// invitation or a knock of a local user are dropped.
    pub(super) async fn receive_out_of_band(
        &self,
        origin: &ServerName,
        id: &RoomId,
        pdus: Vec<RawPdu>,
    ) -> Result<BTreeMap<OwnedEventId, Result<PduOutcome, String>>, Error> {
        let mut results = BTreeMap::new();
        let (num, versions) = self.store().read(|s| {
            let num = room::num(s, id)?;
            Ok::<_, rooms::Error>((num, out_of_band::versions(s, num)?))
        })?;
        let mut events = Vec::new();
        for version in versions {
            let rules = room::rules_of(&version)?;
            events.extend(verify(self.source(), id, rules, pdus.clone()).await);
        }
        for event in events {
            let Some(user) = removed_user(self.local(), &event.pdu).map(ToOwned::to_owned) else {
                continue;
            };
            let ends_invitation = self
                .store()
                .read(|s| ends_invitation(s, num, &user, origin, &event.pdu))?;
            if ends_invitation {
                let id = event.pdu.event_id().to_owned();
                let job = move |tx: &Tx| out_of_band::end(tx, num, &event);
                self.store().write(job).await?;
                results.insert(id, Ok(PduOutcome::Processed));
            }
        }
        Ok(results)
    }
}

/// The local user whose membership `pdu` changes to `leave` or `ban`.
fn removed_user<'a>(local: &Local, pdu: &'a Pdu) -> Option<&'a UserId> {
    let (StateEventType::RoomMember, user) = pdu.state_pair()? else {
        return None;
    };
    let is_removed = matches!(
        pdu.membership()?,
        MembershipState::Leave | MembershipState::Ban
    );
    let user = <&UserId>::try_from(user).ok()?;
    (is_removed && local.has(user)).then_some(user)
}

/// Whether `pdu` ends the user's invitation or knock. It has to have that event as an auth event, or
/// it may be older, such as the unban before an invitation. The power of its sender cannot be checked
/// here: whoever invited may withdraw that, and a knock may be denied by the server that took it.
fn ends_invitation(
    r: &impl Reader,
    room: RoomNum,
    user: &UserId,
    origin: &ServerName,
    pdu: &Pdu,
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
    let may_end = if row.membership == Membership::Knock {
        let servers = [origin, pdu.sender().server_name()];
        let mut servers = servers.iter();
        servers.any(|server| server.as_str() == invitation.server)
    } else {
        event::load(r, row.event)?.sender()? == *pdu.sender()
    };
    Ok(is_later && may_end)
}
