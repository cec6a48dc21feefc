//! Runs the binary under test with its own configuration, directory and port.

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

/// Includes the repair of a large database after SIGKILL.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(180);

const POLL_INTERVAL: Duration = Duration::from_micros(200);

/// The binary of this build, or the one that `HEARTH_BINARY` names.
pub fn command() -> Command {
    let binary = std::env::var_os("HEARTH_BINARY");
    let mut command = Command::new(binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_hearth").into()));
    command.stdin(Stdio::null());
    command
}

pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// A server process. Dropping it sends SIGKILL.
pub struct Server {
    /// On 127.0.0.1.
    pub port: u16,
    /// From the start of the process to the first response.
    pub startup_time: Duration,
    child: Child,
}

impl Server {
    /// Starts a server on the data in `directory` and waits for its first response.
    pub fn start(directory: &Path) -> io::Result<Server> {
        Self::start_with(command(), directory, free_port()?, "")
    }

    /// Like [`Self::start`], with this command and port, and with more lines in the configuration.
    pub fn start_with(
        command: Command,
        directory: &Path,
        port: u16,
        settings: &str,
    ) -> io::Result<Server> {
        let config = directory.join("hearth.toml");
        let data = directory.join("data");
        let name = match settings.contains("server_name = ") {
            true => "",
            false => "server_name = \"localhost\"\n",
        };
        let registration = match settings.contains("registration = ") {
            true => "",
            false => "registration = \"open\"\n",
        };
        fs::write(
            &config,
            format!(
                "{name}data_dir = {data:?}\nlisten = [\"127.0.0.1:{port}\"]\n\
                 {registration}rate_limits = false\n{settings}"
            ),
        )?;
        Self::start_as_is(command, directory, port)
    }

    /// Like [`Self::start_with`], with the configuration that is in `directory`.
    pub fn start_as_is(mut command: Command, directory: &Path, port: u16) -> io::Result<Server> {
        let config = directory.join("hearth.toml");
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let start = Instant::now();
        let child = command
            .args(["serve", "--config"])
            .arg(config)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Server {
            port,
            startup_time: Duration::ZERO,
            child,
        };
        while !server.responds() {
            if let Some(status) = server.child.try_wait()? {
                let log = fs::read_to_string(directory.join("log"))?;
                return Err(io::Error::other(format!(
                    "the server exited during startup: {status}\n{log}"
                )));
            }
            if start.elapsed() > STARTUP_TIMEOUT {
                return Err(io::Error::other("the server does not respond"));
            }
            thread::sleep(POLL_INTERVAL);
        }
        server.startup_time = start.elapsed();
        Ok(server)
    }

    fn responds(&self) -> bool {
        Client::connect(self.port, None)
            .and_then(|mut client| client.request("GET", "/_matrix/client/versions", None))
            .is_ok_and(|response| response.status == 200)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGKILL, which leaves the data as a power cut does.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Sends a signal that stops the server, and waits for its exit.
    pub fn stop(mut self, signal: Signal) -> io::Result<ExitStatus> {
        let process = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(process.expect("a valid process id"), signal)?;
        self.child.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if the process has exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
