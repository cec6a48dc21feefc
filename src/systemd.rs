//! Socket activation, credentials, notifications and the watchdog of systemd.
//!
//! All of it is controlled by environment variables; without them this module does nothing.
//! `systemd/` at the top has the units.
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

/// While the server starts, its timeout is extended by so much again and again.
const START_TIMEOUT_EXTENSION: Duration = Duration::from_secs(60);

/// The service manager.
#[derive(Debug)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn!(
                    "cannot notify systemd at {}, it may stop hearth: {error}",
                    name.display()
                );
                None
            }
        });
        Self {
            socket,
            watchdog: watchdog(),
        }
    }

    /// Runs `start`, and extends the start timeout meanwhile.
    pub async fn starting<T>(&self, start: impl Future<Output = T>) -> T {
        let extending = async {
            self.notify("STATUS=opening the database");
            loop {
                self.notify(&format!(
                    "EXTEND_TIMEOUT_USEC={}",
                    START_TIMEOUT_EXTENSION.as_micros()
                ));
                Timer::after(START_TIMEOUT_EXTENSION / 3).await;
            }
        };
        match self.socket {
            Some(_) => future::or(start, extending).await,
            None => start.await,
        }
    }

    pub fn ready(&self, status: &str) {
        self.notify(&format!("READY=1\nSTATUS={status}"));
    }

    /// Runs `run`, and notifies the watchdog meanwhile, if it is enabled.
    pub async fn watching<T>(&self, run: impl Future<Output = T>) -> T {
        let Some(interval) = self.watchdog else {
            return run.await;
        };
        let notifying = async {
            loop {
                self.notify("WATCHDOG=1");
                Timer::after(interval / 2).await;
            }
        };
        future::or(run, notifying).await
    }

    pub fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=stopping");
    }

    fn notify(&self, state: &str) {
        if let Some(socket) = &self.socket {
            // It does not block. If systemd does not read, the message is lost.
            if let Err(error) = socket.send(state.as_bytes()) {
                log::debug!("cannot notify systemd of {state:?}: {error}");
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
    let is_for_us = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(process::id()));
    let interval = number("WATCHDOG_USEC").filter(|interval| is_for_us && *interval > 0)?;
    Some(Duration::from_micros(interval))
}

/// Sockets on which systemd has listened since before the start.
#[derive(Debug, Default)]
pub struct Sockets(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Call it once, before there are threads. Fails if a socket is not a TCP socket.
    pub fn from_env() -> io::Result<Self> {
        let mut listen_fds = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..listen_fds.len() {
            sockets.extend(listen_fds.take_tcp_listener(index)?);
        }
        Self::new(sockets)
    }

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

    /// The address of a socket that has not been taken.
    pub fn remaining(&self) -> Option<SocketAddr> {
        self.0.first().map(|(address, _)| *address)
    }
}

pub fn credentials() -> Option<PathBuf> {
    env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
}

/// Whether standard error goes to the journal. (It may have been redirected since the variable was
/// set.)
pub fn journal_reads_stderr() -> bool {
    let stream = env::var_os("JOURNAL_STREAM");
    let stderr = rustix::fs::fstat(io::stderr());
    stderr.is_ok_and(|stderr| {
        let stderr = format!("{}:{}", stderr.st_dev, stderr.st_ino);
        stream == Some(OsString::from(stderr))
    })
}
