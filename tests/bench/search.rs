//! Searching 100,000 messages of one room.

use std::{io, thread, time::Instant};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{
    IDLE_TIME, MB, Row, Rows,
    common::{client_api, http::Client, server::Server},
    directory,
    load::Users,
    milliseconds, peak_memory, process, stop,
};

const USERS: usize = 20;
const MESSAGES: usize = 100_000;
const WORDS_PER_MESSAGE: usize = 12;
/// How many different words there are. The n-th most common one is in every n-th message, about.
const WORDS: usize = 20_000;
const RUNS: usize = 11;

pub fn run() -> Rows {
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let users = Users::register(server.port, USERS, 1)?;
    let before = process::allocated_bytes(directory.path())?;
    thread::scope(|scope| {
        let senders = (0..USERS).map(|user| {
            let (users, port) = (&users, server.port);
            scope.spawn(move || send_messages(users, port, user))
        });
        let senders: Vec<_> = senders.collect();
        senders
            .into_iter()
            .try_for_each(|it| it.join().expect("a sender does not panic"))
    })?;
    thread::sleep(IDLE_TIME);
    let grown = process::allocated_bytes(directory.path())? - before;
    let mut client = users.client(server.port, 0)?;
    let mut rows = Vec::new();
    for (name, term, order) in [
        ("search for a rare word", "w10000", "recent"),
        ("search for two words", "w100 w20", "rank"),
        (
            "search for the most common word, newest first",
            "w1",
            "recent",
        ),
        ("search for the most common word, best first", "w1", "rank"),
        ("search for beginnings of words", "w12 w3", "rank"),
    ] {
        // What is cached by the first search is not the memory of one.
        search(&mut client, term, order)?;
        let resident = process::resident_memory(server.pid())?;
        peak_memory::reset(server.pid())?;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            search(&mut client, term, order)?;
            times.push(milliseconds(start.elapsed()));
        }
        let peak = peak_memory::peak(server.pid())?.saturating_sub(resident);
        rows.push(Row::of(name, "ms", times).at_most(50.0));
        let memory = Row::of("memory of it", "MB", [peak as f64 / MB as f64]);
        rows.push(memory.at_most(8.0));
    }
    stop(server)?;
    let bytes = grown as f64 / MESSAGES as f64;
    rows.push(Row::of(
        "disk space per message, with its index",
        "bytes",
        [bytes],
    ));
    Ok(rows)
}

fn send_messages(users: &Users, port: u16, user: usize) -> io::Result<()> {
    let mut client = users.client(port, user)?;
    let mut rng = SmallRng::seed_from_u64(user as u64);
    for number in 0..MESSAGES / USERS {
        let words = (0..WORDS_PER_MESSAGE).map(|_| {
            let rank = (WORDS as f64).powf(rng.random_range(0.0..1.0));
            format!("w{rank:.0}")
        });
        let text = words.collect::<Vec<_>>().join(" ");
        client_api::send_text(
            &mut client,
            users.room(0),
            &format!("search-{number}"),
            &text,
        )?;
    }
    Ok(())
}

fn search(client: &mut Client, term: &str, order: &str) -> io::Result<()> {
    let context = json!({ "before_limit": 1, "after_limit": 1, "include_profile": true });
    let criteria = json!({ "search_term": term, "order_by": order, "event_context": context });
    let body = json!({ "search_categories": { "room_events": criteria } });
    let found: Value = client.json("POST", "/_matrix/client/v3/search", Some(&body))?;
    match found["search_categories"]["room_events"]["count"].as_u64() {
        None | Some(0) => Err(io::Error::other(format!("nothing is found: {found}"))),
        Some(_) => Ok(()),
    }
}
