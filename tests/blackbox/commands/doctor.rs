//! `hearth doctor`; what it finds is in `tests/it/doctor`.

use std::{
    fs::{self, File},
    io::Write,
};

use rustix::process::Signal;

use super::Owner;
use crate::media::start_on_small_disk;

#[test]
fn the_doctor_looks_at_a_running_server_and_at_a_stopped_one() {
    let owner = Owner::new();
    let server = owner.start();
    let running = owner.json(&["doctor"]);
    let checks = |report: &serde_json::Value| -> Vec<String> {
        let findings = report["findings"].as_array().unwrap().iter();
        findings
            .map(|it| it["check"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(running["green"], true, "{running}");
    assert!(checks(&running).contains(&"memory".to_owned()), "{running}");
    let printed = owner.run(&["doctor"]);
    assert!(printed.contains("Only this machine can reach"), "{printed}");
    assert!(server.stop(Signal::TERM).unwrap().success());
    let stopped = owner.json(&["doctor"]);
    assert_eq!(stopped["green"], true, "{stopped}");
    assert!(checks(&stopped).contains(&"disk".to_owned()), "{stopped}");
    assert!(
        !checks(&stopped).contains(&"memory".to_owned()),
        "{stopped}"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_doctor_exits_with_1_if_something_is_wrong_and_says_what_to_do() {
    let owner = Owner::new();
    let Some(server) = start_on_small_disk(owner.path(), 96) else {
        return;
    };
    // Where the data are in the mount namespace of the server.
    let data = format!("/proc/{}/root{}/data", server.pid(), owner.path().display());
    let settings = format!("server_name = \"localhost\"\ndata_dir = {data:?}\n");
    fs::write(owner.path().join("hearth.toml"), settings).unwrap();
    owner.run(&["doctor"]);
    let mut fill = File::create(format!("{data}/fill")).unwrap();
    while fill.write_all(&[1; 64 << 10]).is_ok() {}
    fill.set_len(fill.metadata().unwrap().len() - (1 << 20))
        .unwrap();
    let output = owner.output(&["doctor"], "");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let first = printed.lines().next().unwrap();
    assert!(first.starts_with("WRONG    disk"), "{printed}");
    assert!(printed.contains("Make room on it"), "{printed}");
}
