//! The listeners: they accept connections within the limits and shut down gracefully.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use smol::{
    Async, Timer,
    channel::{self, Receiver, Sender},
    future,
};

use super::{
    connection::Connection, connection_slots::ConnectionSlots, gate::Gate, limits::Timeouts,
    peer::ClientAddresses, stream::Stream, tls::Certificate, unix_socket::UnixSocket,
};
use crate::{
    config::Config,
    executor::Executor,
    gauges::{CONNECTIONS, Gauges, Kind},
    stop::Stopping,
    systemd::Sockets,
};

const MAX_METRICS_CONNECTIONS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}: {}", in_words(.error))]
    Bind {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("cannot listen on {}: {error}", path.display())]
    BindPath { path: PathBuf, error: io::Error },
    /// A socket of systemd with an unknown address, so whether it is for TLS is not known.
    #[error(
        "systemd listens on {0}, which is neither in `listen` nor in `tls_listen`: name the same \
         addresses in hearth.socket and in hearth.toml"
    )]
    UnknownSocket(SocketAddr),
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program does; if hearth is running already, stop it first, else set another `listen`"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Sockets that accept connections, although no request is answered yet.
pub struct Listeners {
    listeners: Vec<Listener>,
    addresses: Arc<ClientAddresses>,
    pub(super) connections: usize,
    /// The name of what counts its connections.
    gauge: &'static str,
    pub(super) timeouts: Timeouts,
}

struct Listener {
    socket: Socket,
    certificate: Option<Certificate>,
}

enum Socket {
    Tcp(Async<TcpListener>, SocketAddr),
    Unix(UnixSocket),
}

/// Who connects by a Unix socket has no address. It counts as a program of this machine, so that it is a proxy
/// if `trusted_proxies` says so of this address.
const UNIX_PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Listeners {
    /// Listens on the addresses of the settings, on `sockets` where one has the address. The settings for
    /// TLS come with a `certificate`.
    pub fn bind(
        config: &Config,
        mut sockets: Sockets,
        certificate: Option<Certificate>,
    ) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        for &address in &config.listen.addresses {
            listeners.push(Listener::bind(address, &mut sockets, None)?);
        }
        for path in &config.listen.paths {
            listeners.push(Listener::bind_path(path)?);
        }
        if let Some(tls) = &config.tls {
            for &address in &tls.listen {
                let certificate = certificate.clone();
                listeners.push(Listener::bind(address, &mut sockets, certificate)?);
            }
        }
        if let Some(address) = sockets.remaining() {
            return Err(ListenError::UnknownSocket(address));
        }
        Ok(Self {
            listeners,
            addresses: Arc::new(ClientAddresses::of_public_listeners(config)),
            connections: config.memory.connections(),
            gauge: CONNECTIONS,
            timeouts: Timeouts::default(),
        })
    }

    /// Listens for monitoring; `None` if the settings name no address for it.
    pub fn for_metrics(config: &Config) -> Result<Option<Self>, ListenError> {
        if config.metrics_listen.is_empty() {
            return Ok(None);
        }
        let addresses = config.metrics_listen.iter();
        let listeners =
            addresses.map(|address| Listener::bind(*address, &mut Sockets::default(), None));
        Ok(Some(Self {
            listeners: listeners.collect::<Result<_, _>>()?,
            addresses: Arc::new(ClientAddresses::new(config.trusted_proxies.clone())),
            connections: MAX_METRICS_CONNECTIONS,
            gauge: "connections of monitoring",
            timeouts: Timeouts::default(),
        }))
    }

    /// The addresses of the listeners that have one, those without TLS first. Instead of port 0 they have the
    /// port that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.iter();
        listeners.filter_map(Listener::address).collect()
    }

    /// Accepts connections and answers their requests with `gate` until the server stops; then waits for
    /// running requests, at most for [`Timeouts::shutdown`].
    pub async fn serve(
        self,
        executor: &Executor,
        gate: Arc<Gate>,
        gauges: Arc<Gauges>,
        stopping: Stopping,
    ) {
        let slots = ConnectionSlots::new(self.connections, self.addresses);
        let counted = slots.clone();
        gauges.add(Kind::Connections, self.gauge, move || counted.usage());
        let (acceptor, open) =
            Acceptor::new(executor, gate, stopping.clone(), self.timeouts, slots);
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| executor.spawn(accept(listener, acceptor.clone())))
            .collect();
        stopping.wait().await;
        for task in accepting {
            task.cancel().await;
        }
        drop(acceptor);
        open.all_closed(self.timeouts.shutdown).await;
    }
}

impl Listener {
    fn bind(
        address: SocketAddr,
        sockets: &mut Sockets,
        certificate: Option<Certificate>,
    ) -> Result<Self, ListenError> {
        let bound = sockets
            .take(address)
            .map_or_else(|| TcpListener::bind(address), Ok)
            .and_then(|socket| Ok((socket.local_addr()?, Async::new(socket)?)));
        match bound {
            Ok((address, socket)) => Ok(Self {
                socket: Socket::Tcp(socket, address),
                certificate,
            }),
            Err(error) => Err(ListenError::Bind { address, error }),
        }
    }

    fn bind_path(path: &Path) -> Result<Self, ListenError> {
        let socket = UnixSocket::bind(path).map_err(|error| ListenError::BindPath {
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            socket: Socket::Unix(socket),
            certificate: None,
        })
    }

    fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(_, address) => Some(*address),
            Socket::Unix(_) => None,
        }
    }

    async fn accept(&self) -> io::Result<(Stream, IpAddr)> {
        match &self.socket {
            Socket::Tcp(socket, _) => {
                let (stream, address) = socket.accept().await?;
                // Answers are written whole; waiting for more to send with them only delays.
                let _ = stream.get_ref().set_nodelay(true);
                Ok((Stream::Plain(stream), address.ip()))
            }
            Socket::Unix(socket) => Ok((Stream::Unix(socket.accept().await?), UNIX_PEER)),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(socket) => socket.path().display().fmt(f),
        }
    }
}

/// What listeners share.
pub(super) struct Acceptor {
    executor: Executor,
    gate: Arc<Gate>,
    stopping: Stopping,
    timeouts: Timeouts,
    slots: Arc<ConnectionSlots>,
    /// Every connection holds a clone. The channel closes when the last one is dropped.
    alive: Sender<Infallible>,
}

/// The connections that are open.
pub(super) struct OpenConnections(Receiver<Infallible>);

impl OpenConnections {
    /// Waits until the acceptor and all its connections are gone, at most for `timeout`.
    pub(super) async fn all_closed(self, timeout: Duration) {
        let all_ended = async {
            // Nothing is ever sent: this returns when the last connection is gone.
            let _ = self.0.recv().await;
        };
        let grace = async {
            Timer::after(timeout).await;
            log::info!("stopping; requests that are still running are cut off");
        };
        future::or(all_ended, grace).await;
    }
}

impl Acceptor {
    pub(super) fn new(
        executor: &Executor,
        gate: Arc<Gate>,
        stopping: Stopping,
        timeouts: Timeouts,
        slots: Arc<ConnectionSlots>,
    ) -> (Arc<Self>, OpenConnections) {
        let (alive, all_dropped) = channel::bounded(1);
        let acceptor = Self {
            executor: executor.clone(),
            gate,
            stopping,
            timeouts,
            slots,
            alive,
        };
        (Arc::new(acceptor), OpenConnections(all_dropped))
    }

    /// Serves a connection, or closes it if it gets no slot.
    pub(super) fn serve(&self, stream: Stream, address: IpAddr, certificate: Option<Certificate>) {
        let Some((slot, closed)) = self.slots.acquire(address) else {
            log::debug!("there are too many connections for {address}");
            return;
        };
        let connection = Connection {
            stream,
            address,
            certificate,
            slot: Arc::new(slot),
            closed,
            gate: self.gate.clone(),
            timeouts: self.timeouts,
            stopping: self.stopping.clone(),
        };
        let alive = self.alive.clone();
        let serve = async move {
            connection.serve().await;
            drop(alive);
        };
        self.executor.spawn(serve).detach();
    }
}

async fn accept(listener: Listener, acceptor: Arc<Acceptor>) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                acceptor.serve(stream, address, listener.certificate.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Most likely out of file descriptors, until another connection closes.
                log::warn!(
                    "cannot accept a connection on {}, trying again in a second: {error}",
                    listener.socket
                );
                Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}
