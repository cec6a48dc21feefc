//! A push gateway, and the pushers that use it.

#![allow(
    dead_code,
    reason = "`tests/blackbox` uses another part of the gateway"
)]

use serde_json::{Value, json};

use crate::test_server::{TestServer, TestUser, expect_ok};

#[path = "../common/push_gateway.rs"]
mod push_gateway;

pub use push_gateway::{Behaviour, MockPushGateway};

impl MockPushGateway {
    /// Waits until there were `count` requests and not more; the notifications.
    #[track_caller]
    pub fn wait_for(&self, server: &TestServer, count: usize) -> Vec<Value> {
        let received = self.wait_for_at_least(server, count);
        assert_eq!(received.len(), count, "{received:#?}");
        received
    }

    /// Waits until there were `count` requests or more; the notifications.
    #[track_caller]
    pub fn wait_for_at_least(&self, server: &TestServer, count: usize) -> Vec<Value> {
        server.wait_until(async || self.received().len() >= count);
        self.received()
    }
}

/// The request that sets a pusher with this pushkey; `fields` are added or replace some of it.
pub fn pusher(url: &str, pushkey: &str, fields: Value) -> Value {
    let mut pusher = json!({
        "kind": "http",
        "app_id": "org.example.app",
        "pushkey": pushkey,
        "app_display_name": "App",
        "device_display_name": "Phone",
        "lang": "en",
        "data": { "url": url },
    });
    for (key, value) in fields.as_object().into_iter().flatten() {
        pusher[key] = value.clone();
    }
    pusher
}

#[track_caller]
pub fn set_pusher(user: &TestUser<'_>, pusher: Value) {
    expect_ok(user.post("/_matrix/client/v3/pushers/set", pusher));
}

/// The pushkeys of the user's pushers.
#[track_caller]
pub fn pushkeys(user: &TestUser<'_>) -> Vec<String> {
    let response = expect_ok(user.get("/_matrix/client/v3/pushers"));
    let pushers = response["pushers"].as_array().expect("a list of pushers");
    let keys = pushers.iter().map(|pusher| pusher["pushkey"].as_str());
    keys.map(|key| key.expect("a pushkey").to_owned()).collect()
}
