//! The service of systemd.

use std::{
    fs, io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

use crate::{cli::config::SYSTEM_FILE, config::Config};

/// Where the unit has the data.
pub(super) const DATA_DIR: &str = "/var/lib/hearth";
/// `MemoryMax` of the unit.
const UNIT_MEMORY: usize = 256 << 20;
const UNIT: &str = "hearth.service";
/// systemd listens for the service, which has no privileges, at [`of_tls_socket`].
const TLS_SOCKET: &str = "hearth-tls.socket";
const UNIT_DIRECTORIES: [&str; 3] = [
    "/etc/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

pub(super) struct Service(());

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot run systemctl: {0}")]
    Run(io::Error),
    #[error(
        "`systemctl {0}` has failed. `journalctl -u hearth -n 30` says why; when that is mended, run \
         `hearth setup` again"
    )]
    Failed(String),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

impl Service {
    /// The service, if there is one that uses these files and this process may start it.
    pub(super) fn find(file: &Path, data_dir: &Path) -> Option<Self> {
        let is_there = geteuid().is_root()
            && Path::new("/run/systemd/system").is_dir()
            && file == Path::new(SYSTEM_FILE)
            && data_dir == Path::new(DATA_DIR)
            && has_unit(UNIT);
        is_there.then_some(Self(()))
    }

    /// Enables it and starts it with the new settings. Returns when it answers.
    pub(super) fn start(&self, config: &Config) -> Result<(), Error> {
        // Room for what is not on the heap, as in `Memory::of_cgroup`.
        let limit = config.memory.bytes() / 3 * 4;
        if limit > UNIT_MEMORY {
            let path = PathBuf::from("/etc/systemd/system/hearth.service.d/memory.conf");
            let text = format!("# By `hearth setup`.\n[Service]\nMemoryMax={limit}\n");
            let directory = path.parent().unwrap_or(&path);
            let written = fs::create_dir_all(directory).and_then(|()| fs::write(&path, text));
            written.map_err(|error| Error::Write { path, error })?;
            systemctl(&["daemon-reload"])?;
        }
        // A running service has to end first: the socket could not listen where it does.
        systemctl(&["stop", UNIT])?;
        if needs_tls_socket(config) {
            systemctl(&["enable", "--now", TLS_SOCKET])?;
        } else if has_unit(TLS_SOCKET) {
            // Of an earlier setup: hearth does not start with a socket that is not in the settings.
            systemctl(&["disable", "--now", TLS_SOCKET])?;
        }
        systemctl(&["enable", "--now", UNIT])
    }
}

/// The address of the unit.
fn of_tls_socket() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, 443).into()
}

fn needs_tls_socket(config: &Config) -> bool {
    let tls = config.tls.as_ref();
    tls.is_some_and(|tls| tls.listen.contains(&of_tls_socket()))
}

fn has_unit(name: &str) -> bool {
    let mut directories = UNIT_DIRECTORIES.iter();
    directories.any(|directory| Path::new(directory).join(name).exists())
}

fn systemctl(arguments: &[&str]) -> Result<(), Error> {
    let status = Command::new("systemctl")
        .arg("--quiet")
        .args(arguments)
        .status();
    match status.map_err(Error::Run)?.success() {
        true => Ok(()),
        false => Err(Error::Failed(arguments.join(" "))),
    }
}

#[cfg(test)]
mod tests {
    use super::needs_tls_socket;
    use crate::config::{Config, Settings};

    #[test]
    fn the_socket_for_tls_is_for_servers_that_listen_at_its_address() {
        let acme = "acme = \"you@example.org\"\n";
        let files = "tls_certificate = \"/a.pem\"\ntls_key = \"/b.pem\"\n";
        for (settings, is_needed) in [
            (acme.to_owned(), true),
            (format!("{files}tls_listen = [\"[::]:443\"]\n"), true),
            (format!("{files}tls_listen = [\"[::]:8448\"]\n"), false),
            (format!("{acme}tls_listen = [\"127.0.0.11:443\"]\n"), false),
            (String::new(), false),
        ] {
            let text = format!("server_name = \"example.org\"\n{settings}");
            let config = Config::try_from(Settings::parse(&text).unwrap()).unwrap();
            assert_eq!(needs_tls_socket(&config), is_needed, "{text}");
        }
    }
}
