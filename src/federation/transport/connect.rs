//! Connections to other servers: TCP, TLS, HTTP.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use futures_rustls::TlsConnector;
use http::{Request, Response, header, response::Parts};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use rustls::pki_types::ServerName as TlsName;
use smol::{Async, Timer, Unblock, channel, future, io::AsyncWriteExt, lock::OnceCell};
use smol_hyper::rt::FuturesIo;

use super::{address::is_public, pace::Pace, tls::Authorities};
use crate::{
    executor::Executor,
    federation::Error,
    pool::{Kind, Pool},
};

/// How long it may take to connect to an address, and to shake hands.
const CONNECT: Duration = Duration::from_secs(10);
/// How many of a server's addresses are tried.
const ADDRESSES: usize = 6;
/// After what time the next one is tried too, although the one before has not failed yet.
const NEXT: Duration = Duration::from_millis(500);
/// How many connections are made at once, and after what time one more: routers for homes remember
/// few, and shaking hands is work for a small board.
const AT_ONCE: u32 = 50;
const EVERY: Duration = Duration::from_millis(50);
/// How long the head of an answer that is taken as it comes may take, and each piece.
const HEAD_TIME: Duration = Duration::from_secs(60);
const PIECE_TIME: Duration = Duration::from_secs(30);
/// The largest answer that says why not.
pub const REFUSAL: usize = 64 * 1024;
/// The largest head of an answer.
const HEAD: usize = 64 * 1024;

/// Where to connect, and as whom to address the one who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The best first.
    pub addresses: Vec<SocketAddr>,
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

/// Makes connections. Clones are the same.
#[derive(Clone)]
pub struct Connector(Arc<Shared>);

struct Shared {
    /// Whom to believe who is who.
    authorities: Authorities,
    /// What follows from that, once somebody is to be connected to.
    tls: OnceCell<TlsConnector>,
    /// Whether addresses of private networks may be connected to.
    allow_private: bool,
    pace: Pace,
    pool: Pool,
    executor: Executor,
}

impl Connector {
    /// Believes whom `authorities` believe.
    pub fn new(
        authorities: Authorities,
        allow_private: bool,
        pool: &Pool,
        executor: &Executor,
    ) -> Self {
        Self(Arc::new(Shared {
            authorities,
            tls: OnceCell::new(),
            allow_private,
            pace: Pace::new(AT_ONCE, EVERY),
            pool: pool.clone(),
            executor: executor.clone(),
        }))
    }

    /// A new connection to `target`: to the first of its addresses where one comes about. The next is
    /// tried when the one before fails or takes long.
    pub async fn connect(&self, target: &Target) -> Result<Connection, Error> {
        let allowed = |address: &&SocketAddr| self.0.allow_private || is_public(address.ip());
        let addresses: Vec<_> = target.addresses.iter().filter(allowed).collect();
        let mut failure = Error::Unresolvable;
        let mut trying = Vec::new();
        let (report, result) = channel::bounded(ADDRESSES);
        for address in addresses.into_iter().take(ADDRESSES).copied() {
            let (connector, name) = (self.clone(), target.tls_name.clone());
            let report = report.clone();
            trying.push(self.0.executor.spawn(async move {
                let _ = report
                    .send(connector.connect_to(address, &name).await)
                    .await;
            }));
            match in_time(NEXT, result.recv()).await {
                Ok(Ok(Ok(connection))) => return Ok(connection),
                Ok(Ok(Err(error))) => failure = error,
                // It takes long, and is waited for below.
                _ => {}
            }
        }
        drop(report);
        while let Ok(tried) = result.recv().await {
            match tried {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn tls(&self) -> Result<&TlsConnector, Error> {
        let made = self.0.tls.get_or_try_init(async || {
            let authorities = self.0.authorities.clone();
            let made = self
                .0
                .pool
                .run(Kind::LookUp, move || authorities.connector());
            made.await.map_err(unreachable)?.map_err(unreachable)
        });
        made.await
    }

    async fn connect_to(&self, address: SocketAddr, name: &str) -> Result<Connection, Error> {
        let name = TlsName::try_from(name.to_owned()).map_err(|_| Error::Unresolvable)?;
        self.0.pace.turn().await;
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
        self.0
            .executor
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
    request: Request<Full<Bytes>>,
    limits: Limits,
) -> Result<Response<Bytes>, Error> {
    let answer = async {
        let (head, body) = ask(connection, target, request).await?.into_parts();
        Ok(Response::from_parts(head, whole(body, limits.size).await?))
    };
    in_time(limits.time, answer).await?
}

/// Sends `request` over `connection` and waits for an answer, which if it is a good one goes to
/// `file`; else it is given back.
pub async fn download(
    connection: &mut Connection,
    target: &Target,
    request: Request<Full<Bytes>>,
    (file, limits): (File, Limits),
) -> Result<Result<File, Response<Bytes>>, Error> {
    let answer = async {
        let (head, body) = ask(connection, target, request).await?.into_parts();
        if !head.status.is_success() {
            let body = whole(body, REFUSAL).await?;
            return Ok(Err(Response::from_parts(head, body)));
        }
        let mut body = Limited::new(body, limits.size);
        let mut out = Unblock::new(file);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Error::Nonsense(error.to_string().into()))?;
            if let Ok(data) = frame.into_data() {
                out.write_all(&data).await.map_err(Error::disk)?;
            }
        }
        out.flush().await.map_err(Error::disk)?;
        Ok(Ok(out.into_inner().await))
    };
    in_time(limits.time, answer).await?
}

/// An answer whose body comes as it is taken.
pub struct Answer {
    pub head: Parts,
    body: Incoming,
    /// It ends with this.
    _connection: Connection,
}

/// Sends `request` over `connection` and waits for the head of the answer.
pub async fn open(
    mut connection: Connection,
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Error> {
    let (head, body) = in_time(HEAD_TIME, ask(&mut connection, target, request))
        .await??
        .into_parts();
    Ok(Answer {
        head,
        body,
        _connection: connection,
    })
}

impl Answer {
    /// The next piece of the body; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match in_time(PIECE_TIME, self.body.frame()).await? {
            None => Ok(None),
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(error)) => Err(unreachable(error)),
        }
    }

    /// The whole body, of at most so many bytes.
    pub async fn whole(self, most: usize) -> Result<Bytes, Error> {
        whole(self.body, most).await
    }
}

async fn ask(
    connection: &mut Connection,
    target: &Target,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Error> {
    let authority = target.authority.parse();
    let authority = authority.map_err(|_| Error::Unresolvable)?;
    request.headers_mut().insert(header::HOST, authority);
    connection.send_request(request).await.map_err(unreachable)
}

async fn whole(body: Incoming, most: usize) -> Result<Bytes, Error> {
    let body = Limited::new(body, most).collect().await;
    let body = body.map_err(|error| Error::Nonsense(error.to_string().into()))?;
    Ok(body.to_bytes())
}

fn unreachable(error: impl ToString) -> Error {
    Error::Unreachable(error.to_string().into())
}

/// What `work` gives, if it ends in time.
pub async fn in_time<T>(time: Duration, work: impl Future<Output = T>) -> Result<T, Error> {
    let late = async {
        Timer::after(time).await;
        Err(Error::TimedOut)
    };
    future::or(async { Ok(work.await) }, late).await
}
