//! What systemd hands to a service that it starts, and what the service tells it.
//!
//! All of it stands in the environment, so whatever else starts hearth can do the same; where it
//! does not stand there, nothing here does anything. `systemd/` at the top has the units.
//! Source: sd_notify(3), sd_listen_fds(3), systemd.exec(5).

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process,
    time::Duration,
};

use listenfd::ListenFd;
use smol::{
    Timer,
    future::{self, Future},
};

/// A start may take this much longer than now, as long as it goes on.
const MORE_TIME: Duration = Duration::from_secs(60);

/// Whoever is told how the server is.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names, or nobody.
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!("cannot reach systemd at {}: {error}", name.display());
                None
            }
        });
        Self {
            socket,
            watchdog: watchdog(),
        }
    }

    /// Runs `start`, and asks for more time while it runs.
    pub async fn starting<T>(&self, start: impl Future<Output = T>) -> T {
        let asking = async {
            self.tell("STATUS=opening the database");
            loop {
                self.tell(&format!("EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros()));
                Timer::after(MORE_TIME / 3).await;
            }
        };
        match self.socket {
            Some(_) => future::or(start, asking).await,
            None => start.await,
        }
    }

    /// Says that the server serves, and what.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// Runs `run`, and says meanwhile that the thread is alive, as often as was asked for: nothing
    /// else wakes an idle server.
    pub async fn watching<T>(&self, run: impl Future<Output = T>) -> T {
        let Some(within) = self.watchdog else {
            return run.await;
        };
        let telling = async {
            loop {
                self.tell("WATCHDOG=1");
                Timer::after(within / 2).await;
            }
        };
        future::or(run, telling).await
    }

    /// Says that the server ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // It does not block the thread: systemd reads, or this is lost.
            if let Err(error) = socket.send(state.as_bytes()) {
                log::debug!("cannot tell systemd {state:?}: {error}");
            }
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(name)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(process::id()));
    let within = number("WATCHDOG_USEC").filter(|within| ours && *within > 0)?;
    Some(Duration::from_micros(within))
}

/// Sockets on which somebody listened for us before we started, so that nobody who came meanwhile
/// was turned away.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Those that the environment names. To be called once, before there are threads.
    ///
    /// # Errors
    /// If one of them is no TCP socket.
    pub fn from_env() -> io::Result<Self> {
        let mut handed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed.len() {
            sockets.extend(handed.take_tcp_listener(index)?);
        }
        Self::new(sockets)
    }

    /// These.
    ///
    /// # Errors
    /// If one of them has no address.
    pub fn new(sockets: Vec<TcpListener>) -> io::Result<Self> {
        let sockets = sockets.into_iter();
        let with_address = sockets.map(|socket| Ok((socket.local_addr()?, socket)));
        with_address.collect::<io::Result<_>>().map(Self)
    }

    /// The socket with this address.
    pub fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let index = self.0.iter().position(|(known, _)| *known == address)?;
        Some(self.0.swap_remove(index).1)
    }

    /// The address of a socket that nobody has taken.
    pub fn left(&self) -> Option<SocketAddr> {
        self.0.first().map(|(address, _)| *address)
    }
}

/// The directory with the credentials of this service.
pub fn credentials() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Whether the journal reads what is written to standard error. (It may have been redirected since
/// the variable was set.)
pub fn journal_reads_stderr() -> bool {
    let stream = env::var_os("JOURNAL_STREAM");
    let stderr = rustix::fs::fstat(io::stderr());
    stderr.is_ok_and(|stderr| {
        let stderr = format!("{}:{}", stderr.st_dev, stderr.st_ino);
        stream == Some(OsString::from(stderr))
    })
}
