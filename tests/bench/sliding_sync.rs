//! Simplified sliding sync: the first answer beside that of `/sync`, and one with a single new message.

use std::{io, time::Instant};

use serde_json::{Value, json};

use crate::{
    Row, Rows,
    common::{http::Client, server::Server},
    cpu_row, cpu_used, directory,
    load::Users,
    milliseconds, stop,
};

pub const PATH: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
const INITIAL_RUNS: usize = 7;
const MESSAGES: usize = 50;
const REPETITIONS: usize = 20;
const MESSAGE_BYTES: usize = 80;

/// A window of 20 rooms with one event each, with the state and the extensions that Element X asks for (the
/// `RoomListService` of matrix-sdk-ui 0.18).
fn body() -> Value {
    json!({
        "conn_id": "room-list",
        "lists": { "all_rooms": {
            "ranges": [[0, 19]],
            "timeline_limit": 1,
            "required_state": [
                ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"], ["m.room.topic", ""], ["m.room.avatar", ""],
                ["m.room.canonical_alias", ""], ["m.room.power_levels", ""],
                ["org.matrix.msc3401.call.member", "*"], ["m.room.join_rules", ""],
                ["m.room.tombstone", ""], ["m.room.create", ""], ["m.room.history_visibility", ""],
                ["io.element.functional_members", ""], ["m.space.parent", "*"],
                ["m.space.child", "*"], ["org.matrix.msc3672.beacon_info", "*"],
            ],
            "filters": {},
        } },
        "extensions": {
            "account_data": { "enabled": true },
            "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true },
        },
    })
}

/// The same with a filter, for which the server needs the type of every room.
fn without_spaces() -> Value {
    let mut body = body();
    body["lists"]["all_rooms"]["filters"] = json!({ "not_room_types": ["m.space"] });
    body
}

pub fn run() -> Rows {
    let mut rows = Vec::new();
    let [by_sync, first, filtered] = initial(1000)?;
    let ratio = median(&first) / median(&by_sync);
    let filtered_ratio = median(&filtered) / median(&by_sync);
    rows.push(Row::of("initial /sync, 1,000 rooms", "ms", by_sync));
    rows.push(Row::of(
        "first sliding sync of 20 of 1,000 rooms",
        "ms",
        first,
    ));
    rows.push(Row::of("ratio of the two", "", [ratio]).at_most(0.1));
    rows.push(Row::of("the same without spaces", "ms", filtered));
    rows.push(Row::of("ratio of that to /sync", "", [filtered_ratio]).at_most(0.1));
    let (few, many) = (incremental(10)?, incremental(3000)?);
    let mut of_few = cpu_row("CPU for a sliding sync with one message, 10 rooms");
    let mut of_many = cpu_row("CPU for a sliding sync with one message, 3,000 rooms");
    of_few.values.push(few);
    of_many.values.push(many);
    rows.extend([of_few, of_many.at_most(2.0)]);
    rows.push(Row::of("ratio of 3,000 rooms to 10", "", [many / few]).at_most(1.5));
    Ok(rows)
}

/// The response times of the initial `/sync` and of the first sliding sync, without and with a filter, each right
/// after a start.
fn initial(rooms: usize) -> io::Result<[Vec<f64>; 3]> {
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let users = Users::register(server.port, 1, rooms)?;
    stop(server)?;
    let mut times = [const { Vec::new() }; 3];
    let requests = [None, Some(body()), Some(without_spaces())];
    for _ in 0..INITIAL_RUNS {
        for (request, times) in requests.iter().zip(&mut times) {
            let server = Server::start(directory.path())?;
            let mut client = users.client(server.port, 0)?;
            let start = Instant::now();
            let _: Value = match request {
                Some(body) => client.json("POST", PATH, Some(body))?,
                None => client.json("GET", "/_matrix/client/v3/sync", None)?,
            };
            times.push(milliseconds(start.elapsed()));
            stop(server)?;
        }
    }
    Ok(times)
}

/// The CPU time for one sliding sync with one new message. Each is asked for again and again, since a request
/// with the same `pos` has the same answer: the clock of the CPU time is coarse.
fn incremental(rooms: usize) -> io::Result<f64> {
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let users = Users::register(server.port, 1, rooms)?;
    let mut client = users.client(server.port, 0)?;
    let first = sliding(&mut client, None)?;
    // So that every room has been sent: what is measured is no first time.
    let mut all = body();
    all["lists"]["all_rooms"]["ranges"] = json!([[0, rooms]]);
    let mut pos = next(&mut client, &first, &all)?;
    let mut used = 0.0;
    for number in 0..MESSAGES {
        users.send_message(&mut client, "message", number, MESSAGE_BYTES)?;
        let before = cpu_used(&server)?;
        let mut last = pos.clone();
        for _ in 0..REPETITIONS {
            last = sliding(&mut client, Some(&pos))?;
        }
        used += cpu_used(&server)? - before;
        pos = last;
    }
    stop(server)?;
    Ok(used / (MESSAGES * REPETITIONS) as f64)
}

/// Returns the next `pos`.
fn sliding(client: &mut Client, pos: Option<&str>) -> io::Result<String> {
    next(client, pos.unwrap_or_default(), &body())
}

fn next(client: &mut Client, pos: &str, body: &Value) -> io::Result<String> {
    let pos = if pos.is_empty() {
        String::new()
    } else {
        format!("?pos={pos}")
    };
    let response: Value = client.json("POST", &format!("{PATH}{pos}"), Some(body))?;
    let pos = response["pos"].as_str();
    pos.map(str::to_owned)
        .ok_or_else(|| io::Error::other(format!("no pos in {response}")))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
