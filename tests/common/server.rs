//! Starts the binary under test with a configuration, a directory and a port of its own.

use std::{
    fs::{self, File},
    io,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::http::Client;

/// How long a start may take: a database that was killed in the middle of traffic is repaired first.
const START: Duration = Duration::from_secs(180);

/// How often a starting server is asked whether it answers yet.
const ASK: Duration = Duration::from_micros(200);

/// The binary of this build, or the one that `HEARTH_BINARY` names.
pub fn command() -> Command {
    let binary = std::env::var_os("HEARTH_BINARY");
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_hearth").into()));
    command.stdin(Stdio::null());
    command
}

/// A port that is free now.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A started server; dropping it kills it.
pub struct Server {
    /// The port on 127.0.0.1 on which it answers.
    pub port: u16,
    /// How long it took from the start of the process to the first answered request.
    pub took: Duration,
    child: Child,
}

impl Server {
    /// Starts a server on the data in `directory` and waits until it answers.
    pub fn start(directory: &Path) -> io::Result<Server> {
        Self::start_with(command(), directory, free_port()?, "")
    }

    /// Starts a server with a command of its own, to answer on `port`, and with these lines in its
    /// configuration beside the usual ones.
    pub fn start_with(
        mut command: Command,
        directory: &Path,
        port: u16,
        settings: &str,
    ) -> io::Result<Server> {
        let config = directory.join("hearth.toml");
        let data = directory.join("data");
        let name = match settings.contains("server_name") {
            true => "",
            false => "server_name = \"localhost\"\n",
        };
        fs::write(
            &config,
            format!(
                "{name}data_dir = {data:?}\nlisten = [\"127.0.0.1:{port}\"]\n\
                 registration = \"open\"\nrate_limits = false\n{settings}"
            ),
        )?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let begun = Instant::now();
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Server {
            port,
            took: Duration::ZERO,
            child,
        };
        while !server.answers() {
            if let Some(status) = server.child.try_wait()? {
                let log = fs::read_to_string(directory.join("log"))?;
                return Err(io::Error::other(format!(
                    "it ended instead: {status}\n{log}"
                )));
            }
            if begun.elapsed() > START {
                return Err(io::Error::other("it does not answer"));
            }
            thread::sleep(ASK);
        }
        server.took = begun.elapsed();
        Ok(server)
    }

    fn answers(&self) -> bool {
        Client::connect(self.port, None)
            .and_then(|mut client| client.call("GET", "/_matrix/client/versions", None))
            .is_ok_and(|answer| answer.status == 200)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: what a power cut leaves of a process.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// SIGTERM, as an init system stops it, or another signal.
    pub fn stop(mut self, signal: Signal) -> io::Result<ExitStatus> {
        let process = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        kill_process(process.expect("Linux gave this id"), signal)?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has ended, as it should have.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
