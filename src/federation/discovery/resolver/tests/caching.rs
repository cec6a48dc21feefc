//! The cache of the resolver.

use std::time::Duration;

use ruma::{OwnedServerName, ServerName, server_name};
use smol::Timer;
use tempfile::TempDir;

use super::{DOMAINS, OF_A, World, at, delegates};
use crate::{
    clock::Clock,
    federation::{
        Error,
        discovery::resolver::{MAX_QUEUED, Resolver, stored},
        transport::connect::{Target, with_timeout},
    },
    pool::Pool,
    store::{self, Options, Reader, Rows, Store, Tx, records::ResolvedServer},
};

struct CachingWorld<'w> {
    world: &'w World,
    resolver: Resolver,
    store: Store,
    clock: Clock,
    directory: TempDir,
}

impl<'w> CachingWorld<'w> {
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
            resolver: Resolver::new(world.discovery(), &store, &clock, &world.executor),
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

    /// Whether `name` is resolved anew. Waits until that is done.
    fn queries_for(&self, name: &str) -> bool {
        self.world.lookups.server.queries();
        let _ = self.resolve(name);
        let name = OwnedServerName::try_from(name).unwrap();
        if self.resolver.0.discoveries.is_under_way(&name) {
            let flight = self.resolver.start(&name, None).unwrap();
            let _ = self.world.run(flight.wait());
        }
        !self.world.lookups.server.queries().is_empty()
    }

    /// Waits for the writes that are queued.
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
fn after_a_restart_fifty_known_servers_are_resolved_without_a_query() {
    let zone: String = (0..50)
        .map(|n| format!("s{n}.example 60 A 127.0.0.{n}\n"))
        .collect();
    let world = World::new(&zone, &[]);
    let names: Vec<_> = (0..50).map(|n| format!("s{n}.example:{n}")).collect();
    let caching = CachingWorld::new(&world);
    let before: Vec<_> = names.iter().map(|name| caching.resolve(name)).collect();
    assert!(!world.lookups.server.queries().is_empty());
    let caching = caching.restart();
    for (name, before) in names.iter().zip(before) {
        assert_eq!(caching.resolve(name).unwrap(), before.unwrap());
    }
    assert_eq!(world.lookups.server.queries(), [] as [&str; 0]);
}

#[test]
fn an_old_result_is_used_while_it_is_refreshed() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let caching = CachingWorld::new(&world);
    let before = caching.resolve("d.example:80").unwrap();
    caching.settle();
    caching.clock.advance(2 * DAY);
    world.lookups.server.set_zone("d.example 60 A 127.0.0.5");
    assert_eq!(caching.resolve("d.example:80").unwrap(), before);
    let after = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    let is_found = async || {
        while caching
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
        .run(with_timeout(Duration::from_secs(20), is_found()))
        .unwrap();
}

#[test]
fn an_old_result_is_used_when_discovery_fails() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let caching = CachingWorld::new(&world);
    let before = caching.resolve("d.example:80").unwrap();
    world.lookups.server.set_zone("");
    caching.settle();
    caching.clock.advance(2 * DAY);
    assert!(caching.queries_for("d.example:80"));
    assert_eq!(caching.resolve("d.example:80").unwrap(), before);
    caching.clock.advance(DAY);
    assert_eq!(caching.resolve("d.example:80").unwrap(), before);
}

#[test]
fn a_failed_discovery_is_cached_for_a_minute() {
    let world = World::new("", &[]);
    let caching = CachingWorld::new(&world);
    caching.resolve("none.example").unwrap_err();
    assert!(!caching.queries_for("none.example"));
    caching.clock.advance(Duration::from_mins(2));
    assert!(caching.queries_for("none.example"));
}

#[test]
fn a_delegation_is_cached_longer_than_addresses() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let caching = CachingWorld::new(&world);
    caching.resolve("a.example").unwrap();
    world.requests();
    caching.settle();
    caching.clock.advance(Duration::from_hours(2));
    assert!(caching.queries_for("a.example"));
    assert_eq!(world.requests(), []);
    caching.settle();
    caching.clock.advance(DAY);
    assert!(caching.queries_for("a.example"));
    assert_eq!(world.requests().len(), 1);
}

#[test]
fn a_cached_delegation_is_used_while_its_domain_is_unreachable() {
    let world = World::new(
        "d.example 60 A 127.0.0.4",
        &[(OF_A, &delegates("d.example:80"))],
    );
    let caching = CachingWorld::new(&world);
    let before = caching.resolve("a.example").unwrap();
    caching.settle();
    world.lookups.server.set_zone("d.example 60 A 127.0.0.4");
    caching.clock.advance(2 * DAY);
    assert!(caching.queries_for("a.example"));
    assert_eq!(caching.resolve("a.example").unwrap(), before);
    // A reachable domain without a delegation ends it.
    world.lookups.server.set_zone(DOMAINS);
    world.pages.lock().unwrap().clear();
    caching.settle();
    caching.clock.advance(2 * DAY);
    assert!(caching.queries_for("a.example"));
    assert_eq!(caching.resolve("a.example").unwrap().authority, "a.example");
}

#[test]
fn a_server_that_has_moved_is_resolved_once() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let caching = CachingWorld::new(&world);
    caching.resolve("d.example:80").unwrap();
    let caching = caching.restart();
    world.lookups.server.queries();
    world.lookups.server.set_zone("d.example 60 A 127.0.0.5");
    let elsewhere = at(&["127.0.0.5:80"], "d.example:80", "d.example");
    assert_eq!(caching.resolve_again("d.example:80"), Some(elsewhere));
    assert_eq!(world.lookups.server.queries().len(), 2);
    assert_eq!(caching.resolve_again("d.example:80"), None);
    assert_eq!(world.lookups.server.queries(), [] as [&str; 0]);
}

#[test]
fn concurrent_requests_share_one_discovery() {
    let world = World::new("d.example 60 A 127.0.0.4", &[]);
    let caching = CachingWorld::new(&world);
    let resolve = || {
        let resolver = caching.resolver.clone();
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
    assert_eq!(world.lookups.server.queries().len(), 2);
}

#[test]
fn the_number_of_queued_discoveries_is_limited() {
    let world = World::new("", &[]);
    let caching = CachingWorld::new(&world);
    // The executor does not run meanwhile.
    let start = |n: usize| {
        let name = OwnedServerName::try_from(format!("s{n}.example")).unwrap();
        caching.resolver.start(&name, None).map(drop)
    };
    let started = (0..1000).take_while(|n| start(*n).is_ok()).count();
    assert_eq!(started, MAX_QUEUED);
    // A request for the same server joins.
    start(0).unwrap();
}

#[test]
fn the_number_of_stored_results_is_limited() {
    let world = World::new("", &[]);
    let caching = CachingWorld::new(&world);
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
    assert_eq!(world.run(caching.store.write(job)).unwrap(), 1900);
    let stored = |name| caching.store.read(|s| stored::get(s, name)).unwrap();
    assert_eq!(stored(server_name!("s199.example")), None);
    assert!(stored(server_name!("s200.example")).is_some());
    assert!(stored(server_name!("s2099.example")).is_some());
}
