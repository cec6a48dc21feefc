use ruma::{
    OwnedRoomId, RoomVersionId, ServerName, events::room::member::MembershipState, room_id,
    server_name,
};

use super::world::{World, with_world};
use crate::{
    protocol::{
        Pdu,
        history::{Action, History},
        receive::Received,
    },
    rooms::{
        Error,
        background::member_events,
        event::import,
        membership::{change::MembershipChange, out_of_band, pending_leaves},
        room,
        state::current::local_membership,
    },
    store::{
        Reader, Records, RoomNum,
        records::{Membership, OutOfBandMembership},
    },
};

const ALICE: &str = "@alice:here";
const MALLORY: &str = "@mallory:b.example";

/// An invite of alice to a room of another server.
fn invite(version: &RoomVersionId) -> Received {
    let mut room = History::public(version, MALLORY);
    let index = room.then(Action::member(MALLORY, ALICE, "invite"));
    received(&room, index)
}

/// The rejection of an invite of alice.
fn rejection(version: &RoomVersionId) -> Received {
    let mut room = History::public(version, MALLORY);
    room.then(Action::member(MALLORY, ALICE, "invite"));
    let index = room.then(Action::member(ALICE, ALICE, "leave"));
    received(&room, index)
}

fn invitation(version: &RoomVersionId) -> OutOfBandMembership {
    out_of_band::from_stripped_state(server_name!("b.example"), version, [])
}

fn received(room: &History, index: usize) -> Received {
    let event = &room.events[index];
    Received {
        json: event.json.clone(),
        pdu: Pdu::clone(&event.pdu),
        redacted: false,
    }
}

#[test]
fn an_invite_with_a_false_room_version_does_not_decide_the_version_of_the_room() {
    with_world(|world| {
        let id = room_id!("!room:a.example");
        let [alice] = world.users(["alice"])?;
        let version = RoomVersionId::V10;
        out_of_band::store(world.tx, id, &invite(&version), &invitation(&version))?;
        let num = room::num(world.tx, id)?;
        let stored = out_of_band::load(world.tx, alice.num, num)?.expect("alice is invited");
        assert_eq!(out_of_band::version(&stored)?, version);
        let begun = import::begin(world.tx, id, &RoomVersionId::V11)?;
        assert_eq!(begun, num);
        assert_eq!(room::version(world.tx, num)?, RoomVersionId::V11);
        Ok(())
    });
}

/// A room of alice's, and its id.
fn own_room(world: &World<'_>, version: &RoomVersionId) -> Result<OwnedRoomId, Error> {
    let alice = world.user("alice")?;
    let num = world.public(&alice, version)?;
    room::id(world.tx, num)
}

/// Stores an invite of alice by `inviter`, through their server.
fn invite_by(world: &World<'_>, inviter: &'static str) -> Result<OwnedRoomId, Error> {
    let mut history = History::public(&RoomVersionId::V11, inviter);
    let index = history.then(Action::member(inviter, ALICE, "invite"));
    let (_, server) = inviter.split_once(':').expect("a user id");
    store_through(world, server, &received(&history, index))
}

/// Stores a knock of alice through `server`.
fn knock_through(world: &World<'_>, server: &str) -> Result<OwnedRoomId, Error> {
    let mut history = History::public(&RoomVersionId::V11, MALLORY);
    let last = history.events.len() - 1;
    let index = history.append(&[last], Action::member(ALICE, ALICE, "knock"));
    store_through(world, server, &received(&history, index))
}

fn store_through(world: &World<'_>, server: &str, event: &Received) -> Result<OwnedRoomId, Error> {
    let server: &ServerName = server.try_into().expect("a server name");
    let id = format!("!{}:{server}", rand::random::<u64>());
    let id = OwnedRoomId::try_from(id).expect("a room id");
    let row = out_of_band::from_stripped_state(server, &RoomVersionId::V11, []);
    out_of_band::store(world.tx, &id, event, &row)?;
    Ok(id)
}

/// One of many users of a server.
fn inviter(number: usize, server: &str) -> &'static str {
    format!("@mallory{number}:{server}").leak()
}

fn is_pending(world: &World<'_>, room: &OwnedRoomId) -> Result<bool, Error> {
    let alice = world.user("alice")?;
    Ok(out_of_band::load(world.tx, alice.num, room::num(world.tx, room)?)?.is_some())
}

/// `server` is in a room of this one.
fn share_a_room(world: &World<'_>, server: &str) -> Result<(), Error> {
    let num = world.tx.server_num(server)?;
    Ok(world.tx.server_rooms()?.insert((num, RoomNum(9999)), ())?)
}

#[test]
fn a_server_that_shares_no_room_and_one_inviter_have_few_pending_invites() {
    with_world(|world| {
        world.user("alice")?;
        for n in 0..20 {
            invite_by(world, inviter(n, "b.example"))?;
        }
        let more = invite_by(world, "@other:b.example");
        assert!(matches!(more, Err(Error::Forbidden(_))), "{more:?}");
        share_a_room(world, "c.example")?;
        for _ in 0..20 {
            invite_by(world, "@carol:c.example")?;
        }
        let more = invite_by(world, "@carol:c.example");
        assert!(matches!(more, Err(Error::Forbidden(_))), "{more:?}");
        invite_by(world, "@dave:c.example")?;
        Ok(())
    });
}

#[test]
fn an_invite_through_a_server_that_shares_a_room_displaces_the_oldest_of_others() {
    with_world(|world| {
        world.user("alice")?;
        let mut invites = Vec::new();
        for n in 0..200 {
            let server = format!("b{}.example", n / 20);
            invites.push(invite_by(world, inviter(n, &server))?);
        }
        let more = invite_by(world, "@mallory:d.example");
        assert!(matches!(more, Err(Error::Forbidden(_))), "{more:?}");
        share_a_room(world, "c.example")?;
        let honest = invite_by(world, "@carol:c.example")?;
        assert!(is_pending(world, &honest)?);
        let mut left = 0;
        for invite in &invites {
            left += usize::from(is_pending(world, invite)?);
        }
        assert_eq!(left, 199);
        Ok(())
    });
}

#[test]
fn invites_of_servers_that_share_no_room_are_displaced_first() {
    with_world(|world| {
        world.user("alice")?;
        for server in ["a.example", "b.example", "c.example"] {
            share_a_room(world, server)?;
        }
        for (server, count) in [("a.example", 100), ("b.example", 80)] {
            for n in 0..count {
                invite_by(world, inviter(n, server))?;
            }
        }
        let mut unrelated = Vec::new();
        for n in 0..20 {
            unrelated.push(invite_by(world, inviter(n, "d.example"))?);
        }
        invite_by(world, "@carol:c.example")?;
        assert!(!is_pending(world, &unrelated[0])?);
        assert!(is_pending(world, &unrelated[1])?);
        Ok(())
    });
}

#[test]
fn neither_a_knock_nor_the_only_invite_of_a_server_that_shares_a_room_is_displaced() {
    with_world(|world| {
        world.user("alice")?;
        for server in ["b.example", "c.example", "d.example"] {
            share_a_room(world, server)?;
        }
        let mut knocks = Vec::new();
        for _ in 0..198 {
            knocks.push(knock_through(world, "b.example")?);
        }
        let [first, second] = ["@bob:b.example", "@bert:b.example"].map(|by| invite_by(world, by));
        let (first, second) = (first?, second?);
        invite_by(world, "@carol:c.example")?;
        assert!(!is_pending(world, &first)? && is_pending(world, &second)?);
        let more = invite_by(world, "@dave:d.example");
        assert!(matches!(more, Err(Error::Forbidden(_))), "{more:?}");
        for knock in &knocks {
            assert!(is_pending(world, knock)?);
        }
        Ok(())
    });
}

#[test]
fn an_invite_to_a_room_that_was_joined_meanwhile_changes_no_membership() {
    with_world(|world| {
        let version = RoomVersionId::V11;
        let id = own_room(world, &version)?;
        let (alice, num) = (world.user("alice")?, room::num(world.tx, &id)?);
        out_of_band::store(world.tx, &id, &invite(&version), &invitation(&version))?;
        assert!(out_of_band::load(world.tx, alice.num, num)?.is_none());
        let row = local_membership(world.tx, alice.num, num)?.expect("a row");
        assert_eq!(row.membership, Membership::Join);
        Ok(())
    });
}

#[test]
fn a_rejection_that_comes_after_the_join_changes_no_membership() {
    with_world(|world| {
        let version = RoomVersionId::V11;
        let id = own_room(world, &version)?;
        let (alice, num) = (world.user("alice")?, room::num(world.tx, &id)?);
        assert!(!out_of_band::end(world.tx, num, &rejection(&version))?);
        let row = local_membership(world.tx, alice.num, num)?.expect("a row");
        assert_eq!(row.membership, Membership::Join);
        Ok(())
    });
}

#[test]
fn a_rejection_ends_an_invitation_once() {
    with_world(|world| {
        let version = RoomVersionId::V11;
        let id = room_id!("!room:b.example");
        let alice = world.user("alice")?;
        out_of_band::store(world.tx, id, &invite(&version), &invitation(&version))?;
        let num = room::num(world.tx, id)?;
        assert!(out_of_band::end(world.tx, num, &rejection(&version))?);
        assert!(!out_of_band::end(world.tx, num, &rejection(&version))?);
        let row = local_membership(world.tx, alice.num, num)?.expect("a row");
        assert_eq!(row.membership, Membership::Leave);
        Ok(())
    });
}

#[test]
fn deactivation_ends_an_invitation_to_a_room_of_another_server() {
    with_world(|world| {
        let version = RoomVersionId::V11;
        let id = room_id!("!room:b.example");
        let [alice] = world.users(["alice"])?;
        out_of_band::store(world.tx, id, &invite(&version), &invitation(&version))?;
        let num = room::num(world.tx, id)?;
        let mut account = world.tx.accounts()?.load(alice.num)?.expect("an account");
        account.deactivated = true;
        world.tx.accounts()?.put(alice.num, &account)?;
        member_events::schedule_update(world.tx, alice.num)?;
        world.run_member_updates(alice.num)?;
        let row = local_membership(world.tx, alice.num, num)?.expect("a row");
        assert_eq!(row.membership, Membership::Leave);
        assert!(out_of_band::load(world.tx, alice.num, num)?.is_none());
        Ok(())
    });
}

#[test]
fn an_invitation_of_the_greatest_depth_can_be_rejected() {
    with_world(|world| {
        let (version, id) = (RoomVersionId::V11, room_id!("!room:b.example"));
        let [alice] = world.users(["alice"])?;
        let mut invite = invite(&version);
        let mut json: serde_json::Value = serde_json::from_slice(&invite.json).expect("JSON");
        json["depth"] = ((1_u64 << 53) - 1).into();
        invite.json = json.to_string().into_bytes();
        let event_id = invite.pdu.event_id().to_owned();
        let rules = room::rules_of(&version)?;
        invite.pdu = Pdu::parse(event_id, &invite.json, rules, false)?;
        out_of_band::store(world.tx, id, &invite, &invitation(&version))?;
        let num = room::num(world.tx, id)?;
        let leave = MembershipChange::new(&alice.id, MembershipState::Leave, None);
        pending_leaves::leave(world.tx, &world.local, &alice, num, &leave)?;
        let row = local_membership(world.tx, alice.num, num)?.expect("a row");
        assert_eq!(row.membership, Membership::Leave);
        Ok(())
    });
}

#[test]
fn an_invite_to_a_room_that_everybody_left_here_is_accepted_through_the_inviting_server() {
    with_world(|world| {
        let version = RoomVersionId::V11;
        let id = own_room(world, &version)?;
        let [alice, bob] = world.users(["alice", "bob"])?;
        let is_resident = |user| out_of_band::is_resident(world.tx, &id, user);
        assert!(is_resident(bob.num)?);
        world.leave(&alice, room::num(world.tx, &id)?)?;
        assert!(is_resident(alice.num)?);
        out_of_band::store(world.tx, &id, &invite(&version), &invitation(&version))?;
        assert!(!is_resident(alice.num)? && is_resident(bob.num)?);
        Ok(())
    });
}

/// Whether server b.example is to accept a leave event, if it has a row.
fn pending_leave(world: &World<'_>) -> Result<Option<bool>, Error> {
    let server = world.tx.server_num("b.example")?;
    Ok(pending_leaves::next(world.tx, server)?.map(|(_, leave)| leave.is_some()))
}

#[test]
fn a_rejection_that_is_still_to_be_sent_is_void_after_the_next_invite() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let id = invite_by(world, MALLORY)?;
        let num = room::num(world.tx, &id)?;
        assert_eq!(pending_leave(world)?, None);
        let leave = MembershipChange::new(&alice.id, MembershipState::Leave, None);
        pending_leaves::leave(world.tx, &world.local, &alice, num, &leave)?;
        assert_eq!(pending_leave(world)?, Some(true));
        let version = RoomVersionId::V11;
        let mut history = History::public(&version, MALLORY);
        history.then(Action::member(MALLORY, ALICE, "invite"));
        history.then(Action::member(MALLORY, ALICE, "leave"));
        let next = history.then(Action::member(MALLORY, ALICE, "invite"));
        let (next, row) = (received(&history, next), invitation(&version));
        out_of_band::store(world.tx, &id, &next, &row)?;
        assert_eq!(pending_leave(world)?, Some(false));
        Ok(())
    });
}
