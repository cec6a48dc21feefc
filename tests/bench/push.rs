//! A message that is due for 1,000 pushers at once.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use serde_json::{Value, json};

use crate::{
    Row, Rows,
    common::{
        push_gateway::MockPushGateway,
        server::{Server, command, free_port},
    },
    cpu_row, cpu_used, directory,
    load::Users,
    milliseconds,
    probe::probe,
    process, stop,
};

/// The first one sends the messages.
const USERS: usize = 101;
const PUSHERS_PER_USER: usize = 10;
const PUSHERS: usize = (USERS - 1) * PUSHERS_PER_USER;
const RUNS: usize = 5;

pub fn run() -> Rows {
    let directory = directory()?;
    let gateway = MockPushGateway::new();
    let settings = gateway.setting();
    let server = Server::start_with(command(), directory.path(), free_port()?, &settings)?;
    let port = server.port;
    let users = Users::register(port, USERS, 1)?;
    for user in 1..USERS {
        let mut client = users.client(port, user)?;
        for number in 0..PUSHERS_PER_USER {
            let pusher = json!({
                "kind": "http",
                "app_id": "app",
                "pushkey": format!("{user}-{number}"),
                "app_display_name": "App",
                "device_display_name": "Phone",
                "lang": "en",
                "data": { "url": gateway.url(), "format": "event_id_only" },
            });
            let path = "/_matrix/client/v3/pushers/set";
            client.json::<Value>("POST", path, Some(&pusher))?;
        }
    }
    let mut longest = Row::of(
        "1,000 pushers due at once: time of a probe of the thread, longest",
        "ms",
        [],
    )
    .at_most(20.0);
    let mut measured = Row::of("- as measured, with waiting for a core", "ms", []);
    let mut time = Row::of("- until the last one has sent", "ms", []);
    let mut cpu = cpu_row("- CPU of the server per notification");
    let mut written = Row::of(
        "- written meanwhile, without the cursors, which are saved later",
        "kB",
        [],
    );
    let mut client = users.client(port, 0)?;
    for run in 0..RUNS {
        let cpu_before = cpu_used(&server)?;
        let written_before = process::written_bytes(server.pid())?;
        let (pid, is_done) = (server.pid(), &AtomicBool::new(false));
        let (sent, probes) = thread::scope(|scope| {
            let prober = scope.spawn(move || probe(pid, port, is_done));
            let start = Instant::now();
            let sent = users.send_message(&mut client, "push", run, 80).map(|()| {
                gateway.wait_blocking((run + 1) * PUSHERS);
                start.elapsed()
            });
            is_done.store(true, Ordering::Relaxed);
            (sent, prober.join())
        });
        let probes = probes.unwrap_or_else(|_| Err(io::Error::other("the probe panicked")))?;
        let probe = probes.into_iter().max().unwrap_or_default();
        longest.values.push(milliseconds(probe.time));
        measured.values.push(milliseconds(probe.measured));
        time.values.push(milliseconds(sent?));
        cpu.values
            .push((cpu_used(&server)? - cpu_before) / PUSHERS as f64);
        let written_now = process::written_bytes(server.pid())?;
        written
            .values
            .push((written_now - written_before) as f64 / 1e3);
    }
    stop(server)?;
    Ok(vec![longest, measured, time, cpu, written])
}
