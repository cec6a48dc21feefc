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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ruma::{RoomVersionId, ServerName, room_id, server_name};
    use serde_json::json;

    use super::{ends_invitation, removed_user};
    use crate::{
        protocol::{
            Pdu, ServerKey,
            history::{Action, History},
            receive::Received,
        },
        rooms::{Error, Local, membership::out_of_band, room, tests::with_store},
        store::Tx,
    };

    const ALICE: &str = "@alice:here";
    const MALLORY: &str = "@mallory:b.example";
    const OTHER: &str = "@other:b.example";
    const STRANGER: &str = "@stranger:c.example";

    /// Whether each of `pdus` ends the membership of alice that the event `index` of `history` is, and that
    /// came through b.example.
    fn which_end(
        history: &History,
        index: usize,
        pdus: &[(&'static ServerName, usize)],
    ) -> Vec<bool> {
        let event = &history.events[index];
        let event = Received {
            json: event.json.clone(),
            pdu: Pdu::clone(&event.pdu),
            redacted: false,
        };
        let row = out_of_band::from_stripped_state(server_name!("b.example"), &history.version, []);
        let pdus = pdus.iter();
        let pdus: Vec<_> = pdus
            .map(|(origin, index)| (*origin, history.events[*index].pdu.clone()))
            .collect();
        with_store(async |store| {
            let job = move |tx: &Tx| {
                let id = room_id!("!room:b.example");
                out_of_band::store(tx, id, &event, &row)?;
                let (room, alice) = (room::num(tx, id)?, ALICE.try_into().expect("a user id"));
                let ends = |(origin, pdu): &(&ServerName, Arc<Pdu>)| {
                    ends_invitation(tx, room, alice, origin, pdu)
                };
                pdus.iter().map(ends).collect::<Result<Vec<_>, Error>>()
            };
            store.write(job).await.expect("it is read")
        })
    }

    #[test]
    fn an_invitation_is_ended_by_an_event_of_its_sender_that_follows_it() {
        let mut history = History::public(&RoomVersionId::V11, MALLORY);
        let before = history.then(Action::join(OTHER));
        let invite = history.then(Action::member(MALLORY, ALICE, "invite"));
        let pdus = [
            history.append(&[invite], Action::member(MALLORY, ALICE, "leave")),
            history.append(&[invite], Action::member(MALLORY, ALICE, "ban")),
            history.append(&[invite], Action::member(OTHER, ALICE, "leave")),
            history.append(&[before], Action::member(MALLORY, ALICE, "leave")),
        ];
        let pdus = pdus.map(|pdu| (server_name!("b.example"), pdu));
        let ends = which_end(&history, invite, &pdus);
        assert_eq!(ends, [true, true, false, false]);
    }

    #[test]
    fn a_knock_is_ended_by_the_server_that_took_it() {
        let mut history = History::public(&RoomVersionId::V11, MALLORY);
        let rule = json!({ "join_rule": "knock" });
        history.then(Action::state(MALLORY, "m.room.join_rules", "", rule));
        let knock = history.then(Action::member(ALICE, ALICE, "knock"));
        let (b, c) = (server_name!("b.example"), server_name!("c.example"));
        let own = history.append(&[knock], Action::member(OTHER, ALICE, "leave"));
        let foreign = history.append(&[knock], Action::member(STRANGER, ALICE, "leave"));
        let pdus = [(b, own), (c, own), (b, foreign), (c, foreign)];
        assert_eq!(which_end(&history, knock, &pdus), [true, true, true, false]);
    }

    #[test]
    fn only_leaves_and_bans_of_local_users_remove_somebody() {
        let local = Local::new(server_name!("here").to_owned(), ServerKey::generate());
        let mut history = History::public(&RoomVersionId::V11, MALLORY);
        let content = json!({ "membership": "leave" });
        for (action, removed) in [
            (Action::member(MALLORY, ALICE, "leave"), Some(ALICE)),
            (Action::member(MALLORY, ALICE, "ban"), Some(ALICE)),
            (Action::member(MALLORY, ALICE, "invite"), None),
            (Action::member(MALLORY, ALICE, "join"), None),
            (Action::member(MALLORY, OTHER, "leave"), None),
            (Action::state(MALLORY, "m.room.topic", ALICE, content), None),
        ] {
            let index = history.append(&[0], action);
            let pdu = &history.events[index].pdu;
            assert_eq!(removed_user(&local, pdu).map(|user| user.as_str()), removed);
        }
    }
}
