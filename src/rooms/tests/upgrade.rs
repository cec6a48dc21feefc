use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, room_alias_id, room_id};
use serde_json::{Value, json};

use super::world::{World, creatable, refused, some_id, with_world};
use crate::{
    rooms::{
        Actor, Error,
        directory::{self, aliases},
        event,
        membership::moderation,
        room::{id, num},
        timeline, upgrade,
    },
    store::{Place, RoomNum, records::Membership},
    users::account_data::{GLOBAL, load, put},
};

const LEVELS: (&str, &str) = ("m.room.power_levels", "");

fn upgrade(
    world: &World,
    by: &Actor,
    old: RoomNum,
    version: &RoomVersionId,
    additional_creators: &[OwnedUserId],
) -> Result<RoomNum, Error> {
    let wish = upgrade::Upgrade {
        id: some_id(),
        version: version.clone(),
        additional_creators: additional_creators.to_vec(),
    };
    let new = upgrade::upgrade(world.tx, &world.local, by, old, &wish)?;
    num(world.tx, &new)
}

fn id_of(world: &World, room: RoomNum) -> Result<OwnedRoomId, Error> {
    id(world.tx, room)
}

/// A published room of `version` with all state that an upgrade copies.
fn full_room(world: &World, alice: &Actor, version: &RoomVersionId) -> Result<RoomNum, Error> {
    let body = json!({
        "room_version": version, "visibility": "public", "room_alias_name": "pub",
        "name": "Pub", "topic": "Beer",
        "creation_content": { "type": "org.example.pub", "m.federate": false, "x": 1 },
        "initial_state": STATE
            .iter()
            .map(|(kind, content)| {
                let content: Value = serde_json::from_str(content).expect("JSON");
                json!({ "type": kind, "content": content })
            })
            .collect::<Vec<_>>(),
    });
    world.create(alice, &body)
}

const STATE: [(&str, &str); 6] = [
    ("m.room.server_acl", r#"{"allow":["*"],"deny":["there"]}"#),
    (
        "m.room.encryption",
        r#"{"algorithm":"m.megolm.v1.aes-sha2"}"#,
    ),
    ("m.room.avatar", r#"{"url":"mxc://here/pub"}"#),
    ("m.room.guest_access", r#"{"guest_access":"can_join"}"#),
    (
        "m.room.history_visibility",
        r#"{"history_visibility":"joined"}"#,
    ),
    ("m.room.join_rules", r#"{"join_rule":"knock"}"#),
];

#[test]
fn state_is_copied_and_predecessor_and_tombstone_are_set() {
    for (from, to) in [
        (RoomVersionId::V6, RoomVersionId::V11),
        (RoomVersionId::V10, RoomVersionId::V12),
        (RoomVersionId::V12, RoomVersionId::V12),
        (RoomVersionId::V12, RoomVersionId::V10),
    ] {
        with_world(move |world| {
            let alice = world.user("alice")?;
            let old = full_room(world, &alice, &from)?;
            let newest = timeline::backwards(world.tx, old, Place::MAX, 1)?;
            let newest = event::id(world.tx, newest[0].1.event)?;
            let new = upgrade(world, &alice, old, &to, &[])?;
            for (kind, content) in STATE {
                let content: Value = serde_json::from_str(content).expect("JSON");
                assert_eq!(world.get(new, (kind, ""))?, content, "{kind}");
            }
            assert_eq!(world.get(new, ("m.room.name", ""))?["name"], "Pub");
            assert_eq!(world.get(new, ("m.room.topic", ""))?["topic"], "Beer");
            let create = world.get(new, ("m.room.create", ""))?;
            assert_eq!(create["type"], "org.example.pub");
            assert_eq!(create["m.federate"], false);
            assert_eq!(create["x"], Value::Null);
            assert_eq!(create["room_version"], to.as_str());
            let predecessor = json!({ "room_id": id_of(world, old)?, "event_id": newest });
            assert_eq!(create["predecessor"], predecessor);
            let tombstone = world.get(old, ("m.room.tombstone", ""))?;
            assert_eq!(tombstone["replacement_room"], id_of(world, new)?.as_str());
            assert!(tombstone["body"].is_string());
            assert_eq!(world.membership(&alice, new)?, Membership::Join);
            assert_eq!(world.membership(&alice, old)?, Membership::Join);
            Ok(())
        });
    }
}

#[test]
fn aliases_and_the_directory_entry_move() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let old = full_room(world, &alice, &RoomVersionId::V10)?;
        let alias = room_alias_id!("#second:here");
        aliases::create(world.tx, &world.local, &alice, alias, old)?;
        let canonical = ("m.room.canonical_alias", "");
        let content = json!({ "alias": "#pub:here", "alt_aliases": [alias, "#pub:there"] });
        world.set(&alice, old, canonical, &content)?;
        let new = upgrade(world, &alice, old, &RoomVersionId::V12, &[])?;
        for alias in [alias, room_alias_id!("#pub:here")] {
            assert_eq!(aliases::resolve(world.tx, alias)?, new);
        }
        assert_eq!(
            aliases::of_room(world.tx, new)?,
            ["#pub:here", "#second:here"]
        );
        assert!(aliases::of_room(world.tx, old)?.is_empty());
        let moved = json!({ "alias": "#pub:here", "alt_aliases": [alias] });
        assert_eq!(world.get(new, canonical)?, moved);
        assert_eq!(
            world.get(old, canonical)?,
            json!({ "alt_aliases": ["#pub:there"] })
        );
        assert!(directory::is_listed(world.tx, new)?);
        assert!(!directory::is_listed(world.tx, old)?);
        Ok(())
    });
}

#[test]
fn power_levels_are_copied_and_raised_in_the_old_room() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let old = world.public(&alice, &RoomVersionId::V9)?;
        let levels = json!({
            "users": { "@alice:here": 100, "@bob:here": " 50 " },
            "users_default": 60,
            "invite": "90",
            "state_default": 70,
            "events": { "m.room.name": 100, "m.room.power_levels": 100, "m.room.tombstone": 60 },
            "org.example": "kept",
        });
        world.set(&alice, old, LEVELS, &levels)?;
        world.join(&bob, old)?;
        let new = upgrade(world, &alice, old, &RoomVersionId::V11, &[])?;
        let mut kept = levels.clone();
        kept["users"] = json!({ "@alice:here": 100, "@bob:here": 50 });
        kept["invite"] = json!(90);
        assert_eq!(world.get(new, LEVELS)?, kept);
        let raised = world.get(old, LEVELS)?;
        assert_eq!(
            (&raised["events_default"], &raised["invite"]),
            (&json!(61), &json!(90))
        );
        assert_eq!(raised["users"], levels["users"]);
        Ok(())
    });
}

#[test]
fn creators_are_in_the_power_levels_only_in_versions_that_have_them_there() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let old = world.public(&alice, &RoomVersionId::V11)?;
        world.join(&bob, old)?;
        let levels = json!({
            "users": { "@alice:here": 100, "@bob:here": 100, "@carol:here": 50 },
            "events": { "m.room.tombstone": 40 },
        });
        world.set(&alice, old, LEVELS, &levels)?;
        let creators = [carol.id.clone()];
        let new = upgrade(world, &bob, old, &RoomVersionId::V12, &creators)?;
        let levels = world.get(new, LEVELS)?;
        assert_eq!(levels["users"], json!({ "@alice:here": 100 }));
        assert_eq!(levels["events"]["m.room.tombstone"], 150);
        let create = world.get(new, ("m.room.create", ""))?;
        assert_eq!(create["additional_creators"], json!(["@carol:here"]));

        let again = upgrade(world, &bob, new, &RoomVersionId::V12, &[])?;
        let create = world.get(again, ("m.room.create", ""))?;
        assert_eq!(
            create["additional_creators"],
            Value::Null,
            "creators are named anew"
        );

        let back = upgrade(world, &bob, new, &RoomVersionId::V11, &creators)?;
        let users = json!({ "@alice:here": 100, "@bob:here": 150, "@carol:here": 150 });
        assert_eq!(world.get(back, LEVELS)?["users"], users);
        let create = world.get(back, ("m.room.create", ""))?;
        assert_eq!(create["additional_creators"], Value::Null);
        Ok(())
    });
}

#[test]
fn old_creators_get_the_highest_level_if_they_are_no_creators_of_the_new_room() {
    with_world(|world| {
        let [alice, bob, carol, dave] = world.users(["alice", "bob", "carol", "dave"])?;
        let body = json!({
            "room_version": "12", "preset": "public_chat",
            "creation_content": { "additional_creators": ["@carol:here", "@dave:here"] },
        });
        let old = world.create(&alice, &body)?;
        world.join(&bob, old)?;
        let levels = json!({
            "users": { "@bob:here": 200 }, "events": { "m.room.tombstone": 150, "x": 300 },
        });
        world.set(&alice, old, LEVELS, &levels)?;
        let creators = [dave.id.clone()];
        let new = upgrade(world, &bob, old, &RoomVersionId::V12, &creators)?;
        let users = json!({ "@alice:here": 300, "@carol:here": 300 });
        assert_eq!(world.get(new, LEVELS)?["users"], users);
        world.join(&carol, new)?;
        world.set(&carol, new, ("x", ""), &json!({}))?;
        upgrade(world, &carol, new, &RoomVersionId::V12, &[])?;
        Ok(())
    });
}

#[test]
fn a_user_who_may_send_only_the_tombstone_can_upgrade() {
    with_world(|world| {
        for version in [RoomVersionId::V11, RoomVersionId::V12] {
            let [alice, bob] = world.users(["alice", "bob"])?;
            let old = world.public(&alice, &RoomVersionId::V11)?;
            world.join(&bob, old)?;
            let levels = json!({
                "users": { "@alice:here": 100 }, "state_default": 100,
                "events": { "m.room.tombstone": 0 },
            });
            world.set(&alice, old, LEVELS, &levels)?;
            let new = upgrade(world, &bob, old, &version, &[])?;
            assert_eq!(
                world.get(new, LEVELS)?["users"],
                json!({ "@alice:here": 100 })
            );
            assert_eq!(world.get(old, LEVELS)?, levels, "bob may not change them");
        }
        Ok(())
    });
}

#[test]
fn a_user_who_may_not_send_a_tombstone_may_not_upgrade() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        for version in creatable() {
            let old = world.public(&alice, &version)?;
            world.join(&bob, old)?;
            for by in [&bob, &carol] {
                refused(upgrade(world, by, old, &RoomVersionId::V12, &[]).map(drop));
            }
            let unknown = upgrade(world, &alice, old, &RoomVersionId::V2, &[]);
            assert!(matches!(unknown, Err(Error::NotCreatedVersion(_))));
            world.leave(&alice, old)?;
            refused(upgrade(world, &alice, old, &RoomVersionId::V12, &[]).map(drop));
        }
        Ok(())
    });
}

#[test]
fn bans_and_space_children_are_copied_in_batches() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let body = json!({ "creation_content": { "type": "m.space" }, "preset": "public_chat" });
        let old = world.create(&alice, &body)?;
        for n in 0..12 {
            let user = world.user(&format!("banned{n}"))?;
            world.ban(&alice, &user, old)?;
        }
        let member = world.user("member")?;
        world.join(&member, old)?;
        let child = ("m.space.child", "!child:here");
        let gone = ("m.space.child", "!gone:here");
        world.set(
            &alice,
            old,
            child,
            &json!({ "via": ["here"], "order": "a" }),
        )?;
        world.set(&alice, old, gone, &json!({}))?;
        let new = upgrade(world, &alice, old, &RoomVersionId::V12, &[])?;
        assert!(world.run_pending_upgrade(new)? > 1);
        for n in 0..12 {
            let user = world.user(&format!("banned{n}"))?;
            assert_eq!(world.membership(&user, new)?, Membership::Ban);
        }
        assert_eq!(world.membership(&member, new)?, Membership::Leave);
        assert_eq!(
            world.get(new, child)?,
            json!({ "via": ["here"], "order": "a" })
        );
        assert_eq!(world.get(new, gone)?, Value::Null);
        assert_eq!(world.run_pending_upgrade(new)?, 0);
        Ok(())
    });
}

/// Sends the largest event that fits; `send` takes the length of its padding.
fn send_largest(send: impl Fn(usize) -> Result<(), Error>) -> Result<(), Error> {
    for length in (64_000..66_000).rev().step_by(8) {
        match send(length) {
            Err(Error::TooLarge(_)) => {}
            result => return result,
        }
    }
    panic!("all are too large");
}

#[test]
fn copying_cuts_long_reasons_of_bans_and_skips_what_is_too_large() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let body = json!({ "creation_content": { "type": "m.space" }, "room_version": "12" });
        let old = world.create(&alice, &body)?;
        let banned = world.users(["banned0", "banned1", "banned2"])?;
        let ban = |user: &Actor, reason: &str| {
            moderation::ban(world.tx, &world.local, &alice, old, &user.id, Some(reason))
        };
        let child = |child, padding| {
            let content = json!({ "via": ["here"], "x": "x".repeat(padding) });
            world.set(&alice, old, ("m.space.child", child), &content)
        };
        ban(&banned[0], "short")?;
        child("!a:here", 0)?;
        send_largest(|length| ban(&banned[1], &"x".repeat(length)))?;
        send_largest(|length| child("!b:here", length))?;
        ban(&banned[2], &"\u{1f}".repeat(9_000))?;
        child("!c:here", 0)?;
        // Its events also name the create event.
        let new = upgrade(world, &alice, old, &RoomVersionId::V11, &[])?;
        world.run_pending_upgrade(new)?;
        for (user, length) in banned.iter().zip([5, 8192, 8192]) {
            let member = world.get(new, ("m.room.member", user.id.as_str()))?;
            assert_eq!(member["membership"], "ban");
            assert_eq!(member["reason"].as_str().map(str::len), Some(length));
        }
        for (child, is_copied) in [("!a:here", true), ("!b:here", false), ("!c:here", true)] {
            let content = world.get(new, ("m.space.child", child))?;
            assert_eq!(content["via"] == json!(["here"]), is_copied, "{child}");
        }
        Ok(())
    });
}

#[test]
fn tags_direct_chats_and_push_rules_are_copied_for_users_who_join() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let old = world.public(&alice, &RoomVersionId::V11)?;
        world.join(&bob, old)?;
        let old_id = id_of(world, old)?;
        // The user data for the rooms `ids`.
        let settings = |ids: &[&RoomId]| {
            let rule = |id: &RoomId, pattern: &RoomId| {
                json!({
                    "rule_id": id, "default": false, "enabled": true, "actions": [],
                    "conditions": [{ "kind": "event_match", "key": "room_id", "pattern": pattern }],
                })
            };
            let plain = |id: &RoomId| json!({ "rule_id": id, "default": false, "enabled": true, "actions": ["notify"] });
            let other = room_id!("!other:here");
            let mut overriding: Vec<Value> = ids.iter().map(|id| rule(id, id)).collect();
            overriding.push(rule(other, ids[0]));
            let mut rooms: Vec<Value> = ids.iter().map(|id| plain(id)).collect();
            rooms.push(plain(other));
            [
                (
                    "m.direct",
                    json!({ "@alice:here": ids, "@carol:here": ["!x:here"] }),
                ),
                (
                    "m.push_rules",
                    json!({ "global": { "override": overriding, "room": rooms } }),
                ),
            ]
        };
        let tags = json!({ "tags": { "m.favourite": { "order": 0.5 } } });
        for user in [&alice, &bob, &carol] {
            put(world.tx, user.num, old, "m.tag", &tags.to_string())?;
            for (kind, content) in settings(&[&old_id]) {
                put(world.tx, user.num, GLOBAL, kind, &content.to_string())?;
            }
        }
        let new = upgrade(world, &alice, old, &RoomVersionId::V12, &[])?;
        world.join(&bob, new)?;
        world.join(&carol, new)?;
        let stored = |user: &Actor, room, kind| -> Result<Option<Value>, Error> {
            let data = load(world.tx, user.num, room, kind)?;
            Ok(data.map(|data| serde_json::from_str(&data.content).expect("JSON")))
        };
        let new_id = id_of(world, new)?;
        for user in [&alice, &bob] {
            assert_eq!(stored(user, new, "m.tag")?.as_ref(), Some(&tags));
            for (kind, content) in settings(&[&old_id, &new_id]) {
                assert_eq!(stored(user, GLOBAL, kind)?, Some(content));
            }
        }
        // Carol was not in the old room.
        assert_eq!(stored(&carol, new, "m.tag")?, None);
        for (kind, content) in settings(&[&old_id]) {
            assert_eq!(stored(&carol, GLOBAL, kind)?, Some(content));
        }
        Ok(())
    });
}

#[test]
fn user_data_is_not_copied_without_a_tombstone_that_names_the_new_room() {
    with_world(|world| {
        let [alice, mallory] = world.users(["alice", "mallory"])?;
        let old = world.public(&alice, &RoomVersionId::V11)?;
        put(world.tx, alice.num, old, "m.tag", "{}")?;
        let predecessor = json!({ "room_id": id_of(world, old)? });
        let body = json!({
            "preset": "public_chat", "creation_content": { "predecessor": predecessor },
        });
        let new = world.create(&mallory, &body)?;
        world.join(&alice, new)?;
        assert_eq!(load(world.tx, alice.num, new, "m.tag")?, None);
        Ok(())
    });
}
