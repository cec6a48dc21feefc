//! The listeners: who may connect, how many at once, and the orderly end.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use smol::{
    Async, Timer,
    channel::{self, Sender},
    future,
    lock::{Semaphore, SemaphoreGuardArc},
};

use super::{
    Edge,
    body::Unread,
    connection, cors,
    edge::Outcome,
    error::Refusal,
    households::{Households, Place},
    limits::{HOUSEHOLDS, Times},
    tls::{self, Certificate},
};
use crate::{config::Config, executor::Executor, pool::Pool, stop::Stopping, systemd::Sockets};

/// What the connections talk to: the edge, once the server is open, and 503 before and after.
#[derive(Debug, Default)]
pub struct Front(Mutex<Option<Edge>>);

impl Front {
    /// Serves with `edge` from here on.
    pub fn open(&self, edge: Edge) {
        *self.edge() = Some(edge);
    }

    /// Answers 503 from here on.
    pub fn shut(&self) {
        *self.edge() = None;
    }

    fn edge(&self) -> std::sync::MutexGuard<'_, Option<Edge>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn answer(&self, request: Request<Unread>, address: IpAddr) -> Outcome {
        let edge = self.edge().clone();
        if let Some(edge) = edge {
            return edge.answer(request, address).await;
        }
        let mut answer = Refusal::NotServing.answer();
        cors::allow(answer.headers_mut());
        let unread = Some(request.into_body());
        Outcome { answer, unread }
    }
}

/// Why nobody can connect.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address as it stands in the settings.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A socket was handed over, and whether it is for TLS is not known.
    #[error(
        "a socket for {0} was handed over, which is neither in `listen` nor in `tls_listen`; \
         hearth.socket and hearth.toml must name the same addresses"
    )]
    Handed(SocketAddr),
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] tls::Error),
}

/// Sockets that clients can already connect to, although nobody answers yet.
pub struct Listeners {
    listeners: Vec<Listener>,
    certificate: Option<Certificate>,
    pub(super) connections: usize,
    pub(super) times: Times,
}

struct Listener {
    socket: Async<TcpListener>,
    address: SocketAddr,
    certificate: Option<Certificate>,
}

impl Listeners {
    /// Listens where the settings say, on the sockets that were handed over for these addresses.
    ///
    /// # Errors
    /// If an address is taken or not ours, a socket is for no address, or the certificate cannot be
    /// used.
    pub fn bind(config: &Config, mut handed: Sockets, pool: &Pool) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        let certificate = config.tls.as_ref();
        let certificate = certificate.map(|tls| Certificate::load(tls, pool));
        let certificate = certificate.transpose()?;
        for &address in &config.listen {
            listeners.push(Listener::bind(address, &mut handed, None)?);
        }
        if let Some(tls) = &config.tls {
            for &address in &tls.listen {
                let certificate = certificate.clone();
                listeners.push(Listener::bind(address, &mut handed, certificate)?);
            }
        }
        if let Some(address) = handed.left() {
            return Err(ListenError::Handed(address));
        }
        Ok(Self {
            listeners,
            certificate,
            connections: config.memory.connections(),
            times: Times::default(),
        })
    }

    /// Where clients can connect: the plain listeners, then those with TLS. A port that was 0 in
    /// the settings is the one that the system chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.iter();
        listeners.map(|listener| listener.address).collect()
    }

    /// What is shown to whoever connects with TLS.
    pub fn certificate(&self) -> Option<Certificate> {
        self.certificate.clone()
    }

    /// Accepts connections and answers them with `front` until the server stops; then lets the
    /// running requests end, but not for ever.
    pub async fn serve(self, executor: &Executor, front: Arc<Front>, stopping: Stopping) {
        let (alive, ended) = channel::bounded(1);
        let door = Door {
            executor: executor.clone(),
            front,
            stopping: stopping.clone(),
            times: self.times,
            slots: Arc::new(Semaphore::new(self.connections)),
            households: Households::new(self.connections / HOUSEHOLDS),
            alive,
        };
        let door = Arc::new(door);
        let accepting: Vec<_> = self
            .listeners
            .into_iter()
            .map(|listener| executor.spawn(accept(listener, door.clone())))
            .collect();
        stopping.wait().await;
        for task in accepting {
            task.cancel().await;
        }
        drop(door);
        let all_ended = async {
            // Nothing is ever sent: this returns when the last connection is gone.
            let _ = ended.recv().await;
        };
        let grace = async {
            Timer::after(self.times.grace).await;
            log::warn!("stopping although some requests are still running");
        };
        future::or(all_ended, grace).await;
    }
}

impl Listener {
    fn bind(
        address: SocketAddr,
        handed: &mut Sockets,
        certificate: Option<Certificate>,
    ) -> Result<Self, ListenError> {
        let bound = handed
            .take(address)
            .map_or_else(|| TcpListener::bind(address), Ok)
            .and_then(|socket| Ok((socket.local_addr()?, Async::new(socket)?)));
        match bound {
            Ok((address, socket)) => Ok(Self {
                socket,
                address,
                certificate,
            }),
            Err(error) => Err(ListenError::Bind { address, error }),
        }
    }
}

/// What every connection passes through.
struct Door {
    executor: Executor,
    front: Arc<Front>,
    stopping: Stopping,
    times: Times,
    slots: Arc<Semaphore>,
    households: Arc<Households>,
    /// Held by every connection, so that its end is the end of all.
    alive: Sender<Infallible>,
}

/// Accepts while there are slots. Whoever comes when there are none waits in the system's queue.
async fn accept(listener: Listener, door: Arc<Door>) {
    loop {
        match listener.socket.accept().await {
            Ok((stream, address)) => {
                let slot = door.slots.acquire_arc().await;
                // Answers are written whole; waiting for more to send with them only delays.
                let _ = stream.get_ref().set_nodelay(true);
                match door.households.enter(address.ip()) {
                    Some(place) => door.welcome(&listener, stream, address.ip(), slot, place),
                    None => log::debug!("{} has too many connections", address.ip()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of file descriptors, most likely: somebody has to leave first.
                log::warn!("cannot accept a connection: {error}");
                Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Door {
    fn welcome(
        &self,
        listener: &Listener,
        stream: Async<std::net::TcpStream>,
        address: IpAddr,
        slot: SemaphoreGuardArc,
        place: Place,
    ) {
        let certificate = listener.certificate.clone();
        let serve = connection::serve(
            stream,
            certificate,
            address,
            self.front.clone(),
            self.times,
            self.stopping.clone(),
        );
        let alive = self.alive.clone();
        let serve = async move {
            serve.await;
            drop((slot, place, alive));
        };
        self.executor.spawn(serve).detach();
    }
}
