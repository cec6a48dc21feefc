//! The socket in the data directory, through which the commands of the owner reach the running server.

use std::{
    fs::{self, Permissions},
    io,
    net::{IpAddr, Ipv4Addr},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{net::sockopt::socket_peercred, process::geteuid};
use smol::{Async, Timer};

use super::{
    connection_slots::ConnectionSlots, edge::Edge, gate::Gate, limits::Timeouts, listen::Acceptor,
    peer::ClientAddresses, stream::Stream,
};
use crate::{config::TrustedProxies, executor::Executor, stop::Stopping};

const MAX_CONNECTIONS: usize = 32;
/// What the address of a socket has room for.
const MAX_PATH_BYTES: usize = 107;
/// The address of a client that has none.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The path of the socket in a data directory.
pub fn admin_socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("hearth.sock")
}

/// Whether `stream` leads to a server whose data are in `data_dir`: one of their owner, of root, or of the user
/// whom this process runs as. Somebody else may have put a socket there.
pub fn is_admin_socket_of(stream: &Async<UnixStream>, data_dir: &Path) -> io::Result<bool> {
    let peer = socket_peercred(stream)?.uid;
    Ok(is_own(stream) || peer.as_raw() == fs::metadata(data_dir)?.uid())
}

/// Whether a server is running whose data are in `data_dir`.
pub fn is_server_running(data_dir: &Path) -> bool {
    UnixStream::connect(admin_socket_path(data_dir)).is_ok()
}

/// A socket for the user whom this process runs as, and root.
pub struct AdminSocket {
    socket: Async<UnixListener>,
    path: PathBuf,
}

impl AdminSocket {
    /// Listens in `data_dir`, in place of a socket that another run has left: the caller holds the lock of the
    /// database, so no other process listens there.
    pub fn bind(data_dir: &Path) -> io::Result<Self> {
        let path = admin_socket_path(data_dir);
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(io::Error::other(format!(
                "the path of a socket can have {MAX_PATH_BYTES} bytes; choose a shorter `data_dir`"
            )));
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Async::<UnixListener>::bind(&path)?;
        // Who connects before this is refused by `is_own`.
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { socket, path })
    }

    /// Answers requests with `edge` until the server stops; then removes the socket.
    pub async fn serve(self, executor: &Executor, edge: Edge, stopping: Stopping) {
        let gate = Arc::new(Gate::default());
        gate.open(edge);
        let addresses = Arc::new(ClientAddresses::new(TrustedProxies::default()));
        let slots = ConnectionSlots::new(MAX_CONNECTIONS, addresses);
        let timeouts = Timeouts::default();
        let (acceptor, open) = Acceptor::new(executor, gate, stopping.clone(), timeouts, slots);
        let Self { socket, path } = self;
        let accepting = executor.spawn(accept(socket, acceptor));
        stopping.wait().await;
        accepting.cancel().await;
        // The next start removes it too.
        let _ = fs::remove_file(path);
        open.all_closed(timeouts.shutdown).await;
    }
}

async fn accept(socket: Async<UnixListener>, acceptor: Arc<Acceptor>) {
    loop {
        match socket.accept().await {
            Ok((stream, _)) if is_own(&stream) => {
                acceptor.serve(Stream::Unix(stream), ADDRESS, None);
            }
            Ok(_) => log::warn!("a process of another user tried to use the socket for commands"),
            Err(error) => {
                log::warn!("cannot accept a command, trying again in a second: {error}");
                Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Whether the process at the other end runs as root, or as the same user as this one.
fn is_own(stream: &Async<UnixStream>) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == geteuid())
}
