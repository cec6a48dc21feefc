//! A Unix socket for a reverse proxy.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
};

use smol::Async;

/// Its file is removed when this is dropped.
pub(super) struct UnixSocket {
    socket: Async<UnixListener>,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at `path`, for everybody who can enter its directory, as on a port of this machine: a proxy runs as
    /// another user. A socket on which nobody listens any more is replaced.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Async::<UnixListener>::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    pub(super) async fn accept(&self) -> io::Result<Async<UnixStream>> {
        Ok(self.socket.accept().await?.0)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // The next start removes it too.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other(
                "there is a file that is no socket; remove it, or set another `listen`",
            ));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other(
            "another program does; if hearth is running already, stop it first, else set another `listen`",
        )),
    }
}
