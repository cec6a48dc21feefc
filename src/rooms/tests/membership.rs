use ruma::RoomVersionId;
use serde_json::json;

use super::world::{World, refused, with_world};
use crate::{
    protocol::versions,
    rooms::{
        Actor, Error,
        membership::{join, leave, moderation},
    },
    store::{Reader, Records, RoomNum, records::Membership},
};

use Membership::{Ban, Invite, Join, Knock, Leave};

/// Brings `user` into the room as `membership`.
fn become_(
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

/// What someone with a level does to someone else, whose membership and level vary; and whether
/// that is allowed.
type Deed = fn(&World, &Actor, &Actor, RoomNum) -> Result<(), Error>;

struct Case {
    deed: Deed,
    /// The membership after it.
    after: Membership,
    /// The level it takes.
    level: i64,
    /// From which memberships it can be done.
    from: &'static [Membership],
    /// Whether who it is done to must stand below who does it.
    above: bool,
}

#[test]
fn who_may_invite_kick_ban_and_unban_whom() {
    let cases = [
        Case {
            deed: |world, by, whom, room| world.invite(by, whom, room),
            after: Invite,
            level: 40,
            from: &[Leave, Invite, Knock],
            above: false,
        },
        Case {
            deed: |world, by, whom, room| world.kick(by, whom, room),
            after: Leave,
            level: 50,
            from: &[Invite, Join, Knock],
            above: true,
        },
        Case {
            deed: |world, by, whom, room| world.ban(by, whom, room),
            after: Ban,
            level: 60,
            from: &[Leave, Invite, Join, Knock, Ban],
            above: true,
        },
        Case {
            deed: |world, by, whom, room| world.unban(by, whom, room),
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
        become_(world, &owner, &by, room, by_membership)?;
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
                become_(world, &owner, &whom, room, from)?;
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
            let result = (case.deed)(world, &by, &whom, room);
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

/// Sets power levels, among them the owner's where it is a level.
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
fn only_who_is_banned_can_be_unbanned() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let unban = world.unban(&alice, &bob, room);
        assert!(matches!(unban, Err(Error::BadState(_))), "{unban:?}");
        Ok(())
    });
}

#[test]
fn what_is_done_twice_is_done_once() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let deeds: [&dyn Fn() -> Result<(), Error>; 5] = [
            &|| world.invite(&alice, &bob, room),
            &|| world.join(&bob, room),
            &|| world.leave(&bob, room),
            &|| world.ban(&alice, &bob, room),
            &|| world.join(&carol, room),
        ];
        for deed in deeds {
            let before = world.length(room)?;
            deed()?;
            assert_eq!(world.length(room)?, before + 1);
            deed()?;
            assert_eq!(world.length(room)?, before + 1);
        }
        Ok(())
    });
}

#[test]
fn reasons_stand_in_the_events() {
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
        join::join(tx, local, &bob, room, Some("here I am"))?;
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
fn joining_depends_on_the_join_rule_and_the_invite() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        for version in versions::SUPPORTED {
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
fn the_banned_neither_join_nor_knock_nor_leave() {
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
fn knocking_is_possible_where_version_and_join_rule_allow_it() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        for version in versions::SUPPORTED {
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
fn a_knock_is_answered_by_an_invite_or_a_kick() {
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
fn who_was_never_there_cannot_leave() {
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
fn a_room_is_forgotten_once_it_is_left_and_until_something_new_happens() {
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
        assert!(forgotten()?, "a ban brings nothing back");
        world.unban(&alice, &bob, room)?;
        assert!(forgotten()?);
        world.invite(&alice, &bob, room)?;
        assert!(!forgotten()?);
        assert!(matches!(forget(), Err(Error::StillInRoom)));
        Ok(())
    });
}
