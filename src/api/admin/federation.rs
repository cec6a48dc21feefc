//! Other servers.

use std::cmp::Reverse;

use ruma::OwnedServerName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{Api, Error},
    federation::Destination,
    store::{Reader, Records},
};

/// More are left out of a list.
const MAX_LISTED: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only servers that do not answer.
    failing: bool,
}

/// All servers with which this one has to do: those that do not answer first, then by the rooms shared with
/// them.
pub async fn status(api: Api, filter: Filter) -> Result<Value, Error> {
    let mut servers = api.federation.destinations().await?;
    let (total, failing) = (servers.len(), servers.iter().filter(is_failing).count());
    servers.retain(|server| !filter.failing || is_failing(&server));
    servers.sort_by_key(|server| (!is_failing(&server), Reverse(server.rooms)));
    let servers = servers.iter().take(MAX_LISTED).map(to_json);
    Ok(json!({ "servers": servers.collect::<Vec<_>>(), "total": total, "failing": failing }))
}

fn is_failing(server: &&Destination) -> bool {
    server.backoff.is_some() || server.contact.failure.is_some()
}

fn to_json(server: &Destination) -> Value {
    let failure = server.contact.failure.as_ref();
    json!({
        "server": server.server,
        "rooms": server.rooms,
        "last_success_ts": server.contact.success_ts,
        "last_failure_ts": failure.map(|(ts, _)| ts),
        "last_error": failure.map(|(_, error)| error),
        "unreachable_since_ts": server.unreachable_since_ts,
        "retry_at_ts": server.backoff.as_ref().map(|backoff| backoff.retry_at_ts),
        "queued_events": server.queued_events,
        "is_behind": server.is_behind,
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    server: OwnedServerName,
}

pub async fn show(api: Api, Server { server }: Server) -> Result<Value, Error> {
    let destination = api.federation.destination(&server)?.ok_or_else(unknown)?;
    let mut shown = to_json(&destination);
    shown["allowed"] = api.federation.allows(&server).into();
    shown["backlog"] = api.federation.backlog(&server).await?.into();
    let resolved = api
        .store
        .read(|s| s.resolved_servers()?.load(server.as_str()))?;
    if let Some(resolved) = resolved {
        let addresses = resolved.endpoints.iter().flat_map(|endpoint| {
            let addresses = endpoint.addresses.iter();
            addresses.map(|address| std::net::SocketAddr::new(*address, endpoint.port).to_string())
        });
        shown["addresses"] = addresses.collect();
        shown["delegated"] = resolved.delegated.into();
        shown["resolved_until_ts"] = resolved.until_ts.into();
    }
    Ok(shown)
}

pub async fn retry(api: Api, Server { server }: Server) -> Result<Value, Error> {
    if !api.federation.retry(&server).await? {
        return Err(unknown());
    }
    log::info!("{server} is tried again at once, at the owner's request");
    Ok(json!({ "server": server, "retried": true }))
}

fn unknown() -> Error {
    Error::not_found(
        "this server never had to do with that one; `hearth federation status` shows all others",
    )
}
