use http::Method;
use serde_json::{Value, json};

use crate::home::{Answer, Home, PASSWORD, refused};

const PASSWORD_PATH: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE: &str = "/_matrix/client/v3/account/deactivate";
const NEW: &str = "a better password";

fn log_in(home: &Home, user: &str, password: &str) -> Answer {
    home.ask(
        Method::POST,
        "/_matrix/client/v3/login",
        json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }),
    )
}

#[test]
fn a_new_password_replaces_the_old_one_and_ends_other_devices() {
    let home = Home::new();
    let here = home.register("alice");
    let there = home.log_in("alice");
    let body = json!({"new_password": NEW});
    let changed = here.ask_with_password(Method::POST, PASSWORD_PATH, body);
    assert_eq!(changed, (200, json!({})));
    assert!(here.is_logged_in());
    assert!(!there.is_logged_in());
    refused(&log_in(&home, "alice", PASSWORD), 403, "M_FORBIDDEN");
    assert_eq!(log_in(&home, "alice", NEW).0, 200);
}

#[test]
fn other_devices_stay_if_the_user_wants() {
    let home = Home::new();
    let here = home.register("alice");
    let there = home.log_in("alice");
    let body = json!({"new_password": NEW, "logout_devices": false});
    let changed = here.ask_with_password(Method::POST, PASSWORD_PATH, body);
    assert_eq!(changed.0, 200);
    assert!(here.is_logged_in() && there.is_logged_in());
}

#[test]
fn a_password_is_changed_only_with_a_session_and_to_a_good_one() {
    let home = Home::new();
    let alice = home.register("alice");
    for (body, errcode) in [
        (json!({"new_password": "short"}), "M_WEAK_PASSWORD"),
        (json!({}), "M_MISSING_PARAM"),
    ] {
        refused(&alice.post(PASSWORD_PATH, body), 400, errcode);
    }
    let answer = home.ask(Method::POST, PASSWORD_PATH, json!({"new_password": NEW}));
    refused(&answer, 401, "M_MISSING_TOKEN");
    assert_eq!(log_in(&home, "alice", PASSWORD).0, 200);
}

#[test]
fn a_deactivated_account_is_over() {
    let mut home = Home::new();
    {
        let alice = home.register("alice");
        let other = home.log_in("alice");
        let (status, body) = alice.ask_with_password(Method::POST, DEACTIVATE, json!({}));
        assert_eq!(
            (status, body),
            (200, json!({"id_server_unbind_result": "success"}))
        );
        assert!(!alice.is_logged_in() && !other.is_logged_in());
    }
    home.restart();
    refused(&log_in(&home, "alice", PASSWORD), 403, "M_FORBIDDEN");
    let again = home.ask(
        Method::POST,
        "/_matrix/client/v3/register",
        json!({"username": "alice", "password": PASSWORD, "auth": {"type": "m.login.dummy"}}),
    );
    refused(&again, 400, "M_USER_IN_USE");
    let answer = home.ask(Method::POST, DEACTIVATE, json!({}));
    refused(&answer, 401, "M_MISSING_TOKEN");
}

#[test]
fn erasure_takes_the_profile() {
    let home = Home::new();
    for (name, erase, left) in [("alice", false, 200), ("bob", true, 404)] {
        let person = home.register(name);
        let path = format!("/_matrix/client/v3/profile/{}/displayname", person.user_id);
        person.put(&path, json!({"displayname": name}));
        let body = json!({"erase": erase});
        assert_eq!(
            person.ask_with_password(Method::POST, DEACTIVATE, body).0,
            200
        );
        assert_eq!(home.ask(Method::GET, &path, Value::Null).0, left);
    }
}

#[test]
fn an_account_has_no_addresses() {
    let home = Home::new();
    let alice = home.register("alice");
    assert_eq!(
        alice.get("/_matrix/client/v3/account/3pid"),
        (200, json!({"threepids": []}))
    );
}

#[test]
fn no_answer_and_no_file_shows_a_password_or_its_hash() {
    let home = Home::new();
    let alice = home.register("alice");
    let mut shown = String::new();
    for path in ["account/whoami", "devices", "profile/@alice:localhost"] {
        shown += &alice
            .get(&format!("/_matrix/client/v3/{path}"))
            .1
            .to_string();
    }
    assert!(!shown.contains("argon2") && !shown.contains(PASSWORD));
    let file = std::fs::read(home.directory().join("data/hearth.redb")).unwrap();
    let holds = |text: &str| file.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("@alice:localhost"));
    assert!(!holds(PASSWORD));
    assert!(!holds(&alice.token));
}
