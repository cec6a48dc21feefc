//! DNS lookups: in `/etc/hosts`, then at the name servers of `/etc/resolv.conf`.
//!
//! Names are complete: the `search` list of `resolv.conf` is not used. There is no cache and no limit here:
//! [`super::resolver`] has both.

mod message;
mod system;
#[cfg(test)]
pub(in crate::federation) mod tests;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use simple_dns::TYPE;
use smol::{
    Async, future,
    io::{AsyncReadExt, AsyncWriteExt},
};

pub use self::{
    message::{Error, Service},
    system::SystemFiles,
};
use self::{
    message::{Record, Response},
    system::NameServers,
};
use crate::{
    federation::transport::connect::with_timeout,
    pool::{Kind, Pool},
};

/// How many CNAME records are followed with a query each.
const MAX_CNAMES: usize = 4;
const MAX_UDP_BYTES: usize = 4096;
/// For how long entries of `/etc/hosts` are cached.
const HOSTS_TTL: Duration = Duration::from_mins(5);

/// Records and how long they may be cached.
#[derive(Debug, PartialEq, Eq)]
pub struct Records<T> {
    /// None if the name has no such records.
    pub records: Vec<T>,
    pub ttl: Duration,
}

/// Of IP addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Clone, Debug)]
pub struct Dns {
    files: SystemFiles,
    pool: Pool,
}

impl Dns {
    /// The files are read for each lookup.
    pub fn new(files: SystemFiles, pool: &Pool) -> Self {
        Self {
            files,
            pool: pool.clone(),
        }
    }

    /// The addresses of a host, of both families in turn.
    pub async fn addresses(&self, host: &str) -> Result<Records<IpAddr>, Error> {
        let (files, name) = (self.files.clone(), host.to_owned());
        let known = self.pool.run(Kind::LookUp, move || files.addresses(&name));
        let known = known.await.map_err(no_response)?;
        if !known.is_empty() {
            return Ok(Records {
                records: known,
                ttl: HOSTS_TTL,
            });
        }
        let resolvers = self.resolvers().await?;
        let (v6, v4) = future::zip(
            query(&resolvers, host, TYPE::AAAA),
            query(&resolvers, host, TYPE::A),
        )
        .await;
        // Some name servers fail for AAAA.
        let both = match (v6, v4) {
            (Err(error), Err(_)) => return Err(error),
            (v6, v4) => [v6, v4].into_iter().flatten(),
        };
        let both: Vec<_> = both.filter(|found| !found.records.is_empty()).collect();
        let ttl = both.iter().map(|found| found.ttl).min();
        Ok(Records {
            records: interleave(both.into_iter().map(|found| found.records)),
            ttl: ttl.unwrap_or_default(),
        })
    }

    /// The SRV records at `name` (`_service._protocol.domain`).
    pub async fn services(&self, name: &str) -> Result<Records<Service>, Error> {
        let resolvers = self.resolvers().await?;
        let found = query(&resolvers, name, TYPE::SRV).await?;
        let services = found.records.into_iter().filter_map(|record| match record {
            Record::Service(service) => Some(service),
            Record::Address(_) => None,
        });
        Ok(Records {
            records: services.collect(),
            ttl: found.ttl,
        })
    }

    /// The addresses of a host in one family, as name servers have them.
    pub async fn addresses_in(&self, family: Family, host: &str) -> Result<Vec<IpAddr>, Error> {
        let resolvers = self.resolvers().await?;
        let kind = match family {
            Family::V4 => TYPE::A,
            Family::V6 => TYPE::AAAA,
        };
        let found = query(&resolvers, host, kind).await?;
        Ok(interleave([found.records].into_iter()))
    }

    /// Whether `name` has a CNAME record.
    pub async fn is_alias(&self, name: &str) -> Result<bool, Error> {
        let resolvers = self.resolvers().await?;
        let found = query_once(&resolvers, name, TYPE::CNAME).await?;
        Ok(matches!(found, Response::Cname(_)))
    }

    async fn resolvers(&self) -> Result<NameServers, Error> {
        let files = self.files.clone();
        let resolvers = self.pool.run(Kind::LookUp, move || files.resolvers());
        resolvers.await.map_err(no_response)
    }
}

fn no_response(error: impl ToString) -> Error {
    Error::NoResponse(error.to_string())
}

fn interleave(lists: impl Iterator<Item = Vec<Record>>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for (family, list) in lists.enumerate() {
        for (index, record) in list.into_iter().enumerate() {
            if let Record::Address(address) = record {
                all.push((index, family, address));
            }
        }
    }
    all.sort_unstable_by_key(|(index, family, _)| (*index, *family));
    all.into_iter().map(|(_, _, address)| address).collect()
}

/// The records of type `kind` at `name`, or at the name that its CNAME leads to.
async fn query(resolvers: &NameServers, name: &str, kind: TYPE) -> Result<Records<Record>, Error> {
    let mut name = name.to_owned();
    for _ in 0..=MAX_CNAMES {
        match query_once(resolvers, &name, kind).await? {
            Response::Records(records, ttl) => return Ok(Records { records, ttl }),
            Response::Cname(to) => name = to,
            Response::Truncated => return Err(no_response("a response by TCP is truncated")),
        }
    }
    Err(Error::Refused("too many CNAME records".to_owned()))
}

/// Queries the name servers in turn, for as many rounds as configured.
async fn query_once(resolvers: &NameServers, name: &str, kind: TYPE) -> Result<Response, Error> {
    let mut failure = no_response("there is no name server");
    for _ in 0..resolvers.attempts {
        for server in &resolvers.servers {
            match query_server(resolvers, *server, name, kind).await {
                Ok(answer) => return Ok(answer),
                Err(Error::InvalidName) => return Err(Error::InvalidName),
                Err(error) => failure = error,
            }
        }
    }
    Err(failure)
}

async fn query_server(
    resolvers: &NameServers,
    server: SocketAddr,
    name: &str,
    kind: TYPE,
) -> Result<Response, Error> {
    let id = rand::random();
    let query = message::encode_query(id, name, kind)?;
    let read = |bytes: &[u8]| message::decode_response(bytes, id, name, kind);
    if !resolvers.only_tcp {
        let response = with_timeout(resolvers.timeout, query_udp(server, &query, read)).await;
        match response.map_err(no_response)?.map_err(no_response)?? {
            Response::Truncated => {}
            response => return Ok(response),
        }
    }
    let response = with_timeout(resolvers.timeout, query_tcp(server, &query)).await;
    let response = response.map_err(no_response)?.map_err(no_response)?;
    read(&response).unwrap_or_else(|| Err(no_response("its response is to another query")))
}

/// Queries by UDP, from a random port, and waits for a response that `read` accepts.
async fn query_udp<T>(
    server: SocketAddr,
    query: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Async::<UdpSocket>::bind((any, 0))?;
    socket.get_ref().connect(server)?;
    socket.send(query).await?;
    let mut packet = vec![0; MAX_UDP_BYTES];
    loop {
        let size = socket.recv(&mut packet).await?;
        if let Some(response) = read(&packet[..size]) {
            return Ok(response);
        }
    }
}

/// Queries by TCP, where a message is preceded by its length.
async fn query_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = Async::<TcpStream>::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes(), query].concat();
    stream.write_all(&message).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut response = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut response).await?;
    Ok(response)
}
