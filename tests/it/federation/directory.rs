//! Remote aliases and the directories of other servers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hearth::protocol::ServerKey;
use http::{Method, Request};
use ruma::{CanonicalJsonObject, signatures::sign_json};
use serde_json::{Value, json};

use crate::{
    client_api::{create_room, percent_encode},
    mock_web_server::MockWebServer,
    test_server::{JsonResponse, TestServer, expect_error, expect_ok, parse},
};

/// A server that publishes its key and sends requests.
struct Requester {
    name: String,
    key: ServerKey,
}

impl Requester {
    fn new(here: &TestServer) -> Self {
        let key = ServerKey::generate();
        let published = Arc::new(Mutex::new(None));
        let response = published.clone();
        let server = MockWebServer::with_json(0, move |_| response.lock().expect("a lock").clone());
        let requester = Self {
            name: server.name(),
            key,
        };
        let public_key = requester.key.public_key().encode();
        let keys = requester.signed(json!({
            "server_name": requester.name,
            "verify_keys": { (requester.key.id().to_string()): { "key": public_key } },
            "old_verify_keys": {},
            "valid_until_ts": here.clock.now_ms() + 86_400_000,
        }));
        *published.lock().expect("a lock") = Some(keys.to_string().into_bytes());
        requester
    }

    fn signed(&self, object: Value) -> Value {
        let object = serde_json::from_value::<CanonicalJsonObject>(object);
        let mut object = object.expect("canonical JSON");
        sign_json(&self.name, &self.key, &mut object).expect("it can be signed");
        serde_json::to_value(object).expect("JSON")
    }

    /// The response of `here`; `scheme` begins the header with the signature.
    fn request(
        &self,
        here: &TestServer,
        (method, uri): (Method, &str),
        content: Option<Value>,
        scheme: &str,
    ) -> JsonResponse {
        let mut object = json!({
            "method": method.as_str(),
            "uri": uri,
            "origin": self.name,
            "destination": here.name(),
        });
        if let Some(content) = &content {
            object["content"] = content.clone();
        }
        let (origin, key) = (&self.name, self.key.id().to_string());
        let signature = &self.signed(object)["signatures"][origin][&key];
        let signature = signature.as_str().expect("a signature");
        let destination = here.name();
        let header = format!(
            r#"{scheme}origin="{origin}",destination="{destination}",key="{key}",sig="{signature}""#
        );
        let body = content.map_or_else(Vec::new, |content| content.to_string().into_bytes());
        let request = Request::builder().method(method).uri(uri);
        let request = request.header("authorization", header).body(body);
        let responses = here.respond_all(vec![request.expect("a valid request")]);
        parse(&responses[0])
    }
}

#[test]
fn other_servers_read_the_join_rule_of_every_room_in_the_directory() {
    let [here] = TestServer::federating();
    let alice = here.register("alice");
    create_room(&alice, json!({ "visibility": "public", "name": "one" }));
    let requester = Requester::new(&here);
    let path = "/_matrix/federation/v1/publicRooms";
    for (method, content) in [(Method::GET, None), (Method::POST, Some(json!({})))] {
        let response = requester.request(&here, (method, path), content, "X-Matrix ");
        let rooms = expect_ok(response);
        assert_eq!(rooms["chunk"][0]["join_rule"], "public", "{rooms}");
    }
}

#[test]
fn the_signature_of_a_request_may_follow_several_spaces() {
    let [here] = TestServer::federating();
    let requester = Requester::new(&here);
    let endpoint = (Method::GET, "/_matrix/federation/v1/publicRooms");
    for scheme in ["X-Matrix ", "X-Matrix   "] {
        expect_ok(requester.request(&here, endpoint.clone(), None, scheme));
    }
}

#[test]
fn remote_alias_is_resolved() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = create_room(&bob, json!({ "room_alias_name": "pub" }));
    let path = |name: &str| {
        let alias = percent_encode(&format!("#{name}:{}", there.name()));
        format!("/_matrix/client/v3/directory/room/{alias}")
    };
    let found = expect_ok(here.get(&path("pub")));
    assert_eq!(found, json!({ "room_id": room, "servers": [there.name()] }));
    expect_error(&alice.get(&path("bup")), 404, "M_NOT_FOUND");
}

#[test]
fn remote_public_rooms_are_paginated_and_searchable() {
    let [here, there] = TestServer::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    for name in ["one", "two", "three"] {
        create_room(&bob, json!({ "visibility": "public", "name": name }));
    }
    create_room(
        &alice,
        json!({ "visibility": "public", "name": "not there" }),
    );
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().expect("rooms").iter();
        rooms
            .map(|room| room["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let path = format!("/_matrix/client/v3/publicRooms?server={}", there.name());
    let first = expect_ok(alice.get(&format!("{path}&limit=2")));
    assert_eq!(names(&first), ["one", "two"]);
    assert_eq!(first["total_room_count_estimate"], 3);
    let since = first["next_batch"].as_str().expect("there is more");
    let second = expect_ok(alice.get(&format!("{path}&limit=2&since={since}")));
    assert_eq!(names(&second), ["three"]);
    assert_eq!(second["next_batch"], Value::Null);
    let search = json!({ "filter": { "generic_search_term": "TW" } });
    assert_eq!(names(&expect_ok(alice.post(&path, search))), ["two"]);
    let since = json!({ "since": "nonsense" });
    expect_error(&alice.post(&path, since), 400, "M_INVALID_PARAM");
}

#[test]
fn requests_to_other_servers_have_a_rate_whatever_the_endpoint() {
    let server = TestServer::federating_with(|_| ["rate_limits = true".to_owned()]);
    let server = &server[0];
    let room = percent_encode("!room:localhost:1");
    let alias = percent_encode("#room:localhost:1");
    let requests = [
        (Method::GET, "v3/publicRooms?server=localhost:1".to_owned()),
        (Method::POST, "v3/publicRooms?server=localhost:1".to_owned()),
        (Method::POST, format!("v3/join/{alias}")),
        (Method::GET, format!("v3/directory/room/{alias}")),
        (Method::GET, format!("v1/room_summary/{alias}")),
        (Method::GET, format!("v1/room_summary/{room}")),
    ];
    for (number, (method, path)) in requests.into_iter().enumerate() {
        let user = server.register(&format!("user{number}"));
        let path = format!("/_matrix/client/{path}");
        let body = if method == Method::GET {
            Value::Null
        } else {
            json!({})
        };
        let send = || user.request(method.clone(), &path, body.clone()).0;
        let statuses: Vec<_> = (0..61).map(|_| send()).collect();
        assert!(
            statuses[..60].iter().all(|status| *status != 429),
            "{path}: {statuses:?}"
        );
        assert_eq!(statuses[60], 429, "{path}");
        server.clock.advance(Duration::from_mins(10));
    }
}
