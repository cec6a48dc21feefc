//! The program as it is started.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

fn hearth() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hearth"))
}

/// Exit code and standard error of `hearth serve` with these settings.
fn refusal(settings: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("hearth.toml");
    fs::write(&config, settings).unwrap();
    let output = hearth()
        .args(["serve", "--config"])
        .arg(&config)
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[test]
fn it_tells_its_version() {
    let output = hearth().arg("version").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("hearth {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn it_refuses_settings_that_make_no_sense_and_says_what_to_do() {
    let (code, said) = refusal("servername = \"example.org\"");
    assert_eq!(code, Some(2));
    assert!(said.contains("did you mean `server_name`?"), "{said}");

    let (code, said) = refusal("server_name = \"example.org\"\nregistration = \"open\"");
    assert_eq!(code, Some(2));
    assert!(said.contains("`registration = \"token\"`"), "{said}");

    let output = hearth()
        .args(["serve", "--config", "/nowhere.toml"])
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere.toml"));
}

#[test]
fn it_says_where_it_listens_when_it_cannot() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let (code, said) = refusal(&format!("listen = [\"{address}\"]"));
    assert_eq!(code, Some(1));
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn it_stops_when_it_is_asked_to() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("hearth.toml");
        fs::write(&config, "listen = [\"127.0.0.1:0\"]").unwrap();
        let mut child = hearth()
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut greeting = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut greeting).unwrap();
        assert_eq!(greeting, "hearth serves localhost\n");
        let id = i32::try_from(child.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(directory.path().join("hearth-data/hearth.redb").exists());
    }
}
