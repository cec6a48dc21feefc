//! The check of the night.

use hearth::backup::FoundBackup;
use serde_json::json;
use tempfile::TempDir;

use super::world::{Setup, World};
use crate::test_server::{PASSWORD, TestServer, TestUser, expect_ok};

fn add<'w>(server: &'w TestServer, name: &str, is_admin: bool) -> TestUser<'w> {
    let user = json!({ "username": name, "password": PASSWORD, "admin": is_admin });
    expect_ok(server.administer("user/add", &user));
    server.log_in(name)
}

/// The server notices that a user got, after joining the room with them.
fn notices(user: &TestUser<'_>) -> Vec<String> {
    let sync = expect_ok(user.get("/_matrix/client/v3/sync"));
    let invites = sync["rooms"]["invite"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for room in invites.keys() {
        expect_ok(user.post(&format!("/_matrix/client/v3/join/{room}"), json!({})));
    }
    let sync = expect_ok(user.get("/_matrix/client/v3/sync"));
    let rooms = sync["rooms"]["join"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    let events = rooms.values().flat_map(|room| {
        let events = room["timeline"]["events"].as_array();
        events.cloned().unwrap_or_default()
    });
    let bodies = events.filter(|event| event["type"] == "m.room.message");
    let bodies = bodies.map(|event| event["content"]["body"].as_str().unwrap_or("").to_owned());
    bodies.collect()
}

#[test]
fn administrators_get_one_notice_when_it_turns_red_and_one_when_it_is_green_again() {
    let world = World::new(Setup::default());
    let (alice, bob) = (
        add(&world.server, "alice", true),
        add(&world.server, "bob", false),
    );
    world.server.check_as_at_night();
    assert_eq!(notices(&alice), [""; 0]);
    world.cut();
    world.server.check_as_at_night();
    let first = notices(&alice);
    assert_eq!(first.len(), 1, "{first:?}");
    assert!(
        first[0].contains("does not reach hearth: it answers 502"),
        "{first:?}"
    );
    world.server.check_as_at_night();
    assert_eq!(notices(&alice).len(), 1);
    world.repair();
    world.server.check_as_at_night();
    let last = notices(&alice);
    assert_eq!(last.len(), 2, "{last:?}");
    assert!(last[1].contains("nothing wrong any more"), "{last:?}");
    world.server.check_as_at_night();
    assert_eq!(notices(&alice).len(), 2);
    assert_eq!(notices(&bob), Vec::<String>::new());
}

#[test]
fn what_is_in_order_again_a_moment_later_wakes_nobody() {
    let world = World::new(Setup::default());
    let alice = add(&world.server, "alice", true);
    world.cut();
    let mut is_again = false;
    world.server.check_as_at_night_and(|| {
        world.repair();
        is_again = true;
    });
    assert!(is_again);
    assert_eq!(notices(&alice), [""; 0]);
}

#[test]
fn a_backup_is_made_before_the_check_of_the_night_if_a_directory_is_set() {
    let directory = TempDir::new().unwrap();
    let backups = directory.path().join("backups");
    let world = World::new(Setup {
        settings: format!("backup_dir = {backups:?}\n"),
        ..Setup::default()
    });
    world.server.check_as_at_night();
    let made = FoundBackup::open(&backups).unwrap();
    assert_eq!(made.manifest.tables["signing_keys"].rows, 1);
    // The next night has its own.
    world.server.check_as_at_night();
    let next = FoundBackup::open(&backups).unwrap();
    assert_ne!(next.path, made.path);
}
