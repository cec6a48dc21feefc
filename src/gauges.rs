//! What the parts of the server use now, for the owner. Each part adds a gauge where it is made; nothing is counted
//! twice or stored for it.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// The gauge of the connections of clients and other servers.
pub const CONNECTIONS: &str = "connections";

/// What a gauge counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of memory.
    Memory,
    /// What waits for something.
    Queue,
    Connections,
}

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Usage {
    pub used: u64,
    pub max: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    pub name: &'static str,
    #[serde(flatten)]
    pub usage: Usage,
}

struct Gauge {
    kind: Kind,
    name: &'static str,
    read: Box<dyn Fn() -> Usage + Send + Sync>,
}

#[derive(Default)]
pub struct Gauges(Mutex<Vec<Gauge>>);

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gauges").finish_non_exhaustive()
    }
}

impl Usage {
    pub fn of(used: usize, max: usize) -> Self {
        Self {
            used: used as u64,
            max: Some(max as u64),
        }
    }

    pub fn unlimited(used: usize) -> Self {
        Self {
            used: used as u64,
            max: None,
        }
    }
}

impl Gauges {
    pub fn add(
        &self,
        kind: Kind,
        name: &'static str,
        read: impl Fn() -> Usage + Send + Sync + 'static,
    ) {
        self.lock().push(Gauge {
            kind,
            name,
            read: Box::new(read),
        });
    }

    /// The readings of all gauges of a kind.
    pub fn read(&self, kind: Kind) -> Vec<Reading> {
        let gauges = self.lock();
        let of_kind = gauges.iter().filter(|gauge| gauge.kind == kind);
        let readings = of_kind.map(|gauge| Reading {
            name: gauge.name,
            usage: (gauge.read)(),
        });
        readings.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Gauge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{Gauges, Kind, Usage};

    #[test]
    fn readings_are_of_now_and_by_kind() {
        let gauges = Gauges::default();
        gauges.add(Kind::Memory, "bodies", || Usage::of(1, 2));
        gauges.add(Kind::Queue, "events", || Usage::unlimited(3));
        let queues = gauges.read(Kind::Queue);
        assert_eq!((queues.len(), queues[0].name), (1, "events"));
        assert_eq!(queues[0].usage, Usage { used: 3, max: None });
        assert!(gauges.read(Kind::Connections).is_empty());
    }
}
