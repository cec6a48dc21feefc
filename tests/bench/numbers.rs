//! Benchmarks of the release binary as a process: `cargo bench`, or `cargo bench -- load media` for
//! some of them. Data is below `target/tmp`, which must be on a disk: a file system in memory does
//! not count written bytes.

mod aggregations;
mod attacks;
#[path = "../common/mod.rs"]
mod common;
mod instructions;
mod load;
mod memory;
mod mock_homeserver;
mod peak_memory;
mod probe;
mod process;
mod push;
mod search;
mod sliding_sync;

use std::{
    fmt, fs, io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use attacks::{Stage, join};
use common::{
    client_api,
    http::Client,
    large_files::{CHUNK_SIZE, Session, is_uploaded_file},
    server::{Server, command, free_port},
};
use load::Users;
use mock_homeserver::MockHomeserver;
use ruma::ServerName;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const MB: u64 = 1_000_000;

/// After this time the writer has finished its idle work.
const IDLE_TIME: Duration = Duration::from_secs(4);

const TRAFFIC_BEFORE_KILL: Duration = Duration::from_secs(1);

const MESSAGE_BYTES: usize = 80;

/// `memory = "128M"` and a fifth.
const MAX_PEAK_MB: f64 = 161.0;

type Rows = io::Result<Vec<Row>>;
type Benchmark = (&'static str, fn() -> Rows);

fn main() -> io::Result<()> {
    let benchmarks: [Benchmark; 15] = [
        ("size", size),
        ("idle", idle),
        ("startup", startup),
        ("single-message", single_message),
        ("load", run_load),
        ("crash-recovery", crash_recovery),
        ("remote-join", remote_join),
        ("inbound-pdus", inbound_pdus),
        ("media", media),
        ("attacks", run_attacks),
        ("memory", peaks_of_memory),
        ("sliding-sync", sliding_sync::run),
        ("search", search::run),
        ("push", push::run),
        ("aggregations", aggregations::run),
    ];
    let selected: Vec<_> = std::env::args()
        .skip(1)
        .filter(|name| name != "--bench")
        .collect();
    println!(
        "{:<70} {:>9} {:>21} {:>6}  target",
        "", "median", "range", "values"
    );
    for (name, benchmark) in benchmarks {
        if selected.is_empty() || selected.iter().any(|selected| selected == name) {
            benchmark()?.iter().for_each(|row| println!("{row}"));
        }
    }
    Ok(())
}

fn size() -> Rows {
    let bytes = fs::metadata(command().get_program())?.len();
    Ok(vec![
        Row::of("binary", "MB", [bytes as f64 / 1e6]).at_most(16.0),
    ])
}

fn idle() -> Rows {
    let directory = directory()?;
    let mut after_registration = Row::of(
        "resident memory, idle after registration of one user",
        "MB",
        [],
    );
    let mut after_restart =
        Row::of("resident memory, idle after a restart", "MB", []).at_most(12.0);
    let server = Server::start(directory.path())?;
    Users::register(server.port, 1, 1)?;
    thread::sleep(IDLE_TIME);
    after_registration
        .values
        .push(process::resident_memory(server.pid())? as f64 / 1e6);
    stop(server)?;
    for _ in 0..3 {
        let server = Server::start(directory.path())?;
        thread::sleep(IDLE_TIME);
        after_restart
            .values
            .push(process::resident_memory(server.pid())? as f64 / 1e6);
        stop(server)?;
    }
    Ok(vec![after_registration.at_most(12.0), after_restart])
}

fn startup() -> Rows {
    let directory = directory()?;
    fill(directory.path(), 100 * MB, 1000)?;
    let mut row = Row::of("start to first response, 100 MB of data", "ms", []).at_most(50.0);
    for _ in 0..11 {
        let server = Server::start(directory.path())?;
        row.values.push(milliseconds(server.startup_time));
        stop(server)?;
    }
    Ok(vec![row])
}

fn single_message() -> Rows {
    let directory = directory()?;
    let users = fill(directory.path(), 100 * MB, 1000)?;
    let server = Server::start(directory.path())?;
    let mut client = users.client(server.port, 0)?;
    let mut writes = |name: &str, runs: usize, pause: Duration| {
        (0..runs)
            .map(|number| {
                let before = process::written_bytes(server.pid())?;
                users.send_message(&mut client, name, number, MESSAGE_BYTES)?;
                thread::sleep(pause);
                Ok((process::written_bytes(server.pid())? - before) as f64 / 1e3)
            })
            .collect::<io::Result<Vec<_>>>()
    };
    let send_latency = writes("acknowledged", 100, Duration::ZERO)?;
    let idle = writes("idle", 5, IDLE_TIME)?;
    Ok(vec![
        Row::of(
            "written for a single message, at its response",
            "kB",
            send_latency,
        )
        .at_most(100.0),
        Row::of("written for a single message, when idle again", "kB", idle),
    ])
}

fn run_load() -> Rows {
    // With few users, an emulator keeps up: each message is one sync of each user then.
    let (user_count, room_count, label) = match instructions::are_counted() {
        true => (2, 1, "2 users, 1 room, both sync: written per message"),
        false => (20, 10, "20 users, 10 rooms, all sync: written per message"),
    };
    let messages_per_user = 100;
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let users = Users::register(server.port, user_count, room_count)?;
    let mut written = Row::of(label, "kB", []).at_most(16.0);
    let mut speed = Row::of("- messages a second", "1/s", []);
    let mut cpu = cpu_row("- CPU of the server per message");
    let mut syncs = Row::of("- syncs per message", "1", []);
    let mut send_latency = Row::of("- response time of a message", "ms", []);
    let mut median_probe = Row::of("- time of a probe of the thread, median", "ms", []);
    let mut longest_probe =
        Row::of("- time of a probe of the thread, longest", "ms", []).at_most(20.0);
    for run in 0..5 {
        let written_before = process::written_bytes(server.pid())?;
        let cpu_before = cpu_used(&server)?;
        let mut result = users.run_load(
            &server,
            &format!("run{run}"),
            messages_per_user,
            MESSAGE_BYTES,
        )?;
        let messages = (user_count * messages_per_user) as f64;
        cpu.values
            .push((cpu_used(&server)? - cpu_before) / messages);
        let written_now = process::written_bytes(server.pid())?;
        written
            .values
            .push((written_now - written_before) as f64 / messages / 1e3);
        speed.values.push(messages / result.duration.as_secs_f64());
        syncs.values.push(result.syncs as f64 / messages);
        send_latency
            .values
            .extend(result.send_latencies.into_iter().map(milliseconds));
        result.probes.sort_unstable();
        median_probe
            .values
            .push(milliseconds(result.probes[result.probes.len() / 2]));
        longest_probe
            .values
            .extend(result.probes.last().copied().map(milliseconds));
    }
    Ok(vec![
        written,
        speed,
        cpu,
        syncs,
        send_latency,
        median_probe,
        longest_probe,
    ])
}

fn crash_recovery() -> Rows {
    let directory = directory()?;
    let users = fill(directory.path(), 1000 * MB, 40_000)?;
    let mut idle = Row::of(
        "SIGKILL when idle, 1 GB of data: start to first response",
        "ms",
        [],
    );
    let mut busy = Row::of(
        "SIGKILL under load, 1 GB of data: start to first response",
        "ms",
        [],
    );
    let mut server = Server::start(directory.path())?;
    for run in 0..3 {
        kill_under_load(server, &users, run)?;
        server = Server::start(directory.path())?;
        busy.values.push(milliseconds(server.startup_time));

        users.send_message(
            &mut users.client(server.port, 0)?,
            "idle",
            run,
            MESSAGE_BYTES,
        )?;
        thread::sleep(IDLE_TIME);
        server.kill()?;
        server = Server::start(directory.path())?;
        idle.values.push(milliseconds(server.startup_time));
    }
    stop(server)?;
    Ok(vec![idle, busy])
}

fn remote_join() -> Rows {
    let members = 20_000;
    let mut memory = Row::of(
        "joining a remote room of 20,000 members: peak memory",
        "MB",
        [],
    );
    let mut time = Row::of("- time per 1,000 members", "s", []);
    let mut syncing = Row::of("- memory after the first sync", "MB", []);
    let remote = MockHomeserver::start()?;
    let room = remote.create_room(members);
    for _ in 0..3 {
        let directory = directory()?;
        let server = start_federating(directory.path())?;
        let mut client = register_client(server.port)?;
        peak_memory::reset(server.pid())?;
        let start = Instant::now();
        join(&mut client, &room, &remote)?;
        let thousands = members as f64 / 1e3;
        time.values.push(start.elapsed().as_secs_f64() / thousands);
        memory
            .values
            .push(peak_memory::peak(server.pid())? as f64 / 1e6);
        client.json::<Value>("GET", "/_matrix/client/v3/sync", None)?;
        syncing
            .values
            .push(process::resident_memory(server.pid())? as f64 / 1e6);
        stop(server)?;
    }
    Ok(vec![memory.at_most(128.0), time, syncing])
}

fn inbound_pdus() -> Rows {
    let count = if instructions::are_counted() {
        500
    } else {
        5_000
    };
    let directory = directory()?;
    let server = start_federating(directory.path())?;
    let remote = MockHomeserver::start()?;
    let mut client = register_client(server.port)?;
    let name = ServerName::parse("localhost").map_err(io::Error::other)?;
    let mut speed = Row::of("events received in a linear remote room", "1/s", []);
    let mut cpu = cpu_row("- CPU of the server per event");
    for _ in 0..3 {
        let room = remote.create_room(2);
        let messages = remote.build_messages(&room, &join(&mut client, &room, &remote)?, count);
        let (start, cpu_before) = (Instant::now(), cpu_used(&server)?);
        remote.send(&name, server.port, &messages)?;
        speed
            .values
            .push(count as f64 / start.elapsed().as_secs_f64());
        cpu.values
            .push((cpu_used(&server)? - cpu_before) / count as f64);
        let last = messages.last().map(|event| event.pdu.event_id().to_owned());
        let path = format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=1");
        let newest: Value = client.json("GET", &path, None)?;
        if newest["chunk"][0]["event_id"].as_str() != last.as_ref().map(|id| id.as_str()) {
            return Err(io::Error::other(format!("the newest event is {newest}")));
        }
    }
    stop(server)?;
    Ok(vec![speed.at_least(1000.0), cpu])
}

fn media() -> Rows {
    let chunks = (500 << 20) / CHUNK_SIZE;
    let directory = directory()?;
    let settings = "max_upload = \"500M\"";
    let server = Server::start_with(command(), directory.path(), free_port()?, settings)?;
    let token = client_api::register(server.port, "alice")?;
    let session = Session {
        port: server.port,
        token: &token,
    };
    let mut upload_speed = Row::of("a file of 500 MiB: upload", "MB/s", []);
    let mut download_speed = Row::of("- download", "MB/s", []);
    let mut peak = Row::of("- growth of peak memory", "MB", []);
    let mut growth = Row::of("- growth of memory afterwards", "MB", []);
    let transfer = |chunks: usize| {
        let start = Instant::now();
        let media = session.upload(chunks)?;
        let uploaded = start.elapsed();
        let (head, mut body) = session.download(&media)?;
        if !is_uploaded_file(&mut body, chunks)? {
            return Err(io::Error::other(format!(
                "another file was returned: {head}"
            )));
        }
        Ok((uploaded, start.elapsed() - uploaded))
    };
    // Warm-up: allocates what is allocated once.
    transfer(16)?;
    let megabytes = (chunks * CHUNK_SIZE) as f64 / 1e6;
    for _ in 0..3 {
        peak_memory::reset(server.pid())?;
        let before = process::resident_memory(server.pid())? as f64;
        let (upload, download) = transfer(chunks)?;
        upload_speed.values.push(megabytes / upload.as_secs_f64());
        download_speed
            .values
            .push(megabytes / download.as_secs_f64());
        peak.values
            .push((peak_memory::peak(server.pid())? as f64 - before) / 1e6);
        let after = process::resident_memory(server.pid())? as f64;
        growth.values.push((after - before) / 1e6);
    }
    stop(server)?;
    Ok(vec![
        upload_speed,
        download_speed,
        peak.at_most(4.0),
        growth.at_most(4.0),
    ])
}

fn run_attacks() -> Rows {
    let directory = directory()?;
    let server = start_federating(directory.path())?;
    let stage = Stage::new(&server)?;
    println!("longest time of a probe of the thread, under attack:");
    for attack in attacks::all() {
        attack.prepare(&stage)?;
        let mut row = Row::of(attack.label, "ms", []).at_most(20.0);
        let mut measured = Row::of("- as measured, with waiting for a core", "ms", []);
        for run in 0..3 {
            let longest = attack.longest_probe(&stage, run)?;
            row.values.push(milliseconds(longest.time));
            measured.values.push(milliseconds(longest.measured));
        }
        // All together take minutes.
        println!("{row}");
        println!("{measured}");
    }
    stop(server)?;
    Ok(Vec::new())
}

/// Each on a server of its own.
fn peaks_of_memory() -> Rows {
    type Peaks = Vec<(&'static str, u64)>;
    type Attack<'a> = &'a dyn Fn(&Server, &mut Client) -> io::Result<Peaks>;
    let remote = &MockHomeserver::start()?;
    let [small, medium, large] =
        [30, 100, 250].map(|megabytes| remote.create_room_of_small_events(megabytes * 1_000_000));
    let attacks: [Attack<'_>; 13] = [
        &|server, client| {
            let peak = memory::join(server, client, remote, &small, false)?;
            Ok(vec![(
                "peak memory: joining a room of 30 MB of small events",
                peak,
            )])
        },
        &|server, client| {
            let peak = memory::join(server, client, remote, &medium, true)?;
            Ok(vec![("- of 100 MB", peak)])
        },
        &|server, client| {
            let peak = memory::join(server, client, remote, &large, true)?;
            Ok(vec![("- of 250 MB", peak)])
        },
        &|server, client| {
            let peak = memory::claim_keys(server, client)?;
            Ok(vec![("- keys/claim for silent servers", peak)])
        },
        &|server, client| {
            let peak = memory::query_keys(server, client)?;
            Ok(vec![("- keys/query for silent servers", peak)])
        },
        &|server, _| {
            let peak = memory::query_large_keys(server)?;
            Ok(vec![(
                "- keys/query, 24 servers respond with 4 MB each",
                peak,
            )])
        },
        &|server, _| {
            let peak = memory::query_keys_at_once(server)?;
            Ok(vec![(
                "- keys/query, 40 requests of two users for silent servers",
                peak,
            )])
        },
        &|server, client| {
            let peak = memory::query_local_keys(server, client)?;
            Ok(vec![(
                "- keys/query, 8 requests for all keys of a local user",
                peak,
            )])
        },
        &|server, client| {
            let peak = memory::claim_local_keys(server, client)?;
            Ok(vec![(
                "- keys/claim, 8 requests for large keys of 200 local devices",
                peak,
            )])
        },
        &|server, client| {
            let peak = memory::send_to_device(server, client)?;
            Ok(vec![("- sendToDevice for silent servers", peak)])
        },
        &|server, client| {
            let peak = memory::account_data(server, client)?;
            Ok(vec![(
                "- /sync with as much account data as possible",
                peak,
            )])
        },
        &|server, client| memory::state(server, client),
        &|server, client| memory::rooms(server, client),
    ];
    let mut rows = Vec::new();
    for attack in attacks {
        let directory = directory()?;
        let server = start_federating_with(directory.path(), "memory = \"128M\"")?;
        let mut client = register_client(server.port)?;
        for (label, peak) in attack(&server, &mut client)? {
            rows.push(Row::of(label, "MB", [peak as f64 / 1e6]).at_most(MAX_PEAK_MB));
        }
        stop(server)?;
    }
    Ok(rows)
}

/// A server that accepts the test certificate of other servers.
fn start_federating(directory: &Path) -> io::Result<Server> {
    start_federating_with(directory, "")
}

fn start_federating_with(directory: &Path, settings: &str) -> io::Result<Server> {
    let authority = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/tests/root.pem");
    let settings = format!(
        "federation = \"on\"\nnotaries = []\nextra_ca = {authority:?}\nallow_private_addresses = true\n{settings}\n"
    );
    Server::start_with(command(), directory, free_port()?, &settings)
}

fn register_client(port: u16) -> io::Result<Client> {
    let token = client_api::register(port, "user")?;
    Client::connect(port, Some(&format!("Bearer {token}")))
}

fn kill_under_load(server: Server, users: &Users, run: usize) -> io::Result<()> {
    let port = server.port;
    thread::scope(|scope| {
        let load =
            scope.spawn(|| users.send_until(port, &format!("load{run}"), MESSAGE_BYTES, || false));
        thread::sleep(TRAFFIC_BEFORE_KILL);
        server.kill()?;
        match load.join() {
            Ok(Err(_connection_closed)) => Ok(()),
            _ => Err(io::Error::other("the load ended before the kill")),
        }
    })
}

/// An empty directory on the disk that holds the build.
fn directory() -> io::Result<TempDir> {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))
}

/// Fills the data directory up to `size` with messages of `message_bytes` bytes; stops the server.
fn fill(directory: &Path, size: u64, message_bytes: usize) -> io::Result<Users> {
    let server = Server::start(directory)?;
    let users = Users::register(server.port, 20, 10)?;
    let is_enough = || process::allocated_bytes(directory).is_ok_and(|bytes| bytes >= size);
    users.send_until(server.port, "filler", message_bytes, is_enough)?;
    stop(server)?;
    Ok(users)
}

fn stop(server: Server) -> io::Result<()> {
    let status = server.stop(Signal::TERM)?;
    if !status.success() {
        return Err(io::Error::other(format!("the server ended with {status}")));
    }
    Ok(())
}

/// A row for [`cpu_used`].
fn cpu_row(label: &'static str) -> Row {
    let unit = match instructions::are_counted() {
        true => "10^6 instructions",
        false => "ms",
    };
    Row::of(label, unit, [])
}

/// Since the start of `server`: millions of instructions where they are counted, else milliseconds of CPU time.
fn cpu_used(server: &Server) -> io::Result<f64> {
    match instructions::are_counted() {
        true => Ok(instructions::executed()? as f64 / 1e6),
        false => process::cpu_time(server.pid()).map(milliseconds),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

struct Row {
    label: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    target: Option<Target>,
}

enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Row {
    fn of(label: &'static str, unit: &'static str, values: impl Into<Vec<f64>>) -> Row {
        Row {
            label,
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
        let label = format!("{} ({})", self.label, self.unit);
        write!(
            f,
            "{label:<70} {median:>9.2} {range:>21} {:>6}",
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
