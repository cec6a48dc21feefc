//! An event with many reactions beside one with few.

use std::{io, thread};

use serde_json::{Value, json};

use crate::{
    Row, Rows,
    common::{client_api, http::Client, server::Server},
    cpu_row, cpu_used, directory,
    load::Users,
    stop,
};

/// They send the reactions.
const USERS: usize = 20;
const FEW: usize = 10;
const MANY: usize = 10_000;
const REPETITIONS: usize = 2000;

pub fn run() -> Rows {
    let directory = directory()?;
    let server = Server::start(directory.path())?;
    let users = Users::register(server.port, USERS, 1)?;
    let mut client = users.client(server.port, 0)?;
    let mut used = Vec::new();
    for reactions in [FEW, MANY] {
        let name = format!("with-{reactions}");
        let event = client_api::send_text(&mut client, users.room(0), &name, &name)?;
        thread::scope(|scope| {
            let reacting = (0..USERS).map(|user| {
                let (users, event, port) = (&users, &event, server.port);
                let numbers = (user..reactions).step_by(USERS);
                scope.spawn(move || react(users, port, user, event, numbers))
            });
            let reacting: Vec<_> = reacting.collect();
            reacting
                .into_iter()
                .try_for_each(|it| it.join().expect("a user does not panic"))
        })?;
        let path = format!("/_matrix/client/v3/rooms/{}/event/{event}", users.room(0));
        get(&mut client, &path)?;
        let before = cpu_used(&server)?;
        for _ in 0..REPETITIONS {
            get(&mut client, &path)?;
        }
        used.push((cpu_used(&server)? - before) / REPETITIONS as f64);
    }
    stop(server)?;
    let mut few = cpu_row("CPU for an event with 10 reactions");
    let mut many = cpu_row("CPU for an event with 10,000 reactions");
    few.values.push(used[0]);
    many.values.push(used[1]);
    let ratio = Row::of("ratio of the two", "", [used[1] / used[0]]).at_most(1.2);
    Ok(vec![few, many, ratio])
}

fn get(client: &mut Client, path: &str) -> io::Result<()> {
    client.json::<Value>("GET", path, None).map(drop)
}

fn react(
    users: &Users,
    port: u16,
    user: usize,
    event: &str,
    numbers: impl Iterator<Item = usize>,
) -> io::Result<()> {
    let mut client = users.client(port, user)?;
    for number in numbers {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/m.reaction/{event}-{user}-{number}",
            users.room(0)
        );
        let relation =
            json!({ "rel_type": "m.annotation", "event_id": event, "key": number.to_string() });
        let content = json!({ "m.relates_to": relation });
        client.json::<Value>("PUT", &path, Some(&content))?;
    }
    Ok(())
}
