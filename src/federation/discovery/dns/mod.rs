//! Looking names up: in the machine's table of hosts, and at its name servers.
//!
//! Names are taken as they are, complete: the `search` list of `resolv.conf` is for what people type.
//! Nothing is remembered here, and nothing is limited: [`super::resolver`] does both.

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

pub use self::system::Files;
use self::{
    message::{Answer, Record},
    system::Resolvers,
};
use crate::{
    federation::transport::connect::in_time,
    pool::{Kind, Pool},
};

/// How often a name server may say that a name is an alias of another, and no more.
const ALIASES: usize = 4;
/// The largest answer in one packet.
const PACKET: usize = 4096;
/// How long what the table of hosts says holds.
const HOSTS_HOLD: Duration = Duration::from_mins(5);

/// Where a service is: an SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The lowest goes first.
    pub priority: u16,
    /// How often it goes first among its equals.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host's name; empty, if the service is decidedly not there.
    pub host: String,
}

/// What there is, and how long that holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<T> {
    /// Nothing, if the name has no such records.
    pub records: Vec<T>,
    /// How long.
    pub holds: Duration,
}

/// Why nothing is known of a name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be one.
    #[error("this is no name")]
    NoName,
    /// The name servers do not want to, or cannot.
    #[error("the name server refuses: {0}")]
    Refused(String),
    /// None of them answers.
    #[error("no name server answers: {0}")]
    Silent(String),
}

/// Looks names up.
#[derive(Clone, Debug)]
pub struct Dns {
    files: Files,
    pool: Pool,
}

impl Dns {
    /// By what these files say, which are read each time.
    pub fn new(files: Files, pool: &Pool) -> Self {
        Self {
            files,
            pool: pool.clone(),
        }
    }

    /// The addresses of a host, those of both families in turn.
    pub async fn addresses(&self, host: &str) -> Result<Found<IpAddr>, Error> {
        let (files, name) = (self.files.clone(), host.to_owned());
        let known = self.pool.run(Kind::LookUp, move || files.addresses(&name));
        let known = known.await.map_err(silent)?;
        if !known.is_empty() {
            return Ok(Found {
                records: known,
                holds: HOSTS_HOLD,
            });
        }
        let resolvers = self.resolvers().await?;
        let (v6, v4) = future::zip(
            ask(&resolvers, host, TYPE::AAAA),
            ask(&resolvers, host, TYPE::A),
        )
        .await;
        // There are name servers that do not know what AAAA is.
        let both = match (v6, v4) {
            (Err(error), Err(_)) => return Err(error),
            (v6, v4) => [v6, v4].into_iter().flatten(),
        };
        let both: Vec<_> = both.filter(|found| !found.records.is_empty()).collect();
        let holds = both.iter().map(|found| found.holds).min();
        Ok(Found {
            records: alternate(both.into_iter().map(|found| found.records)),
            holds: holds.unwrap_or_default(),
        })
    }

    /// Where the service `name` (`_service._protocol.domain`) is.
    pub async fn services(&self, name: &str) -> Result<Found<Service>, Error> {
        let resolvers = self.resolvers().await?;
        let found = ask(&resolvers, name, TYPE::SRV).await?;
        let services = found.records.into_iter().filter_map(|record| match record {
            Record::Service(service) => Some(service),
            Record::Address(_) => None,
        });
        Ok(Found {
            records: services.collect(),
            holds: found.holds,
        })
    }

    async fn resolvers(&self) -> Result<Resolvers, Error> {
        let files = self.files.clone();
        let resolvers = self.pool.run(Kind::LookUp, move || files.resolvers());
        resolvers.await.map_err(silent)
    }
}

fn silent(error: impl ToString) -> Error {
    Error::Silent(error.to_string())
}

/// The addresses of the lists in turn.
fn alternate(lists: impl Iterator<Item = Vec<Record>>) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for (family, list) in lists.enumerate() {
        for (place, record) in list.into_iter().enumerate() {
            if let Record::Address(address) = record {
                all.push((place, family, address));
            }
        }
    }
    all.sort_unstable_by_key(|(place, family, _)| (*place, *family));
    all.into_iter().map(|(_, _, address)| address).collect()
}

/// The records of type `what` at `name`, or at what that is an alias of.
async fn ask(resolvers: &Resolvers, name: &str, what: TYPE) -> Result<Found<Record>, Error> {
    let mut name = name.to_owned();
    for _ in 0..=ALIASES {
        match ask_once(resolvers, &name, what).await? {
            Answer::Records(records, holds) => return Ok(Found { records, holds }),
            Answer::Alias(of) => name = of,
            Answer::Truncated => return Err(silent("cut off by TCP")),
        }
    }
    Err(Error::Refused("it is an alias of an alias".to_owned()))
}

/// Asks the name servers in turn, and again.
async fn ask_once(resolvers: &Resolvers, name: &str, what: TYPE) -> Result<Answer, Error> {
    let mut failure = silent("there is none");
    for _ in 0..resolvers.attempts {
        for server in &resolvers.servers {
            match ask_server(resolvers, *server, name, what).await {
                Ok(answer) => return Ok(answer),
                Err(Error::NoName) => return Err(Error::NoName),
                Err(error) => failure = error,
            }
        }
    }
    Err(failure)
}

async fn ask_server(
    resolvers: &Resolvers,
    server: SocketAddr,
    name: &str,
    what: TYPE,
) -> Result<Answer, Error> {
    let id = rand::random();
    let question = message::question(id, name, what)?;
    let read = |bytes: &[u8]| message::answer(bytes, id, name, what);
    if !resolvers.only_tcp {
        let asked = in_time(resolvers.timeout, by_udp(server, &question, read)).await;
        match asked.map_err(silent)?.map_err(silent)?? {
            Answer::Truncated => {}
            answer => return Ok(answer),
        }
    }
    let asked = in_time(resolvers.timeout, by_tcp(server, &question)).await;
    let answer = asked.map_err(silent)?.map_err(silent)?;
    read(&answer).unwrap_or_else(|| Err(silent("its answer is to something else")))
}

/// Asks by UDP, from a port that nobody can foresee, and waits for what is an answer.
async fn by_udp<T>(
    server: SocketAddr,
    question: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = Async::<UdpSocket>::bind((any, 0))?;
    socket.get_ref().connect(server)?;
    socket.send(question).await?;
    let mut packet = vec![0; PACKET];
    loop {
        let size = socket.recv(&mut packet).await?;
        if let Some(answer) = read(&packet[..size]) {
            return Ok(answer);
        }
    }
}

/// Asks by TCP, where the message's length stands before it.
async fn by_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = Async::<TcpStream>::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes(), question].concat();
    stream.write_all(&message).await?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
