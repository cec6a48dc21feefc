use ruma::{RoomAliasId, RoomVersionId, events::StateEventType, room_alias_id};
use serde_json::{Value, json};

use super::world::{World, refused, with_world};
use crate::{
    protocol::build::canonical_content,
    rooms::{Actor, Error, create::checks, directory::aliases, event::state_event::StateEvent},
    store::{Reader, Records, RoomNum},
};

const CANONICAL: (&str, &str) = ("m.room.canonical_alias", "");

fn create(world: &World, by: &Actor, alias: &RoomAliasId, room: RoomNum) -> Result<(), Error> {
    aliases::create(world.tx, &world.local, by, alias, room)
}

fn remove(world: &World, by: &Actor, alias: &RoomAliasId) -> Result<(), Error> {
    aliases::remove(world.tx, &world.local, by, alias)
}

#[test]
fn a_joined_member_creates_an_alias_that_resolves_to_the_room() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let other = world.public(&alice, &RoomVersionId::V12)?;
        world.join(&bob, room)?;
        let alias = room_alias_id!("#bobs:here");
        refused(create(world, &carol, alias, room));
        create(world, &bob, alias, room)?;
        create(world, &alice, room_alias_id!("#alices:here"), room)?;
        assert_eq!(aliases::resolve(world.tx, alias)?, room);
        assert_eq!(
            aliases::of_room(world.tx, room)?,
            ["#alices:here", "#bobs:here"]
        );
        assert!(aliases::of_room(world.tx, other)?.is_empty());
        for taken in [room, other] {
            let again = create(world, &alice, alias, taken);
            assert!(matches!(again, Err(Error::AliasTaken)), "{again:?}");
        }
        let unknown = aliases::resolve(world.tx, room_alias_id!("#other:here"));
        assert!(matches!(unknown, Err(Error::NotFound(_))));
        Ok(())
    });
}

#[test]
fn an_invalid_alias_or_one_of_another_server_is_refused() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let long = format!("#{}:here", "a".repeat(250));
        for bad in [
            "#a:there",
            "#:here",
            "#a b:here",
            "#a\tb:here",
            "#a\u{7}:here",
            &long,
        ] {
            let alias = <&RoomAliasId>::try_from(bad).expect("an alias to ruma");
            let created = create(world, &alice, alias, room);
            assert!(
                matches!(created, Err(Error::Invalid(_))),
                "{bad}: {created:?}"
            );
        }
        let longest = format!("#{}:here", "a".repeat(249));
        for good in ["#a-b_c.d/e=f:here", "#größe:here", &longest] {
            let alias = <&RoomAliasId>::try_from(good).expect("an alias to ruma");
            create(world, &alice, alias, room)?;
        }
        Ok(())
    });
}

#[test]
fn an_alias_is_removed_by_its_creator_a_moderator_or_an_administrator() {
    with_world(|world| {
        let [alice, bob, carol, admin] = world.users(["alice", "bob", "carol", "admin"])?;
        let account = world.tx.accounts()?.load(admin.num)?;
        let mut account = account.expect("an account");
        account.admin = true;
        world.tx.accounts()?.put(admin.num, &account)?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let alias = room_alias_id!("#bobs:here");
        world.join(&bob, room)?;
        world.join(&carol, room)?;
        for by in [&alice, &bob, &admin] {
            create(world, &bob, alias, room)?;
            refused(remove(world, &carol, alias));
            remove(world, by, alias)?;
            assert!(matches!(remove(world, by, alias), Err(Error::NotFound(_))));
            assert!(aliases::of_room(world.tx, room)?.is_empty());
        }
        create(world, &alice, alias, room)?;
        world.leave(&alice, room)?;
        remove(world, &alice, alias)
    });
}

#[test]
fn removing_an_alias_updates_the_canonical_alias_if_the_remover_may_send_it() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        world.join(&bob, room)?;
        let [first, second, third] = [
            room_alias_id!("#1:here"),
            room_alias_id!("#2:here"),
            room_alias_id!("#3:here"),
        ];
        for alias in [first, second, third] {
            create(world, &bob, alias, room)?;
        }
        let content = json!({ "alias": first, "alt_aliases": [second, third], "kept": true });
        world.set(&alice, room, CANONICAL, &content)?;
        // Bob may remove it, but not send the canonical alias.
        remove(world, &bob, second)?;
        assert_eq!(world.get(room, CANONICAL)?, content);
        remove(world, &alice, third)?;
        let left = json!({ "alias": first, "alt_aliases": [second], "kept": true });
        assert_eq!(world.get(room, CANONICAL)?, left);
        remove(world, &alice, first)?;
        let left = json!({ "alt_aliases": [second], "kept": true });
        assert_eq!(world.get(room, CANONICAL)?, left);
        Ok(())
    });
}

#[test]
fn a_new_canonical_alias_must_point_to_the_room() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        let other = world.public(&alice, &RoomVersionId::V12)?;
        create(world, &alice, room_alias_id!("#mine:here"), room)?;
        create(world, &alice, room_alias_id!("#other:here"), other)?;
        let check = |content: Value| {
            let content = canonical_content(&content)?;
            let event = StateEvent::new(StateEventType::RoomCanonicalAlias, content);
            checks::state_event(world.tx, room, &event)
        };
        for good in [
            json!({}),
            json!({ "alias": null }),
            json!({ "alias": "" }),
            json!({ "alias": "#mine:here" }),
            json!({ "alt_aliases": ["#mine:here"] }),
        ] {
            check(good)?;
        }
        for bad in [
            json!({ "alias": "mine" }),
            json!({ "alias": 1 }),
            json!({ "alt_aliases": "#mine:here" }),
            json!({ "alt_aliases": ["#mine:here", "@alice:here"] }),
        ] {
            assert!(
                matches!(check(bad.clone()), Err(Error::Invalid(_))),
                "{bad}"
            );
        }
        for elsewhere in [
            json!({ "alias": "#other:here" }),
            json!({ "alias": "#none:here" }),
            json!({ "alias": "#mine:here", "alt_aliases": ["#mine:there"] }),
        ] {
            let checked = check(elsewhere.clone());
            assert!(
                matches!(checked, Err(Error::BadAlias(_))),
                "{elsewhere}: {checked:?}"
            );
        }
        world.set(
            &alice,
            room,
            CANONICAL,
            &json!({ "alt_aliases": ["#other:here", "#x:there"] }),
        )?;
        check(json!({ "alias": "#other:here", "alt_aliases": ["#x:there"] }))?;
        let name = canonical_content(&json!({ "alias": 1 }))?;
        let event = StateEvent::new(StateEventType::RoomName, name);
        checks::state_event(world.tx, room, &event)
    });
}
