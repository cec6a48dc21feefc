//! Load: users who send messages and sync.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;

use crate::{
    common::{client_api, http::Client, server::Server},
    probe::probe,
};

/// Registered users, all of whom have joined all rooms.
pub struct Users {
    tokens: Vec<String>,
    rooms: Vec<String>,
}

pub struct LoadResult {
    /// From the first message to the last response.
    pub duration: Duration,
    /// The response time of each message.
    pub send_latencies: Vec<Duration>,
    /// For how long each probe was held up.
    pub probes: Vec<Duration>,
    /// The number of responses to syncs.
    pub syncs: usize,
}

#[derive(Deserialize)]
struct SyncResponse {
    next_batch: String,
}

impl Users {
    /// Registers `users` and creates `rooms`.
    pub fn register(port: u16, users: usize, rooms: usize) -> io::Result<Users> {
        let tokens = (0..users)
            .map(|number| client_api::register(port, &format!("user{number}")))
            .collect::<io::Result<Vec<_>>>()?;
        let mut registered = Users {
            tokens,
            rooms: Vec::new(),
        };
        let mut creator = registered.client(port, 0)?;
        for _ in 0..rooms {
            let room = client_api::create_public_room(&mut creator)?;
            registered.rooms.push(room);
        }
        for user in 1..users {
            let mut client = registered.client(port, user)?;
            for room in &registered.rooms {
                client_api::join(&mut client, room)?;
            }
        }
        Ok(registered)
    }

    /// A connection that sends the access token of a user.
    pub fn client(&self, port: u16, user: usize) -> io::Result<Client> {
        Client::connect(port, Some(&format!("Bearer {}", self.tokens[user])))
    }

    pub fn room(&self, index: usize) -> &str {
        &self.rooms[index]
    }

    /// Sends a message of about `size` bytes. The transaction id is made of `name` and `number`.
    pub fn send_message(
        &self,
        client: &mut Client,
        name: &str,
        number: usize,
        size: usize,
    ) -> io::Result<()> {
        let room = &self.rooms[number % self.rooms.len()];
        let text = format!("{number} {}", "lorem ipsum ".repeat(size / 12));
        client_api::send_text(client, room, &format!("{name}-{number}"), &text).map(drop)
    }

    /// All users send messages until `is_enough` holds. No user syncs.
    pub fn send_until(
        &self,
        port: u16,
        name: &str,
        size: usize,
        is_enough: impl Fn() -> bool,
    ) -> io::Result<()> {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let senders: Vec<_> = (0..self.tokens.len())
                .map(|user| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let mut client = self.client(port, user)?;
                        (0..)
                            .take_while(|_| !stop.load(Ordering::Relaxed))
                            .try_for_each(|number| {
                                self.send_message(&mut client, name, number, size)
                            })
                    })
                })
                .collect();
            while !is_enough() && !senders.iter().any(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
            senders.into_iter().try_for_each(join_thread)
        })
    }

    /// Each user syncs, and sends `messages_per_user` messages, each after the response to the last.
    pub fn run_load(
        &self,
        server: &Server,
        name: &str,
        messages_per_user: usize,
        size: usize,
    ) -> io::Result<LoadResult> {
        let users = 0..self.tokens.len();
        let (pid, port) = (server.pid(), server.port);
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            let syncers: Vec<_> = users
                .clone()
                .map(|user| scope.spawn(move || self.sync(port, user, stop)))
                .collect();
            let prober = scope.spawn(move || probe(pid, port, stop));
            let start = Instant::now();
            let senders: Vec<_> = users
                .map(|user| {
                    scope.spawn(move || {
                        self.send_messages(port, user, name, messages_per_user, size)
                    })
                })
                .collect();
            let sent = senders
                .into_iter()
                .map(join_thread)
                .collect::<io::Result<Vec<_>>>();
            let duration = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            let probes = join_thread(prober)?;
            let probes = probes.into_iter().map(|probe| probe.time).collect();
            // Wakes waiting syncs.
            self.send_message(&mut self.client(port, 0)?, &format!("{name}-end"), 0, 1)?;
            let syncs = syncers
                .into_iter()
                .map(join_thread)
                .sum::<io::Result<usize>>()?;
            Ok(LoadResult {
                duration,
                send_latencies: sent?.concat(),
                probes,
                syncs,
            })
        })
    }

    fn send_messages(
        &self,
        port: u16,
        user: usize,
        name: &str,
        count: usize,
        size: usize,
    ) -> io::Result<Vec<Duration>> {
        lower_priority();
        let mut client = self.client(port, user)?;
        (0..count)
            .map(|number| {
                let start = Instant::now();
                // Users start in different rooms.
                self.send_message(&mut client, &format!("{name}-{user}"), user + number, size)?;
                Ok(start.elapsed())
            })
            .collect()
    }

    /// Syncs until `stop` is set; returns the number of syncs.
    fn sync(&self, port: u16, user: usize, stop: &AtomicBool) -> io::Result<usize> {
        lower_priority();
        let mut client = self.client(port, user)?;
        let mut since = String::new();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            let path = format!("/_matrix/client/v3/sync?timeout=10000{since}");
            let synced: SyncResponse = client.json("GET", &path, None)?;
            since = format!("&since={}", synced.next_batch);
            count += 1;
        }
        Ok(count)
    }
}

/// Gives the server and the probe priority over this thread.
pub fn lower_priority() {
    rustix::process::setpriority_process(None, 19)
        .expect("lowering the priority is always permitted");
}

fn join_thread<T>(thread: thread::ScopedJoinHandle<'_, io::Result<T>>) -> io::Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a client panicked")))
}
