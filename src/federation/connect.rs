//! Connections to other servers: TCP, TLS, HTTP.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_rustls::TlsConnector;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use rustls::pki_types::ServerName as TlsName;
use smol::{Async, Executor, Timer, future, lock::OnceCell};
use smol_hyper::rt::FuturesIo;

use super::{Error, address::is_public, tls::Authorities};
use crate::pool::{Kind, Pool};

/// How long it may take to find a name's addresses, to connect to one, and to shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// How many of a host's addresses are tried.
const ADDRESSES: usize = 4;
/// The largest head of an answer.
const HEAD: usize = 64 * 1024;

/// Where to connect, and as whom to address the one who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A host name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What stands in the `Host` header.
    pub authority: String,
    /// Whose certificate it must show: a host name or an address, without brackets.
    pub tls_name: String,
}

/// An open connection.
pub type Connection = SendRequest<Full<Bytes>>;

/// How long an exchange may take, and how large the answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the request to the end of the answer.
    pub time: Duration,
    /// The answer's body, in bytes.
    pub size: usize,
}

/// Makes connections.
pub struct Connector {
    /// Whom to believe who is who.
    pub authorities: Authorities,
    /// What follows from that, once somebody is to be connected to.
    pub tls: OnceCell<TlsConnector>,
    /// Whether addresses of private networks may be connected to.
    pub allow_private: bool,
    pub pool: Pool,
    pub executor: Arc<Executor<'static>>,
}

impl Connector {
    /// A new connection to `target`.
    pub async fn connect(&self, target: &Target) -> Result<Connection, Error> {
        let mut failure = Error::Unresolvable;
        for address in self.addresses(target).await? {
            match self.connect_to(address, &target.tls_name).await {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The addresses of the target's host: by the system's own resolver, which knows its name
    /// servers and `/etc/hosts`.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let found = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, target.port)],
            Err(_) => {
                let (host, port) = (target.host.clone(), target.port);
                let look_up = self.pool.run(Kind::LookUp, move || {
                    let found = (host.as_str(), port).to_socket_addrs();
                    found.map(Iterator::collect::<Vec<_>>)
                });
                let found = in_time(CONNECT, look_up).await?;
                let found = found.map_err(|busy| Error::Unreachable(busy.to_string()))?;
                found.map_err(|_| Error::Unresolvable)?
            }
        };
        let allowed = |address: &SocketAddr| self.allow_private || is_public(address.ip());
        Ok(found.into_iter().filter(allowed).take(ADDRESSES).collect())
    }

    async fn tls(&self) -> Result<&TlsConnector, Error> {
        let made = self.tls.get_or_try_init(async || {
            let authorities = self.authorities.clone();
            let made = self.pool.run(Kind::LookUp, move || authorities.connector());
            made.await.map_err(unreachable)?.map_err(unreachable)
        });
        made.await
    }

    async fn connect_to(&self, address: SocketAddr, name: &str) -> Result<Connection, Error> {
        let name = TlsName::try_from(name.to_owned()).map_err(|_| Error::Unresolvable)?;
        let stream = in_time(CONNECT, Async::<TcpStream>::connect(address)).await?;
        let stream = stream.map_err(unreachable)?;
        // What is sent is complete.
        stream.get_ref().set_nodelay(true).map_err(unreachable)?;
        let tls = self.tls().await?;
        let stream = in_time(CONNECT, tls.connect(name, stream)).await?;
        let io = FuturesIo::new(stream.map_err(unreachable)?);
        let shaken = http1::Builder::new().max_buf_size(HEAD).handshake(io).await;
        let (connection, driver) = shaken.map_err(unreachable)?;
        // It ends with the connection: when the other end closes it, or `connection` is dropped.
        self.executor
            .spawn(async {
                let _ = driver.await;
            })
            .detach();
        Ok(connection)
    }
}

/// Sends `request` over `connection` and waits for the whole answer.
pub async fn exchange(
    connection: &mut Connection,
    target: &Target,
    mut request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Response<Bytes>, Error> {
    let authority = target.authority.parse();
    let authority = authority.map_err(|_| Error::Unresolvable)?;
    request.headers_mut().insert(header::HOST, authority);
    let answer = async {
        let answer = connection
            .send_request(request)
            .await
            .map_err(unreachable)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limits.size).collect().await;
        let body = body.map_err(|error| Error::Nonsense(error.to_string()))?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    in_time(limits.time, answer).await?
}

fn unreachable(error: impl ToString) -> Error {
    Error::Unreachable(error.to_string())
}

/// What `work` gives, if it ends in time.
pub async fn in_time<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    let late = async {
        Timer::after(time).await;
        Err(Error::TimedOut)
    };
    future::or(async { Ok(work.await) }, late).await
}
