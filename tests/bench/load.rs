//! People who use a server: they register, make rooms, send and sync.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use crate::common::{http::Client, people};

/// How often the server's thread is asked for a sign of life.
const PROBE: Duration = Duration::from_millis(2);

/// People and the rooms in which all of them are.
pub struct Village {
    tokens: Vec<String>,
    rooms: Vec<String>,
}

/// What came of everybody sending at once.
pub struct Bustle {
    /// From the first message to the last acknowledgement.
    pub took: Duration,
    /// How long each acknowledgement took.
    pub acknowledged: Vec<Duration>,
    /// How long each probe waited for its answer, which holds what the thread did before.
    pub probes: Vec<Duration>,
    /// How many syncs were answered meanwhile.
    pub syncs: usize,
}

#[derive(Deserialize)]
struct Synced {
    next_batch: String,
}

impl Village {
    /// Registers `people` and has them join `rooms`, the first of them makes the rooms.
    pub fn settle(port: u16, people: usize, rooms: usize) -> io::Result<Village> {
        let tokens = (0..people)
            .map(|number| people::register(port, &format!("villager{number}")))
            .collect::<io::Result<Vec<_>>>()?;
        let mut village = Village {
            tokens,
            rooms: Vec::new(),
        };
        let mut host = village.client(port, 0)?;
        for _ in 0..rooms {
            village.rooms.push(people::make_room(&mut host)?);
        }
        for person in 1..people {
            let mut client = village.client(port, person)?;
            for room in &village.rooms {
                people::join(&mut client, room)?;
            }
        }
        Ok(village)
    }

    /// A connection on which a person is logged in.
    pub fn client(&self, port: u16, person: usize) -> io::Result<Client> {
        Client::connect(port, Some(&format!("Bearer {}", self.tokens[person])))
    }

    /// Sends one message of `size` bytes of text. `name` tells it from all others of this person.
    pub fn say(
        &self,
        client: &mut Client,
        name: &str,
        number: usize,
        size: usize,
    ) -> io::Result<()> {
        let room = &self.rooms[number % self.rooms.len()];
        let text = format!("{number} {}", "lorem ipsum ".repeat(size / 12));
        people::say(client, room, &format!("{name}-{number}"), &text).map(drop)
    }

    /// Everybody sends messages of `size` until `enough` of them say so; nobody syncs.
    pub fn fill(
        &self,
        port: u16,
        name: &str,
        size: usize,
        enough: impl Fn() -> bool,
    ) -> io::Result<()> {
        let full = AtomicBool::new(false);
        thread::scope(|scope| {
            let senders: Vec<_> = (0..self.tokens.len())
                .map(|person| {
                    let full = &full;
                    scope.spawn(move || {
                        let mut client = self.client(port, person)?;
                        (0..)
                            .take_while(|_| !full.load(Ordering::Relaxed))
                            .try_for_each(|number| self.say(&mut client, name, number, size))
                    })
                })
                .collect();
            while !enough() && !senders.iter().any(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(50));
            }
            full.store(true, Ordering::Relaxed);
            senders.into_iter().try_for_each(joined)
        })
    }

    /// Everybody sends `each` messages as fast as they are acknowledged, while everybody syncs.
    pub fn bustle(&self, port: u16, name: &str, each: usize, size: usize) -> io::Result<Bustle> {
        let people = 0..self.tokens.len();
        let over = &AtomicBool::new(false);
        thread::scope(|scope| {
            let syncers: Vec<_> = people
                .clone()
                .map(|person| scope.spawn(move || self.sync(port, person, over)))
                .collect();
            let prober = scope.spawn(move || probe(port, over));
            let begun = Instant::now();
            let senders: Vec<_> = people
                .map(|person| scope.spawn(move || self.chatter(port, person, name, each, size)))
                .collect();
            let sent = senders
                .into_iter()
                .map(joined)
                .collect::<io::Result<Vec<_>>>();
            let took = begun.elapsed();
            over.store(true, Ordering::Relaxed);
            let probes = joined(prober)?;
            // Wakes those who wait for something to happen.
            self.say(&mut self.client(port, 0)?, &format!("{name}-over"), 0, 1)?;
            let syncs = syncers.into_iter().map(joined).sum::<io::Result<usize>>()?;
            Ok(Bustle {
                took,
                acknowledged: sent?.concat(),
                probes,
                syncs,
            })
        })
    }

    fn chatter(
        &self,
        port: u16,
        person: usize,
        name: &str,
        each: usize,
        size: usize,
    ) -> io::Result<Vec<Duration>> {
        behind();
        let mut client = self.client(port, person)?;
        (0..each)
            .map(|number| {
                let begun = Instant::now();
                // Not all in the same room at the same time.
                self.say(
                    &mut client,
                    &format!("{name}-{person}"),
                    person + number,
                    size,
                )?;
                Ok(begun.elapsed())
            })
            .collect()
    }

    /// Syncs until all is over, and counts.
    fn sync(&self, port: u16, person: usize, over: &AtomicBool) -> io::Result<usize> {
        behind();
        let mut client = self.client(port, person)?;
        let mut since = String::new();
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            let path = format!("/_matrix/client/v3/sync?timeout=10000{since}");
            let synced: Synced = client.json("GET", &path, None)?;
            since = format!("&since={}", synced.next_batch);
            count += 1;
        }
        Ok(count)
    }
}

/// Asks for something that costs nothing, again and again, and notes how long each answer took.
fn probe(port: u16, over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut client = Client::connect(port, None)?;
    let mut waited = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        client.json::<Value>("GET", "/_matrix/client/versions", None)?;
        waited.push(begun.elapsed());
        thread::sleep(PROBE);
    }
    Ok(waited)
}

/// Lets the server and the probe go before this thread, so that they wait for no client.
fn behind() {
    rustix::process::setpriority_process(None, 19).expect("a thread may always give way");
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
}
