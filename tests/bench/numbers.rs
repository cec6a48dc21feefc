//! hearth's numbers, measured from outside on the release binary: `cargo bench`, or
//! `cargo bench -- alone crowd` for some of them. Data lies below `target/tmp`, which must be on a
//! disk: a file system in memory writes nothing.

mod city;
#[path = "../common/mod.rs"]
mod common;
mod load;
mod peak;
mod process;

use std::{
    fmt, fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use city::City;
use common::{
    files::{self, PIECE},
    http::Client,
    people,
    server::{Server, command, free_port},
};
use load::Village;
use ruma::{OwnedEventId, RoomId, ServerName};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const MB: u64 = 1_000_000;

/// After this long without a message the writer has done all that it does when it is idle.
const IDLE: Duration = Duration::from_secs(4);

/// How long there is traffic before a kill.
const TRAFFIC: Duration = Duration::from_secs(1);

/// Text of an everyday message, in bytes.
const TEXT: usize = 80;

type Measured = io::Result<Vec<Row>>;
type Part = (&'static str, fn() -> Measured);

fn main() -> io::Result<()> {
    let parts: [Part; 9] = [
        ("size", size),
        ("idle", idle),
        ("start", start),
        ("alone", alone),
        ("crowd", crowd),
        ("killed", killed),
        ("joining", joining),
        ("receiving", receiving),
        ("media", media),
    ];
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|name| name != "--bench")
        .collect();
    println!(
        "{:<70} {:>9} {:>21} {:>6}  target",
        "", "median", "range", "values"
    );
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            part()?.iter().for_each(|row| println!("{row}"));
        }
    }
    Ok(())
}

fn size() -> Measured {
    let bytes = fs::metadata(command().get_program())?.len();
    Ok(vec![
        Row::of("binary", "MB", [bytes as f64 / 1e6]).at_most(12.0),
    ])
}

fn idle() -> Measured {
    let directory = directory()?;
    let mut fresh = Row::of(
        "resident memory, one user just registered, then idle",
        "MB",
        [],
    );
    let mut later = Row::of(
        "resident memory, one user, started again and idle",
        "MB",
        [],
    )
    .at_most(12.0);
    let server = Server::start(directory.path())?;
    Village::settle(server.port, 1, 1)?;
    thread::sleep(IDLE);
    fresh
        .values
        .push(process::resident(server.id())? as f64 / 1e6);
    stop(server)?;
    for _ in 0..3 {
        let server = Server::start(directory.path())?;
        thread::sleep(IDLE);
        later
            .values
            .push(process::resident(server.id())? as f64 / 1e6);
        stop(server)?;
    }
    Ok(vec![fresh.at_most(12.0), later])
}

fn start() -> Measured {
    let directory = directory()?;
    fill(directory.path(), 100 * MB, 1000)?;
    let mut row = Row::of("start to first answer, 100 MB of data", "ms", []).at_most(50.0);
    for _ in 0..11 {
        let server = Server::start(directory.path())?;
        row.values.push(milliseconds(server.took));
        stop(server)?;
    }
    Ok(vec![row])
}

fn alone() -> Measured {
    let directory = directory()?;
    let village = fill(directory.path(), 100 * MB, 1000)?;
    let server = Server::start(directory.path())?;
    let mut client = village.client(server.port, 0)?;
    let mut writes = |name: &str, runs: usize, pause: Duration| {
        (0..runs)
            .map(|number| {
                let before = process::written(server.id())?;
                village.say(&mut client, name, number, TEXT)?;
                thread::sleep(pause);
                Ok((process::written(server.id())? - before) as f64 / 1e3)
            })
            .collect::<io::Result<Vec<_>>>()
    };
    let acknowledged = writes("alone", 100, Duration::ZERO)?;
    let settled = writes("settled", 5, IDLE)?;
    Ok(vec![
        Row::of(
            "written for a message sent alone, when acknowledged",
            "kB",
            acknowledged,
        )
        .at_most(100.0),
        Row::of(
            "written for a message sent alone, when idle again",
            "kB",
            settled,
        ),
    ])
}

fn crowd() -> Measured {
    let (people, rooms, each) = (20, 10, 100);
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let village = Village::settle(server.port, people, rooms)?;
    let mut written = Row::of(
        "20 users, 10 rooms, all sync: written per message",
        "kB",
        [],
    )
    .at_most(16.0);
    let mut speed = Row::of("- messages a second", "1/s", []);
    let mut cpu = Row::of("- CPU of the server per message", "ms", []);
    let mut syncs = Row::of("- answered syncs per message", "1", []);
    let mut acknowledged = Row::of("- a message until it is acknowledged", "ms", []);
    let mut middle = Row::of(
        "- a probe of the thread until it is answered, median",
        "ms",
        [],
    );
    let mut longest = Row::of(
        "- a probe of the thread until it is answered, longest",
        "ms",
        [],
    )
    .at_most(20.0);
    for run in 0..5 {
        let before = (process::written(server.id())?, process::cpu(server.id())?);
        let mut bustle = village.bustle(server.port, &format!("run{run}"), each, TEXT)?;
        let after = (process::written(server.id())?, process::cpu(server.id())?);
        let messages = (people * each) as f64;
        written
            .values
            .push((after.0 - before.0) as f64 / messages / 1e3);
        speed.values.push(messages / bustle.took.as_secs_f64());
        cpu.values.push(milliseconds(after.1 - before.1) / messages);
        syncs.values.push(bustle.syncs as f64 / messages);
        acknowledged
            .values
            .extend(bustle.acknowledged.into_iter().map(milliseconds));
        bustle.probes.sort_unstable();
        middle
            .values
            .push(milliseconds(bustle.probes[bustle.probes.len() / 2]));
        longest
            .values
            .extend(bustle.probes.last().copied().map(milliseconds));
    }
    Ok(vec![
        written,
        speed,
        cpu,
        syncs,
        acknowledged,
        middle,
        longest,
    ])
}

fn killed() -> Measured {
    let directory = directory()?;
    let village = fill(directory.path(), 1000 * MB, 40_000)?;
    let mut idle = Row::of(
        "kill -9 when idle, 1 GB of data: until it answers again",
        "ms",
        [],
    );
    let mut busy = Row::of(
        "kill -9 in the middle of traffic, 1 GB: until it answers again",
        "ms",
        [],
    );
    let mut server = Server::start(directory.path())?;
    for run in 0..3 {
        kill_in_traffic(server, &village, run)?;
        server = Server::start(directory.path())?;
        busy.values.push(milliseconds(server.took));

        village.say(&mut village.client(server.port, 0)?, "idle", run, TEXT)?;
        thread::sleep(IDLE);
        server.kill()?;
        server = Server::start(directory.path())?;
        idle.values.push(milliseconds(server.took));
    }
    stop(server)?;
    Ok(vec![idle, busy])
}

fn joining() -> Measured {
    let members = 20_000;
    let mut memory = Row::of(
        "joining a room of 20,000 members elsewhere: peak memory",
        "MB",
        [],
    );
    let mut time = Row::of("- time per 1,000 members", "s", []);
    let mut syncing = Row::of("- memory after the first sync", "MB", []);
    let city = City::found()?;
    let room = city.settle(members);
    for _ in 0..3 {
        let directory = directory()?;
        let server = start_federating(directory.path())?;
        let mut guest = guest(server.port)?;
        peak::forget(server.id())?;
        let begun = Instant::now();
        join(&mut guest, &room, &city)?;
        let thousands = members as f64 / 1e3;
        time.values.push(begun.elapsed().as_secs_f64() / thousands);
        memory.values.push(peak::of(server.id())? as f64 / 1e6);
        guest.json::<Value>("GET", "/_matrix/client/v3/sync", None)?;
        syncing
            .values
            .push(process::resident(server.id())? as f64 / 1e6);
        stop(server)?;
    }
    Ok(vec![memory.at_most(128.0), time, syncing])
}

fn receiving() -> Measured {
    let messages = 5_000;
    let directory = directory()?;
    let server = start_federating(directory.path())?;
    let city = City::found()?;
    let mut guest = guest(server.port)?;
    let name = ServerName::parse("localhost").map_err(io::Error::other)?;
    let mut speed = Row::of(
        "one linear room of another server: received events",
        "1/s",
        [],
    );
    let mut cpu = Row::of("- CPU of the server per event", "ms", []);
    for _ in 0..3 {
        let room = city.settle(2);
        let said = city.chat(&room, &join(&mut guest, &room, &city)?, messages);
        let (begun, used) = (Instant::now(), process::cpu(server.id())?);
        city.send((&name, server.port), &said)?;
        speed
            .values
            .push(messages as f64 / begun.elapsed().as_secs_f64());
        let used = process::cpu(server.id())? - used;
        cpu.values.push(milliseconds(used) / messages as f64);
        let last = said.last().map(|event| event.pdu.event_id().to_owned());
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
        let newest: Value = guest.json("GET", &path, None)?;
        if newest["chunk"][0]["event_id"].as_str() != last.as_ref().map(|id| id.as_str()) {
            return Err(io::Error::other(format!("the newest is {newest}")));
        }
    }
    stop(server)?;
    Ok(vec![speed.at_least(1000.0), cpu])
}

fn media() -> Measured {
    let pieces = (500 << 20) / PIECE;
    let directory = directory()?;
    let settings = "max_upload = \"500M\"";
    let server = Server::start_with(command(), directory.path(), free_port()?, settings)?;
    let token = people::register(server.port, "alice")?;
    let who = (server.port, &*token);
    let mut up = Row::of("a file of 500 MiB: speed up", "MB/s", []);
    let mut down = Row::of("- speed down", "MB/s", []);
    let mut peak = Row::of("- peak memory, more than before", "MB", []);
    let mut later = Row::of("- memory behind it, more than before", "MB", []);
    let there_and_back = |pieces: usize| {
        let begun = Instant::now();
        let file = files::upload(who, pieces)?;
        let uploaded = begun.elapsed();
        let (said, mut got) = files::download(who, &file)?;
        if !files::is_whole(&mut got, pieces)? {
            return Err(io::Error::other(format!("it is another: {said}")));
        }
        Ok((uploaded, begun.elapsed() - uploaded))
    };
    // What is made when it is first needed is made now.
    there_and_back(16)?;
    let megabytes = (pieces * PIECE) as f64 / 1e6;
    for _ in 0..3 {
        peak::forget(server.id())?;
        let before = process::resident(server.id())? as f64;
        let (upload, download) = there_and_back(pieces)?;
        up.values.push(megabytes / upload.as_secs_f64());
        down.values.push(megabytes / download.as_secs_f64());
        peak.values
            .push((peak::of(server.id())? as f64 - before) / 1e6);
        let after = process::resident(server.id())? as f64;
        later.values.push((after - before) / 1e6);
    }
    stop(server)?;
    Ok(vec![up, down, peak.at_most(4.0), later.at_most(4.0)])
}

/// A server that federates with whom the tests certify.
fn start_federating(directory: &Path) -> io::Result<Server> {
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem");
    let settings = format!(
        "federation = \"on\"\nnotaries = []\nextra_ca = {authority:?}\nallow_private_addresses = true\n"
    );
    Server::start_with(command(), directory, free_port()?, &settings)
}

/// Somebody who is registered now.
fn guest(port: u16) -> io::Result<Client> {
    let token = people::register(port, "guest")?;
    Client::connect(port, Some(&format!("Bearer {token}")))
}

/// Joins a room of the city's: the event by which that came about.
fn join(guest: &mut Client, room: &RoomId, city: &City) -> io::Result<OwnedEventId> {
    let path = format!("/_matrix/client/v3/join/{room}?via={}", city.name());
    guest.json::<Value>("POST", &path, Some(&json!({})))?;
    let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
    let newest: Value = guest.json("GET", &path, None)?;
    let id = newest["chunk"][0]["event_id"].as_str().unwrap_or_default();
    OwnedEventId::try_from(id).map_err(io::Error::other)
}

fn kill_in_traffic(server: Server, village: &Village, run: usize) -> io::Result<()> {
    let port = server.port;
    thread::scope(|scope| {
        let traffic = scope.spawn(|| village.fill(port, &format!("traffic{run}"), TEXT, || false));
        thread::sleep(TRAFFIC);
        server.kill()?;
        match traffic.join() {
            Ok(Err(_broken_off)) => Ok(()),
            _ => Err(io::Error::other("the traffic ended before the kill")),
        }
    })
}

/// An empty directory on the disk that holds the build.
fn directory() -> io::Result<TempDir> {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))
}

/// Leaves data of this size in `directory`, of a server that was stopped, with messages of `text` bytes.
fn fill(directory: &Path, size: u64, text: usize) -> io::Result<Village> {
    let server = Server::start(directory)?;
    let village = Village::settle(server.port, 20, 10)?;
    let enough = || process::allocated(directory).is_ok_and(|bytes| bytes >= size);
    village.fill(server.port, "filler", text, enough)?;
    stop(server)?;
    Ok(village)
}

fn stop(server: Server) -> io::Result<()> {
    let status = server.stop(Signal::TERM)?;
    if !status.success() {
        return Err(io::Error::other(format!("the server ended with {status}")));
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A line of the table.
struct Row {
    what: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    target: Option<Target>,
}

enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn of(what: &'static str, unit: &'static str, values: impl Into<Vec<f64>>) -> Row {
        Row {
            what,
            unit,
            values: values.into(),
            target: None,
        }
    }

    fn at_most(mut self, target: f64) -> Row {
        self.target = Some(Target::AtMost(target));
        self
    }

    fn at_least(mut self, target: f64) -> Row {
        self.target = Some(Target::AtLeast(target));
        self
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = self.values.clone();
        values.sort_unstable_by(f64::total_cmp);
        let median = values[values.len() / 2];
        let range = format!("{:.2} – {:.2}", values[0], values[values.len() - 1]);
        let what = format!("{} ({})", self.what, self.unit);
        write!(
            f,
            "{what:<70} {median:>9.2} {range:>21} {:>6}",
            values.len()
        )?;
        match self.target {
            Some(Target::AtMost(target)) if median > target => write!(f, "  ≤ {target} missed"),
            Some(Target::AtMost(target)) => write!(f, "  ≤ {target}"),
            Some(Target::AtLeast(target)) if median < target => write!(f, "  ≥ {target} missed"),
            Some(Target::AtLeast(target)) => write!(f, "  ≥ {target}"),
            None => Ok(()),
        }
    }
}
