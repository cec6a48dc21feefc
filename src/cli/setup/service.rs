//! The service of systemd.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::geteuid;

use crate::{
    cli::config::SYSTEM_FILE,
    config::{CertificateSource, Config},
};

/// Where the unit has the data.
pub(super) const DATA_DIR: &str = "/var/lib/hearth";
/// `MemoryMax` of the unit.
const UNIT_MEMORY: usize = 256 << 20;
const UNIT: &str = "hearth.service";
/// systemd listens on port 443 for the service, which has no privileges.
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
            && UNIT_DIRECTORIES
                .iter()
                .any(|directory| Path::new(directory).join(UNIT).exists());
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
        let tls = config.tls.as_ref();
        let is_acme = tls.is_some_and(|tls| {
            matches!(tls.source, CertificateSource::Acme(_))
                && tls.listen.iter().any(|address| address.port() == 443)
        });
        // A running service has to end first: the socket could not listen where it does.
        systemctl(&["stop", UNIT])?;
        if is_acme {
            systemctl(&["enable", "--now", TLS_SOCKET])?;
        }
        systemctl(&["enable", "--now", UNIT])
    }
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
