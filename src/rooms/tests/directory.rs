use ruma::RoomVersionId;
use serde_json::{Value, json};

use super::world::{World, refused, with_world};
use crate::{
    rooms::{
        Error,
        directory::{self, Audience, DirectoryQuery, Since},
    },
    store::RoomNum,
};

fn query(filter: Value) -> DirectoryQuery {
    DirectoryQuery {
        filter: serde_json::from_value(filter).expect("a filter"),
        since: None,
        limit: None,
        audience: Audience::Users,
    }
}

/// The names on a page, and its next and previous tokens.
type Named = (Vec<String>, Option<Since>, Option<Since>);

fn page(world: &World, filter: Value, since: Option<Since>, limit: usize) -> Result<Named, Error> {
    let page = directory::page(
        world.tx,
        &DirectoryQuery {
            since,
            limit: Some(limit),
            ..query(filter)
        },
    )?;
    let names = page
        .rooms
        .into_iter()
        .map(|room| room.name.expect("a name"))
        .collect();
    Ok((names, page.next, page.previous))
}

/// Published rooms with these names and numbers of members.
fn publish(world: &World, rooms: &[(&str, usize)]) -> Result<Vec<RoomNum>, Error> {
    let alice = world.user("alice")?;
    let mut published = Vec::new();
    for (name, members) in rooms {
        let body = json!({ "visibility": "public", "name": name });
        let room = world.create(&alice, &body)?;
        for n in 1..*members {
            world.join(&world.user(&format!("member{n}"))?, room)?;
        }
        published.push(room);
    }
    Ok(published)
}

#[test]
fn pages_go_forward_and_back_in_the_order_of_members() {
    with_world(|world| {
        publish(world, &[("d", 1), ("a", 3), ("b", 2), ("e", 1), ("c", 2)])?;
        let all = || json!({});
        let (first, next, previous) = page(world, all(), None, 2)?;
        assert_eq!(
            (first, previous),
            (vec!["a".to_owned(), "b".to_owned()], None)
        );
        let (second, next, previous) = page(world, all(), next, 2)?;
        assert_eq!(second, ["c", "d"]);
        let (back, forth, before) = page(world, all(), previous, 2)?;
        assert_eq!((back, before), (vec!["a".to_owned(), "b".to_owned()], None));
        assert_eq!(page(world, all(), forth, 2)?.0, ["c", "d"]);
        let (third, end, previous) = page(world, all(), next, 2)?;
        assert_eq!((third, end), (vec!["e".to_owned()], None));
        assert_eq!(page(world, all(), previous, 1)?.0, ["d"]);
        let total = directory::page(world.tx, &query(json!({})))?.total;
        assert_eq!(total, 5);
        Ok(())
    });
}

#[test]
fn a_token_stays_valid_when_rooms_are_added_and_removed() {
    with_world(|world| {
        let rooms = publish(world, &[("a", 3), ("b", 2), ("c", 1)])?;
        let (names, next, _) = page(world, json!({}), None, 2)?;
        assert_eq!(names, ["a", "b"]);
        let alice = world.user("alice")?;
        directory::set_listed(world.tx, &alice, rooms[1], false)?;
        let deserted = publish(world, &[("deserted", 1)])?[0];
        world.leave(&alice, deserted)?;
        publish(world, &[("first", 4), ("last", 1)])?;
        assert_eq!(page(world, json!({}), next, 5)?.0, ["c", "last"]);
        Ok(())
    });
}

#[test]
fn the_filter_matches_name_topic_alias_and_type() {
    with_world(|world| {
        let alice = world.user("alice")?;
        for body in [
            json!({ "name": "Gärtner", "topic": "Roses" }),
            json!({ "name": "kitchen", "topic": "what the GÄRTNER brought" }),
            json!({ "name": "cellar", "room_alias_name": "under-the-gärtner" }),
            json!({ "name": "house", "creation_content": { "type": "m.space" } }),
            json!({ "name": "odd", "creation_content": { "type": "org.example" } }),
        ] {
            let mut body = body;
            body["visibility"] = json!("public");
            world.create(&alice, &body)?;
        }
        for (wanted, names) in [
            (
                json!({ "generic_search_term": "gärtner" }),
                vec!["Gärtner", "kitchen", "cellar"],
            ),
            (json!({ "generic_search_term": "nowhere" }), vec![]),
            (json!({ "room_types": ["m.space"] }), vec!["house"]),
            (
                json!({ "room_types": [null] }),
                vec!["Gärtner", "kitchen", "cellar"],
            ),
            (
                json!({ "room_types": ["org.example", "m.space"] }),
                vec!["house", "odd"],
            ),
            (
                json!({ "room_types": [null], "generic_search_term": "roses" }),
                vec!["Gärtner"],
            ),
        ] {
            assert_eq!(page(world, wanted.clone(), None, 10)?.0, names, "{wanted}");
        }
        // A filter gives no token to an empty page.
        let spaces = json!({ "room_types": ["m.space"] });
        assert_eq!(page(world, spaces, None, 1)?.1, None);
        Ok(())
    });
}

#[test]
fn the_summary_is_that_of_the_current_state() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let body = json!({
            "visibility": "public", "preset": "private_chat",
            "name": "Pub", "topic": "Beer", "room_alias_name": "pub",
            "creation_content": { "type": "m.space" },
            "initial_state": [
                { "type": "m.room.history_visibility",
                  "content": { "history_visibility": "world_readable" } },
                { "type": "m.room.avatar", "content": { "url": "mxc://here/pub" } },
                { "type": "m.room.join_rules", "content": { "join_rule": "knock" } },
            ],
        });
        let room = world.create(&alice, &body)?;
        let page = directory::page(world.tx, &query(json!({})))?;
        assert_eq!(
            serde_json::to_value(&page.rooms).expect("JSON"),
            json!([{
                "room_id": crate::rooms::room::id(world.tx, room)?,
                "name": "Pub", "topic": "Beer", "canonical_alias": "#pub:here",
                "avatar_url": "mxc://here/pub", "join_rule": "knock", "room_type": "m.space",
                "world_readable": true, "guest_can_join": true, "num_joined_members": 1,
            }])
        );
        // Invalid contents count as absent.
        let nonsense = json!({ "name": 7, "topic": [], "url": {}, "alias": "pub", "join_rule": 1 });
        for kind in ["name", "topic", "avatar", "canonical_alias"] {
            world.set(&alice, room, (&format!("m.room.{kind}"), ""), &nonsense)?;
        }
        let page = directory::page(world.tx, &query(json!({})))?;
        let room = page.rooms.first().expect("a room");
        assert_eq!(
            (&room.name, &room.topic, &room.avatar_url),
            (&None, &None, &None)
        );
        assert_eq!(room.canonical_alias, None);
        Ok(())
    });
}

#[test]
fn a_user_who_may_send_the_canonical_alias_may_publish_the_room() {
    with_world(|world| {
        let [alice, bob, carol] = world.users(["alice", "bob", "carol"])?;
        let room = world.public(&alice, &RoomVersionId::V12)?;
        world.join(&bob, room)?;
        for (user, allowed) in [(&alice, true), (&bob, false), (&carol, false)] {
            for listed in [true, false] {
                let set = directory::set_listed(world.tx, user, room, listed);
                if allowed {
                    set?;
                    assert_eq!(directory::is_listed(world.tx, room)?, listed);
                } else {
                    refused(set);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn an_invalid_token_of_the_directory_is_refused() {
    for token in ["n3_7", "p0_1"] {
        let since: Since = token.parse().expect("a token");
        assert_eq!(since.to_string(), token);
    }
    for token in [
        "",
        "n",
        "n1",
        "n1_",
        "x1_2",
        "n-1_2",
        "n1_2_3",
        "n99999999999_1",
    ] {
        assert!(
            matches!(token.parse::<Since>(), Err(Error::Invalid(_))),
            "{token}"
        );
    }
}

#[test]
fn other_servers_do_not_see_rooms_that_are_not_federated() {
    with_world(|world| {
        let alice = world.user("alice")?;
        for (name, federate) in [("ours", false), ("everybody's", true)] {
            let body = json!({
                "visibility": "public", "name": name,
                "creation_content": { "m.federate": federate },
            });
            world.create(&alice, &body)?;
        }
        let names = |audience| -> Result<Vec<_>, Error> {
            let query = DirectoryQuery {
                audience,
                ..query(json!({}))
            };
            let page = directory::page(world.tx, &query)?;
            Ok(page
                .rooms
                .into_iter()
                .filter_map(|room| room.name)
                .collect())
        };
        assert_eq!(names(Audience::Users)?, ["ours", "everybody's"]);
        assert_eq!(names(Audience::OtherServers)?, ["everybody's"]);
        Ok(())
    });
}
