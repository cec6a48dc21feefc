//! `hearth federation`.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Owner, client};
use crate::{
    common::{
        client_api::register,
        server::{Server, command, free_port},
    },
    media::wait_until,
};

#[test]
fn a_server_that_does_not_answer_is_named_with_its_error_and_tried_again_on_request() {
    let owner = Owner::new();
    let settings = "allow_private_addresses = true";
    let port = free_port().unwrap();
    let server = Server::start_with(command(), owner.path(), port, settings).unwrap();
    let alice = register(port, "alice").unwrap();
    // Nobody listens there.
    let unreachable = format!("127.0.0.1:{}", free_port().unwrap());
    let message = json!({ "messages": { format!("@bob:{unreachable}"): { "DEVICE": {} } } });
    let path = "/_matrix/client/v3/sendToDevice/m.test/1";
    let sent = client(port, &alice).request("PUT", path, Some(&message));
    assert_eq!(sent.unwrap().status, 200);
    let status = || owner.json(&["federation", "status"]);
    wait_until(|| status()["failing"] == 1);
    let shown = owner.json(&["federation", "show", &unreachable]);
    assert!(
        shown["last_error"]
            .as_str()
            .is_some_and(|error| !error.is_empty()),
        "{shown}"
    );
    assert_eq!(shown["last_success_ts"], json!(null));
    assert!(
        shown["retry_at_ts"].is_u64() && shown["unreachable_since_ts"].is_u64(),
        "{shown}"
    );
    let printed = owner.run(&["federation", "status", "--failing"]);
    assert!(printed.contains(&unreachable), "{printed}");
    assert!(
        printed.contains("1 servers, of which 1 do not answer"),
        "{printed}"
    );
    owner.run(&["federation", "retry", &unreachable]);
    let failed = |shown: &Value| shown["last_failure_ts"].as_u64();
    wait_until(|| failed(&owner.json(&["federation", "show", &unreachable])) > failed(&shown));

    assert!(server.stop(Signal::TERM).unwrap().success());
    // Nothing is sent by a command on a stopped server, so what it changes stays.
    owner.run(&["federation", "retry", &unreachable]);
    let shown = owner.json(&["federation", "show", &unreachable]);
    assert_eq!(shown["retry_at_ts"], json!(null), "{shown}");
    // How it went is known although the server was restarted.
    assert!(
        shown["last_error"].is_string() && failed(&shown).is_some(),
        "{shown}"
    );
    assert_eq!(status()["failing"], 0);
    for operation in ["show", "retry"] {
        let error = owner.fails(&["federation", operation, "unknown.example"]);
        assert!(error.contains("hearth federation status"), "{error}");
        owner.fails(&["federation", operation, "not a name"]);
    }
}
