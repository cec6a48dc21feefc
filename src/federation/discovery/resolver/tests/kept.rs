//! What is remembered, and for how long.

use std::time::Duration;

use ruma::{OwnedServerName, ServerName, server_name};
use smol::Timer;
use tempfile::TempDir;

use super::{DOMAINS, OF_A, World, at, delegates};
use crate::{
    clock::Clock,
    federation::{
        Error,
        discovery::resolver::{Resolver, WAITING, stored},
        transport::connect::{Target, in_time},
    },
    pool::Pool,
    store::{self, Options, Reader, Rows, Store, Tx, records::ResolvedServer},
};

/// A resolver, what it stores, and its clock.
struct House<'w> {
    world: &'w World,
    resolver: Resolver,
    store: Store,
    clock: Clock,
    directory: TempDir,
}

impl<'w> House<'w> {
    fn new(world: &'w World) -> Self {
        Self::at(
            world,
            Clock::manual(1_000_000),
            tempfile::tempdir().unwrap(),
        )
    }

    fn at(world: &'w World, clock: Clock, directory: TempDir) -> Self {
        let options = Options {
            directory: directory.path().to_owned(),
            cache: 1 << 20,
        };
        let store = Store::open(&options, Pool::default()).unwrap();
        world.executor.spawn(store.clone().publish(|_| ())).detach();
        Self {
            resolver: Resolver::new(world.search(), &store, &clock, &world.executor),
            world,
            store,
            clock,
            directory,
        }
    }

    fn resolve(&self, name: &str) -> Result<Target, Error> {
        let name = <&ServerName>::try_from(name).unwrap();
        self.world.run(self.resolver.resolve(name))
    }

    fn resolve_again(&self, name: &str) -> Option<Target> {
        let name = <&ServerName>::try_from(name).unwrap();
        self.world.run(self.resolver.resolve_again(name))
    }

    /// Whether anybody is asked to resolve `name`, and if so waits until that is over.
    fn asks_for(&self, name: &str) -> bool {
        self.world.lookups.server.asked();
        let _ = self.resolve(name);
        let search = {
            let searches = self.resolver.0.searches.lock().unwrap();
            searches.get(name).cloned()
        };
        if let Some(search) = search {
            let _ = self.world.run(search.recv());
        }
        !self.world.lookups.server.asked().is_empty()
    }

    /// Waits for what is to be stored soon.
    fn settle(&self) {
        let nothing = self.store.write(|_| Ok::<_, store::Error>(()));
        self.world.run(nothing).unwrap();
    }

    fn restart(self) -> Self {
        self.settle();
        self.world.run(self.store.close());
        Self::at(self.world, self.clock.clone(), self.directory)
    }
}

const DAY: Duration = Duration::from_hours(24);

#[test]
fn after_a_restart_nobody_is_asked_where_fifty_known_servers_are() {
    let zone: String = (0..50)
        .map(|n| format!("s{n}.example 60 A 127.0.0.{n}\n"))
        .collect();
    let world = World::new(&zone, &[]);
    let names: Vec<_> = (0..50).map(|n| format!("s{n}.example:{n}")).collect();
    let house = House::new(&world);
    let before: Vec<_> = names.iter().map(|name| house.resolve(name)).collect();
    assert!(!world.lookups.server.asked().is_empty());
    let house = house.restart();
    for (name, before) in names.iter().zip(before) {
        assert_eq!(house.resolve(name).unwrap(), before.unwrap());
    }
    assert_eq!(world.lookups.server.asked(), [] as [&str; 0]);
}

#[test]
fn what_may_be_old_is_used_while_it_is_looked_for_anew() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let before = house.resolve("d.example:80").unwrap();
    house.settle();
    house.clock.advance(2 * DAY);
    world.lookups.server.know("d.example 60 A 127.0.0.5");
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
    let after = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    let is_found = async || {
        while house
            .resolver
            .resolve(server_name!("d.example:80"))
            .await
            .unwrap()
            != after
        {
            Timer::after(Duration::from_millis(2)).await;
        }
    };
    world
        .run(in_time(Duration::from_secs(20), is_found()))
        .unwrap();
}

#[test]
fn what_is_not_found_any_more_is_still_where_it_was() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let before = house.resolve("d.example:80").unwrap();
    world.lookups.server.know("");
    house.settle();
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("d.example:80"));
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
    house.clock.advance(DAY);
    assert_eq!(house.resolve("d.example:80").unwrap(), before);
}

#[test]
fn that_somebody_is_not_found_is_remembered_for_a_minute() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    house.resolve("none.example").unwrap_err();
    assert!(!house.asks_for("none.example"));
    house.clock.advance(Duration::from_mins(2));
    assert!(house.asks_for("none.example"));
}

#[test]
fn what_a_domain_says_holds_longer_than_where_its_server_is() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let house = House::new(&world);
    house.resolve("a.example").unwrap();
    world.came();
    house.settle();
    house.clock.advance(Duration::from_hours(2));
    assert!(house.asks_for("a.example"));
    assert_eq!(world.came(), []);
    house.settle();
    house.clock.advance(DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(world.came().len(), 1);
}

#[test]
fn a_domain_that_cannot_be_asked_says_what_it_said() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let house = House::new(&world);
    let before = house.resolve("a.example").unwrap();
    house.settle();
    world.lookups.server.know("d.example 60 A 127.0.0.4");
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(house.resolve("a.example").unwrap(), before);
    // One that says that there is nothing, says so.
    world.lookups.server.know(DOMAINS);
    world.pages.lock().unwrap().clear();
    house.settle();
    house.clock.advance(2 * DAY);
    assert!(house.asks_for("a.example"));
    assert_eq!(house.resolve("a.example").unwrap().authority, "a.example");
}

#[test]
fn who_is_not_where_it_was_is_looked_for_once() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    house.resolve("d.example:80").unwrap();
    let house = house.restart();
    world.lookups.server.asked();
    world.lookups.server.know("d.example 60 A 127.0.0.5");
    let elsewhere = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    assert_eq!(house.resolve_again("d.example:80"), Some(elsewhere));
    assert_eq!(world.lookups.server.asked().len(), 2);
    assert_eq!(house.resolve_again("d.example:80"), None);
    assert_eq!(world.lookups.server.asked(), [] as [&str; 0]);
}

#[test]
fn who_is_looked_for_by_many_is_looked_for_once() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let house = House::new(&world);
    let resolve = || {
        let resolver = house.resolver.clone();
        let name = server_name!("d.example:80");
        world
            .executor
            .spawn(async move { resolver.resolve(name).await })
    };
    let tasks: Vec<_> = (0..20).map(|_| resolve()).collect();
    world.run(async {
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(world.lookups.server.asked().len(), 2);
}

#[test]
fn not_everybody_is_looked_for_at_once() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    // Nothing runs meanwhile.
    let start = |n: usize| {
        let name = OwnedServerName::try_from(format!("s{n}.example")).unwrap();
        house.resolver.start(&name, None).map(drop)
    };
    let started = (0..1000).take_while(|n| start(*n).is_ok()).count();
    assert_eq!(started, WAITING);
    // Who looks for the same waits with the others.
    start(0).unwrap();
}

#[test]
fn what_is_stored_has_an_end() {
    let world = World::new("", &[]);
    let house = House::new(&world);
    let job = |tx: &Tx| {
        for n in 0..2100 {
            let name = OwnedServerName::try_from(format!("s{n}.example")).unwrap();
            let found = ResolvedServer {
                delegated: None,
                delegated_until_ts: n,
                endpoints: Vec::new(),
                until_ts: n,
            };
            stored::put(tx, &name, &found)?;
        }
        tx.resolved_servers()?.len()
    };
    assert_eq!(world.run(house.store.write(job)).unwrap(), 1900);
    let stored = |name| house.store.read(|s| stored::get(s, name)).unwrap();
    assert_eq!(stored(server_name!("s199.example")), None);
    assert!(stored(server_name!("s200.example")).is_some());
    assert!(stored(server_name!("s2099.example")).is_some());
}
