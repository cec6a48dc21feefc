//! What the server holds and uses.

use std::fs;

use serde_json::{Value, json};

use super::Nothing;
use crate::{
    acme::Acme,
    api::{Api, Error},
    backup,
    gauges::{CONNECTIONS, Kind},
    media,
    rooms::{self, servers},
    store::{self, Reader, Rows, Space},
};

pub async fn status(api: Api, _: Nothing) -> Result<Value, Error> {
    summary(&api).await
}

pub async fn summary(api: &Api) -> Result<Value, Error> {
    let scan = |s: &_| {
        let bytes = media::bytes(s)?;
        Ok::<_, Error>((counts(s)?, bytes, backup::Record::load(s)?))
    };
    let (counts, (uploads, cached), backup) = api.store.scan("the status", scan).await?;
    let directory = &api.config.data_dir;
    let space = Space::of(directory).ok();
    let memory = api.config.memory;
    let mut connections = api.gauges.read(Kind::Connections).into_iter();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "server_name": api.config.server_name,
        "memory": {
            "budget": memory.bytes(),
            "resident": resident("VmRSS:"),
            "peak": resident("VmHWM:"),
            "database_cache_max": memory.database_cache(),
            "request_bodies_max": memory.bodies(),
            "response_bodies_max": memory.responses(),
            "connections_max": memory.connections(),
            "consumers": api.gauges.read(Kind::Memory),
        },
        "queues": api.gauges.read(Kind::Queue),
        "connections": connections.find(|reading| reading.name == CONNECTIONS),
        "disk": {
            "database": store::database_size(directory).ok(),
            "uploads": uploads,
            "cached_media": cached,
            "free": space.map(|space| space.free),
            "total": space.map(|space| space.total),
        },
        "counts": counts,
        "backup": backup,
        "certificates": api.acme.as_ref().map(Acme::status),
    }))
}

fn counts(r: &impl Reader) -> Result<Value, rooms::Error> {
    Ok(json!({
        "accounts": r.accounts()?.len()?,
        "rooms": r.room_heads()?.len()?,
        "events": r.events()?.len()?,
        "pushers": r.pushers()?.len()?,
        "waiting_events": r.waiting()?.len()?,
        "servers": servers::count(r)?,
        "unreachable_servers": r.backoffs()?.len()?,
        "reports": r.reports()?.len()?,
    }))
}

/// A line of this process's status in bytes: proc(5).
fn resident(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
