//! `hearth setup`.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::{Child, Command},
};

use rustix::{
    process::{Signal, geteuid},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};

use super::{Owner, log_in};
use crate::common::server::{Server, command, free_port};

const NOBODY: u32 = 65534;

impl Owner {
    /// The arguments of a set-up in this directory, for a server that listens on `port`.
    fn setup(&self, port: u16, more: &[&str]) -> Vec<String> {
        let data = self.path().join("data");
        let fixed = [
            "setup".to_owned(),
            "--data-dir".to_owned(),
            data.display().to_string(),
            "--set".to_owned(),
            format!("listen = [\"127.0.0.1:{port}\"]"),
        ];
        let more = more.iter().map(ToString::to_string);
        fixed.into_iter().chain(more).collect()
    }

    fn settings(&self) -> String {
        fs::read_to_string(self.path().join("hearth.toml")).unwrap()
    }

    /// The server with the settings that are there.
    fn serve(&self, port: u16) -> Server {
        Server::start_as_is(command(), self.path(), port).unwrap()
    }
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What follows `label` in a line of what was printed.
fn after<'a>(printed: &'a str, label: &str) -> &'a str {
    let rest = printed.split_once(label).expect(label).1;
    rest.split_whitespace().next().unwrap()
}

/// A command at a terminal of its own.
struct AtTerminal {
    child: Child,
    keyboard: File,
    shown: String,
}

impl AtTerminal {
    fn start(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let controller = openpt(flags).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let path = Path::new(name.to_str().unwrap()).to_owned();
        let terminal = || File::options().read(true).write(true).open(&path).unwrap();
        let child = command
            .stdin(terminal())
            .stdout(terminal())
            .stderr(terminal())
            .spawn()
            .unwrap();
        Self {
            child,
            keyboard: controller.into(),
            shown: String::new(),
        }
    }

    fn wait_for(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let read = self.keyboard.read(&mut buffer);
            let count = read.unwrap_or_else(|_| panic!("no {text:?} in {}", self.shown));
            self.shown += &String::from_utf8_lossy(&buffer[..count]);
        }
    }

    /// Waits for `question` and answers it.
    fn answer(&mut self, question: &str, answer: &str) {
        self.wait_for(question);
        self.shown.clear();
        self.keyboard.write_all(answer.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        let modes = tcgetattr(&self.keyboard).unwrap().local_modes;
        modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }
}

#[test]
fn setup_by_options_makes_a_server_with_an_administrator() {
    let owner = Owner::new();
    // As the package leaves it: all is commented out, so there is nothing to ask about.
    let example = include_str!("../../../src/config/hearth.example.toml");
    fs::write(owner.path().join("hearth.toml"), example).unwrap();
    let port = free_port().unwrap();
    let arguments = owner.setup(
        port,
        &[
            "--yes",
            "--name",
            "localhost",
            "--user",
            "alice",
            "--registration",
            "closed",
        ],
    );
    let printed = owner.run(&strs(&arguments));
    assert!(printed.contains("@alice:localhost"), "{printed}");
    let password = after(&printed, "password    ");
    let server = owner.serve(port);
    assert_eq!(log_in(server.port, "alice", password).status, 200);
    let list = owner.json(&["user", "list"]);
    assert_eq!(list["users"][0]["admin"], true);
    assert!(server.stop(Signal::TERM).unwrap().success());
}

#[test]
fn setup_tells_what_a_web_site_and_a_proxy_have_to_do() {
    let owner = Owner::new();
    let port = free_port().unwrap();
    let url = "https://matrix.example.invalid";
    let more = [
        "--yes",
        "--name",
        "example.invalid",
        "--url",
        url,
        "--proxy",
        "--memory",
        "64M",
    ];
    let printed = owner.run(&strs(&owner.setup(port, &more)));
    for expected in [
        "matrix.example.invalid.  A ",
        "https://example.invalid/.well-known/matrix/server",
        "{\"m.server\":\"matrix.example.invalid:443\"}",
        "{\"m.homeserver\":{\"base_url\":\"https://matrix.example.invalid\"}}",
        "Access-Control-Allow-Origin: *",
        &format!("http://127.0.0.1:{port}"),
        "homeserver  example.invalid",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let settings = owner.settings();
    for expected in [
        "server_name = \"example.invalid\"",
        "public_url = \"https://matrix.example.invalid\"",
        "registration = \"closed\"",
        "memory = \"64M\"",
        "disk = \"",
    ] {
        assert!(settings.contains(expected), "{expected}: {settings}");
    }
}

#[test]
fn setup_with_a_certificate_in_files_says_which_port_to_forward() {
    let owner = Owner::new();
    let port = free_port().unwrap();
    let path = |name: &str| owner.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key, data) = (path("certificate.pem"), path("key.pem"), path("data"));
    let made = rcgen::generate_simple_self_signed(["example.invalid".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let settings = [
        "listen = []".to_owned(),
        format!("tls_listen = [\"127.0.0.1:{port}\"]"),
        format!("tls_certificate = {certificate:?}"),
        format!("tls_key = {key:?}"),
    ];
    let mut arguments = vec![
        "setup",
        "--yes",
        "--data-dir",
        &data,
        "--no-start",
        "--no-account",
        "--name",
        "example.invalid",
        "--proxy",
    ];
    for setting in &settings {
        arguments.extend(["--set", setting]);
    }
    let printed = owner.run(&arguments);
    let expected = format!("forward port 443 to port {port} of this computer");
    assert!(printed.contains(&expected), "{printed}");
    assert!(!printed.contains("reverse proxy"), "{printed}");
}

#[test]
fn setup_asks_for_what_the_options_do_not_say() {
    let owner = Owner::new();
    let port = free_port().unwrap();
    let arguments = owner.setup(port, &["--proxy"]);
    // A wrong name, one that is not right after all, the name, the web site, its address, memory, disk, who can
    // make an account, the user.
    let input = "no spaces\nwrong.invalid\nn\nexample.invalid\ny\ny\n\n96M\n\nopen\ntoken\nAlice\n";
    let output = owner.output(&strs(&arguments), input);
    let asked = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{asked}");
    for expected in [
        "is no server name",
        "@you:example.invalid. This name is for ever",
        "example.invalid has no address yet",
        "https://matrix.example.invalid",
    ] {
        assert!(asked.contains(expected), "{expected}: {asked}");
    }
    let settings = owner.settings();
    assert!(settings.contains("public_url = \"https://matrix.example.invalid\""));
    assert!(settings.contains("memory = \"96M\""), "{settings}");
    // Everybody can read the settings.
    assert!(!settings.contains("registration_token ="), "{settings}");
    let file = owner.path().join("credentials/registration_token");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let printed = String::from_utf8(output.stdout).unwrap();
    let token = after(&printed, "registration token ");
    assert_eq!(fs::read_to_string(file).unwrap(), token);
    assert!(printed.contains("@alice:example.invalid"), "{printed}");

    let output = Owner::new().output(&["setup"], "example.invalid\n");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("--yes"), "{error}");
}

#[test]
fn setup_replaces_no_settings_without_asking_and_goes_on_with_the_data_that_are_there() {
    let owner = Owner::new();
    let port = free_port().unwrap();
    let more = ["--yes", "--name", "localhost", "--user", "alice"];
    owner.run(&strs(&owner.setup(port, &more)));
    let before = owner.settings();
    let again = owner.setup(port, &[&more[..], &["--memory", "64M"]].concat());
    let error = owner.fails(&strs(&again));
    assert!(error.contains("--overwrite"), "{error}");
    let asked = owner.setup(port, &["--name", "localhost"]);
    let output = owner.output(&strs(&asked), "n\n");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(owner.settings(), before);

    let overwrite = [&again[..], &["--overwrite".to_owned()]].concat();
    let printed = owner.run(&strs(&overwrite));
    assert!(printed.contains("There are accounts already"), "{printed}");
    assert!(owner.settings().contains("memory = \"64M\""));
}

#[test]
fn setup_writes_nothing_with_invalid_settings() {
    for wrong in [
        &["--name", "no spaces"][..],
        &["--name", "example.invalid", "--acme", "you"],
        &["--name", "example.invalid", "--memory", "1M"],
        &["--name", "example.invalid", "--registration", "open"],
        &["--name", "example.invalid", "--set", "color = 1"],
        &[],
    ] {
        let owner = Owner::new();
        let arguments = owner.setup(free_port().unwrap(), &[&["--yes"], wrong].concat());
        let output = owner.output(&strs(&arguments), "");
        assert!(!output.status.success(), "{wrong:?}: {output:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
        let left = fs::read_dir(owner.path()).unwrap().count();
        assert_eq!(left, 0, "{wrong:?}");
    }
}

#[test]
fn setup_at_a_terminal_hides_the_password_and_shows_a_qr_code() {
    let owner = Owner::new();
    let arguments = owner.setup(free_port().unwrap(), &["--name", "localhost"]);
    let mut terminal = AtTerminal::start(owner.command(&strs(&arguments)));
    terminal.answer("Memory", "\n");
    terminal.answer("Disk", "\n");
    terminal.answer("make an account", "closed\n");
    terminal.answer("user name", "alice\n");
    terminal.answer("New password", "correct horse battery\n");
    terminal.answer("again: ", "correct horse battery\n");
    terminal.wait_for("Start the server");
    assert!(terminal.shown.contains("▀"), "{}", terminal.shown);
    assert!(
        !terminal.shown.contains("correct horse"),
        "{}",
        terminal.shown
    );
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes());
}

#[test]
fn ctrl_c_at_a_password_leaves_the_terminal_as_it_was() {
    let owner = Owner::new();
    let server = owner.start();
    let mut terminal = AtTerminal::start(owner.command(&["user", "add", "alice"]));
    assert!(terminal.echoes());
    terminal.answer("New password", "secret\u{3}");
    assert_eq!(terminal.child.wait().unwrap().code(), Some(1));
    assert!(terminal.echoes());
    let list = owner.json(&["user", "list"]);
    assert_eq!(list["users"].as_array().unwrap().len(), 0);
    drop(server);
}

/// Runs as root only: nobody else can make files of another user.
#[test]
fn what_root_makes_in_the_data_directory_belongs_to_its_owner() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give files to another user");
        return;
    }
    let owner = Owner::new();
    assert!(owner.start().stop(Signal::TERM).unwrap().success());
    let data = owner.path().join("data");
    let elsewhere = owner.path().join("elsewhere");
    fs::write(&elsewhere, "").unwrap();
    // What a command that was killed may have left.
    fs::create_dir_all(data.join("media/aa")).unwrap();
    fs::write(data.join("media/aa/file"), "").unwrap();
    // What the owner may have put there.
    fs::hard_link(&elsewhere, data.join("link")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, data.join("symlink")).unwrap();
    chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    owner.run(&["user", "add", "alice", "--generate"]);
    let mut pending = vec![data];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                pending.push(entry.path());
            }
            let is_linked = entry.file_name().to_str().unwrap().ends_with("link");
            let expected = if is_linked { 0 } else { NOBODY };
            assert_eq!(metadata.uid(), expected, "{}", entry.path().display());
        }
    }
    assert_eq!(elsewhere.metadata().unwrap().uid(), 0);
}
