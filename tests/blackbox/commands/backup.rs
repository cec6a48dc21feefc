//! `hearth backup` and `hearth restore`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Owner, client};
use crate::{
    common::{
        client_api::{create_public_room, join, register, send_text},
        http::Client,
        large_files::{Session, is_uploaded_file},
        server::{Server, command, free_port},
    },
    history,
    media::start_on_small_disk,
    one_time_keys::federating_settings,
};

const ALGORITHM: &str = "signed_curve25519";
const WRITERS: usize = 4;

/// The settings of a server that has not run yet.
fn write_settings(owner: &Owner) {
    let data = owner.path().join("data");
    let settings = format!("server_name = \"localhost\"\ndata_dir = {data:?}\n");
    fs::write(owner.path().join("hearth.toml"), settings).unwrap();
}

/// Where the owner has the backups.
fn backups(owner: &Owner) -> PathBuf {
    owner.path().join("backups")
}

/// Runs `hearth backup`; the path of the backup.
fn back_up(owner: &Owner, arguments: &[&str]) -> PathBuf {
    let directory = backups(owner);
    let command = [&["backup", directory.to_str().unwrap()], arguments].concat();
    let made = owner.json(&command);
    PathBuf::from(made["path"].as_str().unwrap())
}

/// Names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

/// All files of media in a directory of backups.
fn media_files(owner: &Owner) -> Vec<PathBuf> {
    let media = backups(owner).join("media");
    let directories = names(&media).into_iter().map(|name| media.join(name));
    let files = directories.flat_map(|directory| {
        let files = names(&directory).into_iter();
        files
            .map(move |name| directory.join(name))
            .collect::<Vec<_>>()
    });
    files.collect()
}

fn upload_keys(client: &mut Client, numbers: std::ops::Range<usize>) {
    let key = |number| {
        let id = format!("{ALGORITHM}:K{number:06}");
        (id.clone(), json!({ "key": id, "signatures": {} }))
    };
    let keys: serde_json::Map<_, _> = numbers.map(key).collect();
    let body = json!({ "one_time_keys": keys });
    let _: Value = client
        .json("POST", "/_matrix/client/v3/keys/upload", Some(&body))
        .unwrap();
}

/// Claims a one-time key of Alice's device; its id.
fn claim(client: &mut Client, device: &str) -> Option<String> {
    let body = json!({ "one_time_keys": { "@alice:localhost": { device: ALGORITHM } } });
    let response: Value = client
        .json("POST", "/_matrix/client/v3/keys/claim", Some(&body))
        .unwrap();
    let keys = response["one_time_keys"]["@alice:localhost"][device].as_object()?;
    keys.keys().next().cloned()
}

fn sync(client: &mut Client, since: Option<&str>) -> Value {
    let since = since.map_or_else(String::new, |since| format!("&since={since}"));
    let path = format!("/_matrix/client/v3/sync?timeout=0{since}");
    client.json("GET", &path, None).unwrap()
}

fn device_of(client: &mut Client) -> String {
    let me: Value = client
        .json("GET", "/_matrix/client/v3/account/whoami", None)
        .unwrap();
    me["device_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_backup_under_load_is_restored_elsewhere_with_every_acknowledged_message_and_no_claimed_key() {
    let owner = Owner::new();
    let server = owner.start();
    let port = server.port;
    let tokens: Vec<_> = (0..WRITERS)
        .map(|writer| register(port, &format!("writer{writer}")).unwrap())
        .collect();
    let alice = register(port, "alice").unwrap();
    let room = create_public_room(&mut client(port, &alice)).unwrap();
    for token in &tokens {
        join(&mut client(port, token), &room).unwrap();
    }
    let session = Session {
        port,
        token: &alice,
    };
    let media = session.upload(4).unwrap();
    let device = device_of(&mut client(port, &alice));
    upload_keys(&mut client(port, &alice), 0..20);
    let mut claimed = BTreeSet::new();
    claimed.extend(claim(&mut client(port, &tokens[0]), &device));

    // Writers send all the time; those messages count that were acknowledged before the backup began.
    let (is_begun, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
    let write = |writer: usize| {
        let mut client = client(port, &tokens[writer]);
        let mut before = Vec::new();
        for number in 0.. {
            let id = send_text(&mut client, &room, &number.to_string(), "hello").unwrap();
            if is_done.load(Ordering::Acquire) {
                break;
            }
            if !is_begun.load(Ordering::Acquire) {
                before.push(id);
            }
        }
        before
    };
    let write = &write;
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        for number in 0..40 {
            send_text(
                &mut client(port, &alice),
                &room,
                &format!("a{number}"),
                "hello",
            )
            .unwrap();
        }
        is_begun.store(true, Ordering::Release);
        back_up(&owner, &[]);
        is_done.store(true, Ordering::Release);
        writers
            .into_iter()
            .flat_map(|writer| writer.join().unwrap())
            .collect()
    });
    assert!(acknowledged.len() > WRITERS, "{acknowledged:?}");

    // What follows is lost.
    for _ in 0..3 {
        claimed.extend(claim(&mut client(port, &tokens[0]), &device));
    }
    assert_eq!(claimed.len(), 4);
    let lost = send_text(&mut client(port, &alice), &room, "lost", "lost").unwrap();
    let since = sync(&mut client(port, &alice), None)["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    server.kill().unwrap();

    let elsewhere = Owner::new();
    write_settings(&elsewhere);
    let printed = elsewhere.run(&["restore", backups(&owner).to_str().unwrap()]);
    assert!(
        printed.contains("All files that people uploaded are there"),
        "{printed}"
    );
    let server = elsewhere.start();
    let port = server.port;
    let mut client_of_alice = client(port, &alice);
    let stored: BTreeSet<_> = history(&mut client_of_alice, &room).into_iter().collect();
    for id in &acknowledged {
        assert!(stored.contains(id), "{id} is missing");
    }
    assert!(!stored.contains(&lost));
    let session = Session {
        port,
        token: &alice,
    };
    let (head, mut body) = session.download(&media).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(is_uploaded_file(&mut body, 4).unwrap());

    // A client that has been further than the database begins anew.
    let synced = sync(&mut client_of_alice, Some(&since));
    let state = &synced["rooms"]["join"][&room]["state"]["events"];
    let timeline = &synced["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], true, "{synced}");
    assert!(!state.as_array().unwrap().is_empty(), "{synced}");
    assert_eq!(
        synced["device_one_time_keys_count"][ALGORITHM], 0,
        "{synced}"
    );
    let next = synced["next_batch"].as_str().unwrap();
    let id = send_text(&mut client(port, &tokens[0]), &room, "new", "new").unwrap();
    let synced = sync(&mut client_of_alice, Some(next));
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(timeline[0]["event_id"], id.as_str(), "{synced}");

    // A key that was ever claimed is not claimed again.
    let mut bob = client(port, &tokens[0]);
    assert_eq!(claim(&mut bob, &device), None);
    upload_keys(&mut client_of_alice, 100..110);
    for _ in 0..10 {
        let key = claim(&mut bob, &device).unwrap();
        assert!(claimed.insert(key.clone()), "{key} was claimed twice");
    }
    assert_eq!(claim(&mut bob, &device), None);
    assert!(server.stop(Signal::TERM).unwrap().success());
}

/// Waits until somebody has an event in their timeline.
fn wait_for(client: &mut Client, room: &str, event: &str) {
    let mut since = sync(client, None)["next_batch"]
        .as_str()
        .unwrap()
        .to_owned();
    while !history(client, room).iter().any(|id| id == event) {
        let path = format!("/_matrix/client/v3/sync?timeout=10000&since={since}");
        let synced: Value = client.json("GET", &path, None).unwrap();
        synced["next_batch"]
            .as_str()
            .unwrap()
            .clone_into(&mut since);
    }
}

#[test]
fn messages_that_were_sent_after_the_backup_come_back_from_another_server() {
    let (owner, other) = (Owner::new(), Owner::new());
    let (port, name) = (free_port().unwrap(), free_port().unwrap());
    let settings = federating_settings(name);
    let start = || Server::start_with(command(), owner.path(), port, &settings).unwrap();
    let server = start();
    let other_settings = federating_settings(free_port().unwrap());
    let peer = Server::start_with(
        command(),
        other.path(),
        free_port().unwrap(),
        &other_settings,
    );
    let peer = peer.unwrap();
    let alice = register(port, "alice").unwrap();
    let bob = register(peer.port, "bob").unwrap();
    let mut bob = client(peer.port, &bob);
    let room = create_public_room(&mut client(port, &alice)).unwrap();
    let path =
        format!("/_matrix/client/v3/join/{room}?via=localhost:{name}&server_name=localhost:{name}");
    let _: Value = bob.json("POST", &path, Some(&json!({}))).unwrap();
    back_up(&owner, &[]);
    let lost = send_text(&mut client(port, &alice), &room, "lost", "lost").unwrap();
    wait_for(&mut bob, &room, &lost);
    server.kill().unwrap();

    owner.run(&["restore", backups(&owner).to_str().unwrap(), "--force"]);
    let server = start();
    let mut client_of_alice = client(port, &alice);
    assert!(!history(&mut client_of_alice, &room).contains(&lost));
    let next = send_text(&mut bob, &room, "next", "next").unwrap();
    wait_for(&mut client_of_alice, &room, &next);
    let events = history(&mut client_of_alice, &room);
    assert_eq!(events, [lost, next]);
    // The conversation goes on.
    let last = send_text(&mut client_of_alice, &room, "last", "last").unwrap();
    wait_for(&mut bob, &room, &last);
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn the_newest_backups_are_kept_each_with_its_media_once_for_the_own_user_alone() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &alice,
    };
    let media = session.upload(2).unwrap();
    let first = back_up(&owner, &[]);
    // What one that was killed has left.
    let unfinished = backups(&owner).join("unfinished");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("hearth.redb"), "half").unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
    let second = back_up(&owner, &["--keep", "2"]);
    assert!(!unfinished.exists());
    assert!(first.exists() && second.exists());
    let [file] = &media_files(&owner)[..] else {
        panic!("one file: {:?}", media_files(&owner));
    };
    // It is the server's own file.
    assert_eq!(file.metadata().unwrap().nlink(), 2);
    let saved = fs::read(owner.path().join("hearth.toml")).unwrap();
    assert_eq!(fs::read(second.join("hearth.toml")).unwrap(), saved);
    for path in [&backups(&owner), &second, file.parent().unwrap()] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }
    let files = names(&second).into_iter().map(|name| second.join(name));
    for path in files.chain([file.clone()]) {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    owner.run(&["media", "delete", &format!("mxc://{media}")]);
    back_up(&owner, &["--keep", "2"]);
    assert!(!first.exists());
    assert_eq!(media_files(&owner).len(), 1);
    let last = back_up(&owner, &["--keep", "1"]);
    assert_eq!(media_files(&owner).len(), 0);
    let kept: Vec<_> = names(&backups(&owner))
        .into_iter()
        .filter(|name| name.ends_with('Z'))
        .collect();
    assert_eq!(kept, [last.file_name().unwrap().to_str().unwrap()]);

    let status = owner.json(&["status"]);
    assert_eq!(status["backup"]["success"]["path"], last.to_str().unwrap());
    assert!(owner.run(&["status"]).contains("Last backup"));
    let report = owner.json(&["doctor"]);
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|it| it["check"] == "backup").unwrap();
    assert_eq!(finding["state"], "ok", "{finding}");
}

#[test]
fn a_damaged_backup_is_named_and_restored_without_the_damaged_media_but_never_with_a_damaged_database()
 {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let session = Session {
        port: server.port,
        token: &alice,
    };
    session.upload(2).unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());
    let backup = back_up(&owner, &[]);
    let directory = backups(&owner);
    let directory = directory.to_str().unwrap();
    for path in [directory, backup.to_str().unwrap()] {
        let verified = owner.json(&["backup", "--verify", path]);
        assert_eq!(verified["path"], backup.to_str().unwrap());
        assert_eq!(verified["media_files"], 1);
    }

    let elsewhere = Owner::new();
    write_settings(&elsewhere);
    let refuse = |expected: &str| {
        let error = owner.fails(&["backup", "--verify", directory]);
        assert!(error.contains(expected), "{error}");
        let error = elsewhere.fails(&["restore", directory]);
        assert!(error.contains(expected), "{error}");
        assert!(!elsewhere.path().join("data/hearth.redb").exists());
    };
    let file = media_files(&owner).pop().unwrap();
    let content = fs::read(&file).unwrap();
    // Not through the name that the server has for it.
    fs::remove_file(&file).unwrap();
    fs::write(&file, &content[1..]).unwrap();
    let error = owner.fails(&["backup", "--verify", directory]);
    assert!(error.contains("its content has changed"), "{error}");
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    let without_media = Owner::new();
    write_settings(&without_media);
    let printed = without_media.run(&["restore", directory]);
    assert!(
        printed.contains("1 files that people uploaded are missing"),
        "{printed}"
    );
    fs::write(&file, &content).unwrap();
    owner.run(&["backup", "--verify", directory]);

    let database = backup.join("hearth.redb");
    let whole = fs::read(&database).unwrap();
    // The fields of an account are somewhere in it.
    let at = whole
        .windows(6)
        .position(|bytes| bytes == b"@alice")
        .unwrap();
    let mut damaged = File::options().write(true).open(&database).unwrap();
    damaged.seek(SeekFrom::Start(at as u64 + 1)).unwrap();
    damaged.write_all(b"b").unwrap();
    refuse("not a whole backup");
    fs::write(&database, &whole[..whole.len() / 2]).unwrap();
    refuse("not a whole backup");
    fs::write(&database, &whole).unwrap();
    elsewhere.run(&["restore", directory]);
}

#[test]
fn restore_moves_data_aside_only_when_told_and_never_those_of_a_running_server() {
    let owner = Owner::new();
    let server = owner.start();
    register(server.port, "alice").unwrap();
    back_up(&owner, &[]);
    register(server.port, "bob").unwrap();
    let directory = backups(&owner);
    let restore = ["restore", directory.to_str().unwrap()];
    let force = [&restore[..], &["--force"]].concat();
    let error = owner.fails(&force);
    assert!(error.contains("hearth is running"), "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let error = owner.fails(&restore);
    assert!(error.contains("`--force`"), "{error}");
    let users = |owner: &Owner| {
        owner.json(&["user", "list"])["users"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(users(&owner), 2);
    let printed = owner.run(&force);
    assert_eq!(users(&owner), 1);
    let data = owner.path().join("data");
    let aside = names(&data)
        .into_iter()
        .find(|name| name.starts_with("before-restore-"))
        .unwrap();
    assert!(printed.contains(&aside), "{printed}");
    assert!(data.join(&aside).join("hearth.redb").exists());

    // As if it was killed before the new database had its place.
    fs::create_dir(data.join("restoring")).unwrap();
    let database = data.join("hearth.redb");
    fs::rename(&database, data.join("restoring/hearth.redb")).unwrap();
    let refused = owner.output(&["serve"], "");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(!database.exists());
    owner.run(&restore);
    assert_eq!(users(&owner), 1);
    assert!(!data.join("restoring").exists());

    let other = Owner::new();
    let settings = format!("server_name = \"other.example\"\ndata_dir = {data:?}\n");
    fs::write(other.path().join("hearth.toml"), settings).unwrap();
    let error = other.fails(&force);
    assert!(
        error.contains("of localhost") && error.contains("for other.example"),
        "{error}"
    );
}

#[test]
fn clients_begin_anew_after_the_same_backup_is_restored_again() {
    let owner = Owner::new();
    let server = owner.start();
    let alice = register(server.port, "alice").unwrap();
    let room = create_public_room(&mut client(server.port, &alice)).unwrap();
    back_up(&owner, &[]);
    assert!(server.stop(Signal::TERM).unwrap().success());
    let directory = backups(&owner);
    let restore = ["restore", directory.to_str().unwrap(), "--force"];
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    owner.run(&restore);
    let server = owner.start();
    let mut of_alice = client(server.port, &alice);
    send_text(&mut of_alice, &room, "lost", "lost").unwrap();
    let lost = sync(&mut of_alice, None)["next_batch"].clone();
    let response: Value = of_alice.json("POST", sliding, Some(&json!({}))).unwrap();
    let pos = response["pos"].as_str().unwrap();
    assert!(server.stop(Signal::TERM).unwrap().success());

    owner.run(&restore);
    let server = owner.start();
    let mut of_alice = client(server.port, &alice);
    let synced = sync(&mut of_alice, lost.as_str());
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    assert_eq!(timeline[0]["type"], "m.room.create", "{synced}");
    let path = format!("{sliding}?pos={pos}");
    let response = of_alice.request("POST", &path, Some(&json!({}))).unwrap();
    assert_eq!(response.status, 400);
    let error: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(error["errcode"], "M_UNKNOWN_POS", "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn settings_that_are_not_there_are_those_of_the_backup() {
    let owner = Owner::new();
    let server = owner.start();
    assert!(server.stop(Signal::TERM).unwrap().success());
    back_up(&owner, &[]);
    let settings = owner.path().join("hearth.toml");
    let before = fs::read(&settings).unwrap();
    fs::remove_file(&settings).unwrap();
    fs::rename(owner.path().join("data"), owner.path().join("lost")).unwrap();
    owner.run(&["restore", backups(&owner).to_str().unwrap()]);
    assert_eq!(fs::read(&settings).unwrap(), before);
    let server = Server::start_as_is(command(), owner.path(), port_of(&before));
    assert!(server.unwrap().stop(Signal::TERM).unwrap().success());
}

/// The port of the settings that `Server` writes.
fn port_of(settings: &[u8]) -> u16 {
    let settings = std::str::from_utf8(settings).unwrap();
    let (_, rest) = settings.split_once("127.0.0.1:").unwrap();
    rest.split('"').next().unwrap().parse().unwrap()
}

#[test]
fn a_directory_that_is_not_for_backups_is_left_alone() {
    let owner = Owner::new();
    let server = owner.start();
    let photos = owner.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("cat.jpg"), "meow").unwrap();
    let error = owner.fails(&["backup", photos.to_str().unwrap()]);
    assert!(
        error.contains("name a new or an empty directory"),
        "{error}"
    );
    assert_eq!(names(&photos), ["cat.jpg"]);
    let error = owner.fails(&["backup"]);
    assert!(error.contains("`backup_dir`"), "{error}");
    let error = owner.fails(&["backup", "/nowhere/backups"]);
    assert!(error.contains("is its disk mounted"), "{error}");
    let error = owner.fails(&["restore", photos.to_str().unwrap()]);
    assert!(error.contains("`--force`"), "{error}");
    let error = owner.fails(&["backup", "--verify", photos.to_str().unwrap()]);
    assert!(error.contains("has no backup"), "{error}");
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn a_backup_for_which_the_disk_has_no_space_fails_in_words_and_leaves_nothing_half() {
    let owner = Owner::new();
    let Some(server) = start_on_small_disk(owner.path(), 96) else {
        return;
    };
    register(server.port, "alice").unwrap();
    // Where the data are in the mount namespace of the server.
    let data = format!("/proc/{}/root{}/data", server.pid(), owner.path().display());
    let settings = format!("server_name = \"localhost\"\ndata_dir = {data:?}\n");
    fs::write(owner.path().join("hearth.toml"), settings).unwrap();
    let directory = owner.path().join("data/backups");
    let directory = directory.to_str().unwrap();
    let made = owner.json(&["backup", directory]);
    let mut fill = File::create(format!("{data}/fill")).unwrap();
    while fill.write_all(&[1; 64 << 10]).is_ok() {}
    fill.set_len(fill.metadata().unwrap().len() - (1 << 20))
        .unwrap();
    let error = owner.fails(&["backup", directory]);
    assert!(
        error.contains("too little space") && error.contains("`--keep`"),
        "{error}"
    );
    let left = names(Path::new(&format!("{data}/backups")));
    let first = Path::new(made["path"].as_str().unwrap());
    let first = first.file_name().unwrap().to_str().unwrap();
    assert_eq!(left, [first, "hearth-backups"]);
    let status = owner.json(&["status"]);
    let failure = status["backup"]["failure"]["message"].as_str().unwrap();
    assert!(failure.contains("too little space"), "{status}");
    assert!(server.stop(Signal::TERM).unwrap().success());
}
