//! The socket in the data directory, through which the commands of the owner reach the running server.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::{
        fd::OwnedFd,
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    fs::Mode,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt::socket_peercred},
    process::geteuid,
};
use smol::{Async, Timer};

use super::{
    connection_slots::ConnectionSlots, edge::Edge, gate::Gate, limits::Timeouts, listen::Acceptor,
    peer::ClientAddresses, stream::Stream,
};
use crate::{config::TrustedProxies, executor::Executor, stop::Stopping};

const MAX_CONNECTIONS: usize = 32;
/// As that of the standard library.
const BACKLOG: i32 = 128;
/// What the address of a socket has room for.
const MAX_PATH_BYTES: usize = 107;
/// The address of a client that has none.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The path of the socket in a data directory.
pub fn admin_socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("hearth.sock")
}

/// Whether the socket in `data_dir` is of a server: of the owner of the data, of root, or of the user whom this
/// process runs as. Somebody else may have put one there.
///
/// The credentials of the peer would say it too, but not to a process in another PID namespace, such as that of a
/// container: there the server has no process id.
pub fn is_own_admin_socket(data_dir: &Path) -> io::Result<bool> {
    let owner = fs::symlink_metadata(admin_socket_path(data_dir))?.uid();
    let users = [0, geteuid().as_raw(), fs::metadata(data_dir)?.uid()];
    Ok(users.contains(&owner))
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
        let socket = Async::new(UnixListener::from(bind_private(&path)?))?;
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
            Ok((stream, _)) if is_of_another_user(&stream) => {
                log::warn!("a process of another user tried to use the socket for commands");
            }
            Ok((stream, _)) => acceptor.serve(Stream::Unix(stream), ADDRESS, None),
            Err(error) => {
                log::warn!("cannot accept a command, trying again in a second: {error}");
                Timer::after(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Whether the process at the other end is known to run as another user than root or that of this process: somebody
/// has changed the mode of the socket. Of a process in another PID namespace, which has no id here, nothing is known.
fn is_of_another_user(stream: &Async<UnixStream>) -> bool {
    socket_peercred(stream).is_ok_and(|peer| !peer.uid.is_root() && peer.uid != geteuid())
}

/// A listening socket to which only root and this user can connect, from its beginning: the file gets the mode that
/// the socket has before, and the kernel asks for the right to write it (unix(7)).
fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{bind_private, is_own_admin_socket};

    #[test]
    fn the_socket_is_for_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = super::admin_socket_path(directory.path());
        let _socket = bind_private(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(is_own_admin_socket(directory.path()).unwrap());
    }
}
