use ruma::{RoomVersionId, events::room::member::MembershipState};
use serde_json::json;

use super::world::{World, creatable, refused, with_world};
use crate::{
    protocol::versions,
    rooms::{
        Actor, Error,
        membership::{change::MembershipChange, join, leave, moderation},
    },
    store::{Reader, Records, RoomNum, records::Membership},
};

use Membership::{Ban, Invite, Join, Knock, Leave};

/// Gives `user` the membership `membership`.
fn set_membership(
    world: &World,
    owner: &Actor,
    user: &Actor,
    room: RoomNum,
    membership: Membership,
) -> Result<(), Error> {
    match membership {
        Leave => Ok(()),
        Invite => world.invite(owner, user, room),
        Join => world
            .invite(owner, user, room)
            .and_then(|()| world.join(user, room)),
        Ban => world.ban(owner, user, room),
        Knock => world.knock(user, room),
    }
}

/// A membership change of a target by a sender with a power level, and when it is allowed.
type Action = fn(&World, &Actor, &Actor, RoomNum) -> Result<(), Error>;

struct Case {
    action: Action,
    /// The membership after the change.
    after: Membership,
    /// The required power level.
    level: i64,
    /// The memberships before it from which it is allowed.
    from: &'static [Membership],
    /// Whether the level of the target must be below that of the sender.
    above: bool,
}

#[test]
fn invite_kick_ban_and_unban_follow_the_power_levels() {
    let cases = [
        Case {
            action: |world, by, whom, room| world.invite(by, whom, room),
            after: Invite,
            level: 40,
            from: &[Leave, Invite, Knock],
            above: false,
        },
        Case {
            action: |world, by, whom, room| world.kick(by, whom, room),
            after: Leave,
            level: 50,
            from: &[Invite, Join, Knock],
            above: true,
        },
        Case {
            action: |world, by, whom, room| world.ban(by, whom, room),
            after: Ban,
            level: 60,
            from: &[Leave, Invite, Join, Knock, Ban],
            above: true,
        },
        Case {
            action: |world, by, whom, room| world.unban(by, whom, room),
            after: Leave,
            level: 60,
            from: &[Ban],
            above: true,
        },
    ];
    for case in cases {
        with_world(move |world| {
            for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12] {
                check(world, &case, &version)?;
            }
            Ok(())
        });
    }
}

fn check(world: &World, case: &Case, version: &RoomVersionId) -> Result<(), Error> {
    let knocking = versions::rules(version)
        .expect("supported")
        .authorization
        .knocking;
    let memberships = [Leave, Invite, Join, Ban].into_iter();
    let memberships = memberships.chain(knocking.then_some(Knock));
    let [owner, by] = world.users(["owner", "by"])?;
    for (by_level, by_membership) in [(39, Join), (49, Join), (59, Join), (70, Join), (70, Leave)] {
        let room = world.create(&owner, &json!({ "room_version": version }))?;
        set_membership(world, &owner, &by, room, by_membership)?;
        let rule = if knocking { "knock" } else { "invite" };
        world.set(
            &owner,
            room,
            ("m.room.join_rules", ""),
            &json!({ "join_rule": rule }),
        )?;
        let mut levels = json!({
            "invite": 40, "kick": 50, "ban": 60, "users": { &by.id: by_level },
        });
        let mut others = Vec::new();
        for from in memberships.clone() {
            for level in [0, 70] {
                let whom = world.user(&format!("{from:?}{level}").to_lowercase())?;
                set_membership(world, &owner, &whom, room, from)?;
                levels["users"][whom.id.as_str()] = json!(level);
                others.push((whom, level, from));
            }
        }
        set_levels(world, &owner, room, version, levels)?;
        for (whom, level, from) in others {
            let allowed = by_membership == Join
                && by_level >= case.level
                && case.from.contains(&from)
                && (!case.above || level < by_level);
            let result = (case.action)(world, &by, &whom, room);
            let about = format!(
                "version {version}: {by_membership:?} {by_level} to {from:?} {level}: {result:?}"
            );
            assert_eq!(result.is_ok(), allowed, "{about}");
            let refusal = matches!(
                result,
                Ok(()) | Err(Error::Forbidden(_) | Error::BadState(_))
            );
            assert!(refusal, "{about}");
            let after = if allowed { case.after } else { from };
            assert_eq!(world.membership(&whom, room)?, after, "{about}");
        }
    }
    Ok(())
}

/// Sets power levels, with that of the owner in room versions in which creators have one.
fn set_levels(
    world: &World,
    owner: &Actor,
    room: RoomNum,
    version: &RoomVersionId,
    mut levels: serde_json::Value,
) -> Result<(), Error> {
    let rules = versions::rules(version).expect("supported");
    if !rules.authorization.explicitly_privilege_room_creators {
        levels["users"][owner.id.as_str()] = json!(100);
    }
    world.set(owner, room, ("m.room.power_levels", ""), &levels)
}

#[test]
fn unbanning_a_user_who_is_not_banned_is_an_error() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let unban = world.unban(&alice, &bob, room);
        assert!(matches!(unban, Err(Error::BadState(_))), "{unban:?}");
        Ok(())
    });
}

#[test]
fn membership_changes_are_idempotent() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let actions: [&dyn Fn() -> Result<(), Error>; 5] = [
            &|| world.invite(&alice, &bob, room),
            &|| world.join(&bob, room),
            &|| world.leave(&bob, room),
            &|| world.ban(&alice, &bob, room),
            &|| world.join(&carol, room),
        ];
        for action in actions {
            let before = world.length(room)?;
            action()?;
            assert_eq!(world.length(room)?, before + 1);
            action()?;
            assert_eq!(world.length(room)?, before + 1);
        }
        Ok(())
    });
}

#[test]
fn events_have_the_reason() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let (tx, local) = (world.tx, &world.local);
        let said = |world: &World| world.get(room, ("m.room.member", "@bob:here"));
        moderation::invite(tx, local, &alice, room, &bob.id, Some("come"), false)?;
        assert_eq!(
            said(world)?,
            json!({ "membership": "invite", "reason": "come" })
        );
        let change = MembershipChange::new(&bob.id, MembershipState::Join, Some("here I am"));
        join::join(tx, local, &bob, room, &change)?;
        assert_eq!(
            said(world)?,
            json!({ "membership": "join", "reason": "here I am" })
        );
        moderation::kick(tx, local, &alice, room, &bob.id, Some("go"))?;
        assert_eq!(
            said(world)?,
            json!({ "membership": "leave", "reason": "go" })
        );
        moderation::ban(tx, local, &alice, room, &bob.id, Some("stay away"))?;
        assert_eq!(
            said(world)?,
            json!({ "membership": "ban", "reason": "stay away" })
        );
        moderation::unban(tx, local, &alice, room, &bob.id, Some("enough"))?;
        assert_eq!(
            said(world)?,
            json!({ "membership": "leave", "reason": "enough" })
        );
        Ok(())
    });
}

#[test]
fn joining_requires_an_invite_or_a_public_join_rule() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        for version in creatable() {
            let rules = &versions::rules(&version).expect("supported").authorization;
            for (rule, invited, allowed) in [
                ("public", false, true),
                ("invite", false, false),
                ("invite", true, true),
                ("private", false, false),
                ("knock", false, false),
                ("restricted", true, rules.restricted_join_rule),
            ] {
                let room = world.create(&alice, &json!({ "room_version": version }))?;
                let rule = json!({ "join_rule": rule });
                world.set(&alice, room, ("m.room.join_rules", ""), &rule)?;
                if invited {
                    world.invite(&alice, &bob, room)?;
                }
                let joined = world.join(&bob, room);
                assert_eq!(
                    joined.is_ok(),
                    allowed,
                    "version {version}, {rule}: {joined:?}"
                );
            }
        }
        Ok(())
    });
}

#[test]
fn a_banned_user_cannot_join_knock_or_leave() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        world.ban(&alice, &bob, room)?;
        refused(world.join(&bob, room));
        refused(world.knock(&bob, room));
        refused(world.leave(&bob, room));
        world.unban(&alice, &bob, room)?;
        world.join(&bob, room)
    });
}

#[test]
fn knocking_requires_a_version_and_a_join_rule_that_allow_it() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        for version in creatable() {
            let rules = &versions::rules(&version).expect("supported").authorization;
            for (rule, allowed) in [
                ("public", false),
                ("invite", false),
                ("knock", rules.knocking),
                ("restricted", false),
                ("knock_restricted", rules.knock_restricted_join_rule),
            ] {
                let room = world.create(&alice, &json!({ "room_version": version }))?;
                let rule = json!({ "join_rule": rule });
                world.set(&alice, room, ("m.room.join_rules", ""), &rule)?;
                let knocked = world.knock(&bob, room);
                assert_eq!(
                    knocked.is_ok(),
                    allowed,
                    "version {version}, {rule}: {knocked:?}"
                );
                if allowed {
                    assert_eq!(world.membership(&bob, room)?, Knock);
                    refused(world.join(&bob, room));
                    world.leave(&bob, room)?;
                    assert_eq!(world.membership(&bob, room)?, Leave);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_knocking_user_can_be_invited_or_kicked() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.create(&alice, &json!({}))?;
        let rule = json!({ "join_rule": "knock" });
        world.set(&alice, room, ("m.room.join_rules", ""), &rule)?;
        world.knock(&bob, room)?;
        world.knock(&carol, room)?;
        world.invite(&alice, &bob, room)?;
        world.join(&bob, room)?;
        world.kick(&alice, &carol, room)?;
        assert_eq!(world.membership(&carol, room)?, Leave);
        refused(world.knock(&bob, room));
        Ok(())
    });
}

#[test]
fn a_user_who_was_never_in_the_room_cannot_leave() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        refused(world.leave(&bob, room));
        world.invite(&alice, &bob, room)?;
        world.leave(&bob, room)?;
        assert_eq!(world.membership(&bob, room)?, Leave);
        Ok(())
    });
}

#[test]
fn a_left_room_stays_forgotten_until_a_new_invite_or_join() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let forget = || leave::forget(world.tx, bob.num, room);
        let forgotten = || -> Result<bool, Error> {
            let row = world.tx.memberships()?.load((bob.num, room))?;
            Ok(row.is_some_and(|row| row.forgotten))
        };
        forget()?;
        world.join(&bob, room)?;
        assert!(matches!(forget(), Err(Error::StillInRoom)));
        world.leave(&bob, room)?;
        assert!(!forgotten()?);
        forget()?;
        assert!(forgotten()?);
        world.ban(&alice, &bob, room)?;
        assert!(forgotten()?, "a ban does not undo forgetting");
        world.unban(&alice, &bob, room)?;
        assert!(forgotten()?);
        world.invite(&alice, &bob, room)?;
        assert!(!forgotten()?);
        assert!(matches!(forget(), Err(Error::StillInRoom)));
        Ok(())
    });
}
