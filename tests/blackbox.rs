//! The started binary, as the one who runs it sees it.

mod common;
#[path = "blackbox/keys.rs"]
mod keys;
#[path = "blackbox/media.rs"]
mod media;
#[path = "blackbox/memory.rs"]
mod memory;
#[path = "blackbox/systemd.rs"]
mod systemd;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{Ipv4Addr, TcpListener},
    process::Output,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{
    http::Client,
    people::{join, make_room, register, say},
    server::{Server, command, free_port},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

/// Everything that a stopping server still has to do must be done by then.
const STOP: Duration = Duration::from_secs(10);

#[test]
fn it_tells_its_version() {
    let output = command().arg("version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("hearth {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_started_server_says_where_to_go_next_and_stops_when_it_is_asked_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = TempDir::new().unwrap();
        let server = Server::start(directory.path()).unwrap();
        let address = format!("http://127.0.0.1:{}", server.port);
        assert!(server.stop(signal).unwrap().success());
        let said = fs::read_to_string(directory.path().join("log")).unwrap();
        assert!(said.contains(&address), "{said}");
    }
}

#[test]
fn a_server_that_is_to_read_its_certificate_again_does_not_stop_for_that() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let process = i32::try_from(server.id()).ok().and_then(Pid::from_raw);
    kill_process(process.unwrap(), Signal::HUP).unwrap();
    // It would have ended by that, and without success.
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn all_threads_share_one_heap() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", server.id())).unwrap();
    let mut variables = environment.split(|byte| *byte == 0);
    assert!(variables.any(|variable| variable == b"MALLOC_ARENA_MAX=1"));
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn without_configuration_it_is_a_server_on_port_8008_of_this_machine() {
    // Whoever has the port, it is taken: so the test depends on no port that may be in use.
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 8008));
    let directory = TempDir::new().unwrap();
    let output = command().arg("serve").current_dir(&directory).output();
    let said = refusal(&output.unwrap(), 1);
    assert!(said.contains("127.0.0.1:8008"), "{said}");
}

#[test]
fn settings_that_make_no_sense_do_not_start_and_what_to_do_is_said() {
    let said = misconfigured("server_name = \"example.org\"\nregistration = \"open\"", 2);
    assert!(said.contains("`registration = \"token\"`"), "{said}");

    let said = misconfigured("servername = \"example.org\"", 2);
    assert!(said.contains("did you mean `server_name`?"), "{said}");

    let output = command()
        .args(["serve", "--config", "/nowhere.toml"])
        .output();
    let said = refusal(&output.unwrap(), 2);
    assert!(said.contains("/nowhere.toml"), "{said}");
}

#[test]
fn a_second_start_on_the_same_data_fails_and_leaves_the_first_alone() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let data = directory.path().join("data");
    let said = misconfigured(&format!("data_dir = {data:?}"), 1);
    assert!(said.contains(data.to_str().unwrap()), "{said}");
    register(server.port, "still-there").unwrap();
}

#[test]
fn a_server_that_was_given_a_new_key_still_shows_the_old_one_as_one_of_the_past() {
    let directory = TempDir::new().unwrap();
    let rotate = || {
        let config = directory.path().join("hearth.toml");
        let rotate = command()
            .args(["rotate-key", "--config"])
            .arg(config)
            .output();
        rotate.unwrap()
    };
    let keys = |server: &Server| -> Keys {
        let mut client = Client::connect(server.port, None).unwrap();
        client.json("GET", "/_matrix/key/v2/server", None).unwrap()
    };
    let server = Server::start(directory.path()).unwrap();
    let before = keys(&server);
    let said = refusal(&rotate(), 1);
    assert!(said.contains("already open"), "{said}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let output = rotate();
    assert!(output.status.success(), "{output:?}");
    let server = Server::start(directory.path()).unwrap();
    let after = keys(&server);
    assert_eq!(after.verify_keys.len(), 1);
    assert_ne!(after.verify_keys, before.verify_keys);
    let old: Vec<_> = after.old_verify_keys.keys().collect();
    assert_eq!(old, before.verify_keys.keys().collect::<Vec<_>>());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        after.verify_keys.keys().all(|id| said.contains(id)),
        "{said}"
    );
}

#[test]
fn without_data_there_is_no_key_to_replace() {
    let directory = TempDir::new().unwrap();
    let output = command().arg("rotate-key").current_dir(&directory).output();
    let said = refusal(&output.unwrap(), 1);
    assert!(said.contains("hearth-data"), "{said}");
    assert!(!directory.path().join("hearth-data").exists());
}

/// What a server tells of its keys.
#[derive(Deserialize)]
struct Keys {
    verify_keys: BTreeMap<String, serde_json::Value>,
    old_verify_keys: BTreeMap<String, serde_json::Value>,
}

#[test]
fn sigterm_answers_those_who_wait_and_ends_with_success() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path()).unwrap();
    let mut client = client(server.port, &register(server.port, "alice").unwrap());
    let since = sync(&mut client, "timeout=0").next_batch;
    let path = format!("/_matrix/client/v3/sync?timeout=50000&since={since}");
    client.send("GET", &path, None).unwrap();
    // The thread takes requests in turn: once it has answered one more, it holds that before.
    register(server.port, "bob").unwrap();
    let begun = Instant::now();
    assert!(server.stop(Signal::TERM).unwrap().success());
    assert!(begun.elapsed() < STOP, "it took {:?}", begun.elapsed());
    assert_eq!(
        client.answer().expect("an answer, however empty").status,
        200
    );
}

/// A message that somebody sent, and the event id of the acknowledgement if there was one.
struct Message {
    sender: usize,
    transaction: String,
    acknowledged: Option<String>,
}

#[test]
fn whatever_was_acknowledged_before_a_kill_is_there_afterwards_once_and_in_its_place() {
    const PEOPLE: usize = 4;
    const KILLS: usize = 5;
    let directory = TempDir::new().unwrap();
    let mut server = Server::start(directory.path()).unwrap();
    let tokens: Vec<_> = (0..PEOPLE)
        .map(|person| register(server.port, &format!("person{person}")).unwrap())
        .collect();
    let room = make_room(&mut client(server.port, &tokens[0])).unwrap();
    (1..PEOPLE).for_each(|person| join(&mut client(server.port, &tokens[person]), &room).unwrap());
    let filter = "%7B%22room%22:%7B%22timeline%22:%7B%22limit%22:10000%7D%7D%7D";
    let mut since = sync(&mut client(server.port, &tokens[0]), "timeout=0").next_batch;
    let mut said = Vec::new();

    for kill in 0..KILLS {
        let messages = talk_until_killed(server, kill, &room, &tokens);
        server = Server::start(directory.path()).unwrap();

        let port = server.port;
        let mut ids = HashMap::new();
        for Message {
            sender,
            transaction,
            acknowledged,
        } in messages
        {
            let again = say(
                &mut client(port, &tokens[sender]),
                &room,
                &transaction,
                "again",
            )
            .unwrap();
            if let Some(first) = acknowledged {
                assert_eq!(
                    first, again,
                    "a transaction id means one event, also after a kill"
                );
            }
            assert_eq!(
                ids.insert(again, transaction),
                None,
                "two messages became one event"
            );
        }
        let query = format!("timeout=0&since={since}&filter={filter}");
        let mut synced = sync(&mut client(port, &tokens[0]), &query);
        let timeline = synced.rooms.join.remove(&room).unwrap().timeline;
        assert!(!timeline.limited);
        let shown: Vec<_> = timeline
            .events
            .into_iter()
            .map(|event| event.event_id)
            .collect();
        assert_eq!(
            shown.len(),
            ids.len(),
            "each message is in the timeline once"
        );
        assert!(shown.iter().all(|id| ids.contains_key(id)));
        said.extend(shown);
        since = synced.next_batch;
        assert_eq!(history(&mut client(port, &tokens[PEOPLE - 1]), &room), said);
    }
}

/// Everybody talks until the server is killed, and it is killed after some acknowledgements; returns
/// what they said and tried to say.
fn talk_until_killed(server: Server, kill: usize, room: &str, tokens: &[String]) -> Vec<Message> {
    let port = server.port;
    let (acknowledge, acknowledgements) = mpsc::channel();
    thread::scope(|scope| {
        let talking: Vec<_> = (0..tokens.len())
            .map(|sender| {
                let acknowledge = acknowledge.clone();
                scope.spawn(move || {
                    let mut client = client(port, &tokens[sender]);
                    let mut messages = Vec::new();
                    loop {
                        let transaction = format!("{kill}-{}", messages.len());
                        let acknowledged = say(&mut client, room, &transaction, "hello").ok();
                        let killed = acknowledged.is_none();
                        messages.push(Message {
                            sender,
                            transaction,
                            acknowledged,
                        });
                        if killed {
                            return messages;
                        }
                        // Nobody counts any more once it is killed.
                        let _ = acknowledge.send(());
                    }
                })
            })
            .collect();
        drop(acknowledge);
        for _ in 0..20 + 17 * kill {
            acknowledgements.recv().expect("the server answers");
        }
        server.kill().unwrap();
        talking
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// The messages of a room, oldest first, as pages of `/messages` tell them.
fn history(client: &mut Client, room: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Page {
        chunk: Vec<Event>,
        end: Option<String>,
    }
    let mut ids = Vec::new();
    let mut from = String::new();
    loop {
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=50{from}");
        let page: Page = client.json("GET", &path, None).unwrap();
        let messages = page
            .chunk
            .into_iter()
            .filter(|event| event.kind == "m.room.message");
        ids.extend(messages.map(|event| event.event_id));
        match page.end {
            Some(end) => from = format!("&from={end}"),
            None => break,
        }
    }
    ids.reverse();
    ids
}

#[derive(Deserialize)]
struct Synced {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Default, Deserialize)]
struct Rooms {
    #[serde(default)]
    join: HashMap<String, Joined>,
}

#[derive(Deserialize)]
struct Joined {
    timeline: Timeline,
}

#[derive(Deserialize)]
struct Timeline {
    events: Vec<Event>,
    #[serde(default)]
    limited: bool,
}

#[derive(Deserialize)]
struct Event {
    event_id: String,
    #[serde(rename = "type")]
    kind: String,
}

fn client(port: u16, token: &str) -> Client {
    Client::connect(port, Some(&format!("Bearer {token}"))).unwrap()
}

fn sync(client: &mut Client, query: &str) -> Synced {
    client
        .json("GET", &format!("/_matrix/client/v3/sync?{query}"), None)
        .unwrap()
}

/// What a server says that does not start with these settings and a free port, ending with `code`.
fn misconfigured(settings: &str, code: i32) -> String {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("hearth.toml");
    let listen = format!("listen = [\"127.0.0.1:{}\"]", free_port().unwrap());
    fs::write(&config, format!("{listen}\n{settings}\n")).unwrap();
    let started = command()
        .args(["serve", "--config"])
        .arg(config)
        .current_dir(&directory)
        .output();
    refusal(&started.unwrap(), code)
}

fn refusal(output: &Output, code: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}
