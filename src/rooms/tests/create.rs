use ruma::{RoomVersionId, events::StateEventType, room_alias_id, user_id};
use serde_json::{Value, json};

use super::{
    local, with_store,
    world::{World, now, request, some_id, with_world},
};
use crate::{
    protocol::versions,
    rooms::{
        Actor, Error, Local,
        create::{self, presets},
        directory::{self, aliases},
        room::id,
        state::{content, power_levels},
    },
    store::{Reader, Records, RoomNum, Rows, Tx, records::Membership},
    users::account_data,
};

const VERSIONS: [RoomVersionId; 5] = [
    RoomVersionId::V6,
    RoomVersionId::V8,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// A room of every version with `preset` into which alice invites bob.
fn with_preset(
    preset: &'static str,
    check: impl Fn(&World, &[Actor; 2], RoomNum, &RoomVersionId) -> Result<(), Error> + Send + 'static,
) {
    with_world(move |world| {
        let users = world.users(["alice", "bob"])?;
        for version in VERSIONS {
            let body =
                json!({ "preset": preset, "room_version": version, "invite": ["@bob:here"] });
            let room = world.create(&users[0], &body)?;
            assert_eq!(world.membership(&users[0], room)?, Membership::Join);
            assert_eq!(world.membership(&users[1], room)?, Membership::Invite);
            check(world, &users, room, &version)?;
        }
        Ok(())
    });
}

fn settings(world: &World, room: RoomNum) -> Result<[Value; 3], Error> {
    Ok([
        world.get(room, ("m.room.join_rules", ""))?["join_rule"].take(),
        world.get(room, ("m.room.history_visibility", ""))?["history_visibility"].take(),
        world.get(room, ("m.room.guest_access", ""))?["guest_access"].take(),
    ])
}

#[test]
fn private_chat_requires_an_invite() {
    with_preset("private_chat", |world, [alice, bob], room, version| {
        assert_eq!(settings(world, room)?, ["invite", "shared", "can_join"]);
        let levels = world.get(room, ("m.room.power_levels", ""))?;
        let rules = versions::rules(version).expect("a supported version");
        let users = if rules.authorization.explicitly_privilege_room_creators {
            json!({})
        } else {
            json!({ &alice.id: 100 })
        };
        assert_eq!(levels["users"], users, "version {version}");
        let levels = power_levels::levels(world.tx, room, rules)?;
        assert!(levels.user_can_send_state(&alice.id, StateEventType::RoomTombstone));
        assert!(!levels.user_can_send_state(&bob.id, StateEventType::RoomName));
        assert!(levels.user_can_invite(&bob.id));
        Ok(())
    });
}

#[test]
fn public_chat_lets_everyone_join() {
    with_preset("public_chat", |world, [_, bob], room, version| {
        assert_eq!(settings(world, room)?, ["public", "shared", "forbidden"]);
        let rules = versions::rules(version).expect("a supported version");
        assert!(!power_levels::levels(world.tx, room, rules)?.user_can_invite(&bob.id));
        world.join(&world.user("carol")?, room)
    });
}

#[test]
fn trusted_private_chat_gives_invitees_the_power_of_the_creator() {
    with_preset(
        "trusted_private_chat",
        |world, [alice, bob], room, version| {
            assert_eq!(settings(world, room)?, ["invite", "shared", "can_join"]);
            let rules = versions::rules(version).expect("a supported version");
            let levels = power_levels::levels(world.tx, room, rules)?;
            assert_eq!(levels.for_user(&alice.id), levels.for_user(&bob.id));
            assert!(levels.user_can_send_state(&bob.id, StateEventType::RoomTombstone));
            Ok(())
        },
    );
}

#[test]
fn the_create_event_has_the_fields_of_its_room_version() {
    with_world(|world| {
        let [alice, _] = world.users(["alice", "bob"])?;
        for version in VERSIONS {
            let rules = versions::rules(&version).expect("a supported version");
            let body = json!({
                "preset": "trusted_private_chat",
                "room_version": version,
                "invite": ["@bob:here", "@alice:here", "@bob:here"],
                "creation_content": {
                    "creator": "@mallory:here",
                    "room_version": "1",
                    "type": "m.space",
                    "m.federate": false,
                    "predecessor": { "room_id": "!before:here" },
                    "org.example.kept": [1, "two"],
                },
            });
            let room = world.create(&alice, &body)?;
            let mut wanted = json!({
                "room_version": version,
                "type": "m.space",
                "m.federate": false,
                "predecessor": { "room_id": "!before:here" },
                "org.example.kept": [1, "two"],
            });
            if !rules.authorization.use_room_create_sender {
                wanted["creator"] = json!("@alice:here");
            }
            if rules.authorization.additional_room_creators {
                wanted["additional_creators"] = json!(["@bob:here"]);
            }
            assert_eq!(world.get(room, ("m.room.create", ""))?, wanted);
        }
        Ok(())
    });
}

#[test]
fn initial_events_are_in_the_order_of_the_specification() {
    with_world(|world| {
        let [alice, _] = world.users(["alice", "bob"])?;
        let body = json!({
            "room_alias_name": "pub",
            "name": "The Grand Duke Pub",
            "topic": "All about happy hour",
            "invite": ["@bob:here"],
            "initial_state": [
                { "type": "org.example.second", "state_key": "k", "content": { "n": 1 } },
                { "type": "m.room.history_visibility",
                  "content": { "history_visibility": "joined" } },
                { "type": "m.room.name", "content": { "name": "overridden" } },
                { "type": "m.room.encryption",
                  "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            ],
        });
        let room = world.create(&alice, &body)?;
        let types = world.event_types(room)?;
        let types: Vec<_> = types
            .iter()
            .map(|(kind, key)| (kind.as_str(), key.as_str()))
            .collect();
        assert_eq!(
            types,
            [
                ("m.room.create", ""),
                ("m.room.member", "@alice:here"),
                ("m.room.power_levels", ""),
                ("m.room.canonical_alias", ""),
                ("m.room.join_rules", ""),
                ("m.room.guest_access", ""),
                ("org.example.second", "k"),
                ("m.room.history_visibility", ""),
                ("m.room.encryption", ""),
                ("m.room.name", ""),
                ("m.room.topic", ""),
                ("m.room.member", "@bob:here"),
            ]
        );
        let alias = world.get(room, ("m.room.canonical_alias", ""))?;
        assert_eq!(alias, json!({ "alias": "#pub:here" }));
        let named = aliases::resolve(world.tx, room_alias_id!("#pub:here"))?;
        assert_eq!(named, room);
        assert_eq!(
            world.get(room, ("m.room.name", ""))?["name"],
            "The Grand Duke Pub"
        );
        let topic = world.get(room, ("m.room.topic", ""))?;
        assert_eq!(topic["topic"], "All about happy hour");
        assert_eq!(
            topic["m.topic"]["m.text"][0]["body"],
            "All about happy hour"
        );
        let history = world.get(room, ("m.room.history_visibility", ""))?;
        assert_eq!(history, json!({ "history_visibility": "joined" }));
        assert!(!directory::is_listed(world.tx, room)?);
        Ok(())
    });
}

#[test]
fn the_default_preset_follows_from_the_visibility() {
    with_world(|world| {
        let alice = world.user("alice")?;
        for (body, join_rule, listed) in [
            (json!({}), "invite", false),
            (json!({ "visibility": "private" }), "invite", false),
            (json!({ "visibility": "public" }), "public", true),
            (
                json!({ "visibility": "public", "preset": "private_chat" }),
                "invite",
                true,
            ),
        ] {
            let room = world.create(&alice, &body)?;
            assert_eq!(settings(world, room)?[0], join_rule);
            assert_eq!(directory::is_listed(world.tx, room)?, listed);
        }
        Ok(())
    });
}

#[test]
fn power_level_content_override_replaces_default_fields() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let body = json!({
            "power_level_content_override": {
                "invite": 100,
                "events": { "m.room.name": 0 },
                "state_default": 200,
                "org.example": 7,
            },
        });
        let room = world.create(&alice, &body)?;
        let levels = world.get(room, ("m.room.power_levels", ""))?;
        assert_eq!(levels["invite"], 100);
        assert_eq!(levels["org.example"], 7);
        assert_eq!(levels["kick"], 50);
        // The default room version requires a higher level for the tombstone than for other state.
        let events = json!({ "m.room.name": 0, "m.room.tombstone": 201 });
        assert_eq!(levels["events"], events);
        Ok(())
    });
}

#[test]
fn invites_have_is_direct_and_the_profile_of_the_invitee() {
    with_world(|world| {
        let [alice, bob] = world.users(["alice", "bob"])?;
        world
            .tx
            .profiles()?
            .insert((bob.num, "displayname"), "\"Bob\"")?;
        world
            .tx
            .profiles()?
            .insert((alice.num, "avatar_url"), "\"mxc://here/alice\"")?;
        let room = world.create(
            &alice,
            &json!({ "is_direct": true, "invite": ["@bob:here"] }),
        )?;
        assert_eq!(
            world.get(room, ("m.room.member", "@bob:here"))?,
            json!({ "membership": "invite", "displayname": "Bob", "is_direct": true })
        );
        assert_eq!(
            world.get(room, ("m.room.member", "@alice:here"))?,
            json!({ "membership": "join", "avatar_url": "mxc://here/alice" })
        );
        Ok(())
    });
}

#[test]
fn two_equal_requests_in_the_same_millisecond_create_two_rooms() {
    with_world(|world| {
        let alice = world.user("alice")?;
        let first = world.create(&alice, &json!({}))?;
        let second = world.create(&alice, &json!({}))?;
        assert_ne!(first, second);
        assert_ne!(id(world.tx, first)?, id(world.tx, second)?);
        Ok(())
    });
}

/// The errors of alice's requests, on a server where bob has one room, `#taken:here`.
fn attempt<const N: usize>(requests: [Value; N]) -> [Error; N] {
    with_store(async |store| {
        let local = local();
        let set_up = {
            let local = local.clone();
            move |tx: &Tx| set_up(tx, &local)
        };
        store.write(set_up).await.expect("the server is set up");
        let mut errors = Vec::new();
        for body in requests {
            let (local, about) = (local.clone(), body.to_string());
            let job = move |tx: &Tx| {
                let alice = Actor {
                    num: tx.user_num("@alice:here")?,
                    id: user_id!("@alice:here").to_owned(),
                    now: now(),
                };
                let plan = presets::blueprint(&local, &alice.id, &request(&body), some_id())?;
                create::build(tx, &local, &alice, &plan)
            };
            errors.push(store.write(job).await.expect_err(&about));
            let rooms = store.read(|s| s.rooms()?.len()).expect("rooms are counted");
            assert_eq!(rooms, 1, "{about}");
        }
        errors.try_into().expect("one for each body")
    })
}

fn set_up(tx: &Tx, local: &Local) -> Result<(), Error> {
    let local = local.clone();
    let world = World { tx, local };
    let [_, bob, gone, shy] = world.users(["alice", "bob", "gone", "shy"])?;
    world.create(&bob, &json!({ "room_alias_name": "taken" }))?;
    let account = tx.accounts()?.load(gone.num)?;
    let mut account = account.expect("an account");
    account.deactivated = true;
    tx.accounts()?.put(gone.num, &account)?;
    let (kind, config) = (
        "m.invite_permission_config",
        r#"{"default_action":"block"}"#,
    );
    account_data::put(tx, shy.num, account_data::GLOBAL, kind, config)?;
    Ok(())
}

#[test]
fn an_invalid_request_creates_no_room() {
    type Is = fn(&Error) -> bool;
    let cases: [(Value, Is); 16] = [
        (json!({ "room_version": "2" }), |e| {
            matches!(e, Error::NotCreatedVersion(_))
        }),
        (json!({ "room_version": "org.example" }), |e| {
            matches!(e, Error::UnsupportedVersion(_))
        }),
        (json!({ "room_alias_name": "taken" }), |e| {
            matches!(e, Error::RoomInUse)
        }),
        (json!({ "room_alias_name": "with space" }), |e| {
            matches!(e, Error::Invalid(_))
        }),
        (json!({ "room_alias_name": "a:b" }), |e| {
            matches!(e, Error::Invalid(_))
        }),
        (json!({ "room_alias_name": "" }), |e| {
            matches!(e, Error::Invalid(_))
        }),
        (json!({ "preset": "org.example" }), |e| {
            matches!(e, Error::Invalid(_))
        }),
        (json!({ "invite": ["@nobody:here"] }), |e| {
            matches!(e, Error::NotFound(_))
        }),
        (json!({ "invite": ["@gone:here"] }), |e| {
            matches!(e, Error::NotFound(_))
        }),
        (json!({ "invite": ["@bob:there"] }), |e| {
            matches!(e, Error::Forbidden(_))
        }),
        (json!({ "invite": ["@shy:here"] }), |e| {
            matches!(e, Error::InviteBlocked)
        }),
        (
            json!({ "power_level_content_override": { "users": { "@alice:here": 100 } } }),
            |e| matches!(e, Error::InvalidRoomState(_)),
        ),
        (
            json!({ "room_version": "11", "name": "no right to it",
                    "power_level_content_override": { "users": { "@bob:here": 100 } } }),
            |e| matches!(e, Error::InvalidRoomState(_)),
        ),
        (
            json!({ "initial_state": [ { "type": "m.room.topic", "content": { "topic": 1.5 } } ] }),
            |e| matches!(e, Error::BadContent(_)),
        ),
        (
            json!({ "initial_state": [ { "type": "m.room.member", "state_key": "@shy:here",
                                         "content": { "membership": "invite" } } ] }),
            |e| matches!(e, Error::InviteBlocked),
        ),
        (
            json!({ "invite_3pid": [{
                "id_server": "id.example", "id_access_token": "t",
                "medium": "email", "address": "bob@example.org",
            }] }),
            |e| matches!(e, Error::ThirdPartyInvite),
        ),
    ];
    let (requests, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let requests: [Value; 16] = requests.try_into().expect("all");
    let errors = attempt(requests.clone());
    for ((body, is), error) in requests.iter().zip(expected).zip(&errors) {
        assert!(is(error), "{body}: {error:?}");
    }
}

#[test]
fn an_initial_canonical_alias_must_point_to_the_room() {
    let body = json!({ "initial_state": [
        { "type": "m.room.canonical_alias", "content": { "alias": "#taken:here" } },
    ] });
    assert!(matches!(attempt([body]), [Error::BadAlias(_)]));
    with_world(|world| {
        let alice = world.user("alice")?;
        let body = json!({ "room_alias_name": "mine", "initial_state": [
            { "type": "m.room.canonical_alias",
              "content": { "alias": "#mine:here", "alt_aliases": ["#mine:here"] } },
        ] });
        let room = world.create(&alice, &body)?;
        let kind = StateEventType::RoomCanonicalAlias;
        let content: Option<Value> = content::current(world.tx, room, &kind, "")?;
        assert_eq!(
            content.expect("an alias")["alt_aliases"],
            json!(["#mine:here"])
        );
        Ok(())
    });
}
