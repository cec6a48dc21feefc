use ruma::RoomVersionId;
use serde_json::json;

use super::world::{World, creatable, refused, with_world};
use crate::{
    protocol::versions,
    rooms::{Actor, Error, room::id},
    store::{RoomNum, records::Membership},
};

/// A room of alice's with the join rule `rule` that allows members of `lobby`.
fn restricted(
    world: &World,
    alice: &Actor,
    lobby: RoomNum,
    version: &RoomVersionId,
    rule: &str,
) -> Result<RoomNum, Error> {
    let content = json!({ "join_rule": rule, "allow": [
        { "type": "org.example.unknown" },
        { "type": "m.room_membership", "room_id": "!elsewhere:there" },
        { "type": "m.room_membership", "room_id": id(world.tx, lobby)? },
    ] });
    let rules = json!({ "type": "m.room.join_rules", "content": content });
    let body = json!({ "room_version": version, "initial_state": [rules] });
    world.create(alice, &body)
}

/// Asserts that this server refuses; another one may know the rooms that it does not.
fn refused_here(result: Result<(), Error>) {
    use Error::{Forbidden, UnableToAuthorizeJoin, UnableToGrantJoin};
    let is_refused = matches!(
        result,
        Err(Forbidden(_) | UnableToAuthorizeJoin | UnableToGrantJoin)
    );
    assert!(is_refused, "{result:?}");
}

#[test]
fn members_of_an_allowed_room_join_authorised_via_a_member_who_may_invite() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let lobby = world.public(&alice, &RoomVersionId::V12)?;
        world.join(&bob, lobby)?;
        for version in creatable() {
            let rules = &versions::rules(&version).expect("supported").authorization;
            for (rule, supported) in [
                ("restricted", rules.restricted_join_rule),
                ("knock_restricted", rules.knock_restricted_join_rule),
            ] {
                let room = restricted(world, &alice, lobby, &version, rule)?;
                let joined = world.join(&bob, room);
                assert_eq!(
                    joined.is_ok(),
                    supported,
                    "version {version}, {rule}: {joined:?}"
                );
                refused_here(world.join(&carol, room));
                if supported {
                    let content = world.get(room, ("m.room.member", "@bob:here"))?;
                    assert_eq!(content["join_authorised_via_users_server"], "@alice:here");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn an_invited_or_joined_user_needs_no_authorising_user() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let lobby = world.public(&alice, &RoomVersionId::V12)?;
        let room = restricted(world, &alice, lobby, &RoomVersionId::V12, "restricted")?;
        world.invite(&alice, &bob, room)?;
        world.join(&bob, room)?;
        let content = world.get(room, ("m.room.member", "@bob:here"))?;
        assert_eq!(content, json!({ "membership": "join" }));
        Ok(())
    });
}

#[test]
fn a_user_not_joined_to_the_allowed_room_cannot_join() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let lobby = world.public(&alice, &RoomVersionId::V12)?;
        let room = restricted(world, &alice, lobby, &RoomVersionId::V12, "restricted")?;
        world.join(&bob, lobby)?;
        world.leave(&bob, lobby)?;
        refused_here(world.join(&bob, room));
        world.invite(&alice, &carol, lobby)?;
        refused_here(world.join(&carol, room));
        Ok(())
    });
}

#[test]
fn without_a_member_who_may_invite_nobody_can_join() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let lobby = world.public(&alice, &RoomVersionId::V11)?;
        world.join(&bob, lobby)?;
        world.join(&carol, lobby)?;
        let room = restricted(world, &alice, lobby, &RoomVersionId::V11, "restricted")?;
        world.join(&bob, room)?;
        let levels = json!({ "invite": 60, "users": { "@alice:here": 100, "@bob:here": 50 } });
        world.set(&alice, room, ("m.room.power_levels", ""), &levels)?;
        world.leave(&alice, room)?;
        refused_here(world.join(&carol, room));
        assert_eq!(world.membership(&carol, room)?, Membership::Leave);
        Ok(())
    });
}

#[test]
fn a_banned_user_cannot_join_a_restricted_room() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let lobby = world.public(&alice, &RoomVersionId::V12)?;
        world.join(&bob, lobby)?;
        let room = restricted(world, &alice, lobby, &RoomVersionId::V12, "restricted")?;
        world.ban(&alice, &bob, room)?;
        refused(world.join(&bob, room));
        Ok(())
    });
}

#[test]
fn a_member_who_has_left_does_not_keep_another_one_from_authorising_joins() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let lobby = world.public(&alice, &RoomVersionId::V11)?;
        world.join(&bob, lobby)?;
        world.join(&carol, lobby)?;
        let room = restricted(world, &alice, lobby, &RoomVersionId::V11, "restricted")?;
        world.join(&bob, room)?;
        let levels = json!({ "invite": 50, "users": { "@alice:here": 100, "@bob:here": 50 } });
        world.set(&alice, room, ("m.room.power_levels", ""), &levels)?;
        world.leave(&alice, room)?;
        world.join(&carol, room)?;
        let content = world.get(room, ("m.room.member", "@carol:here"))?;
        assert_eq!(content["join_authorised_via_users_server"], "@bob:here");
        Ok(())
    });
}
