//! Fuzz test: no request makes the server answer with a 5xx status.
//!
//! Every endpoint gets requests whose arguments, parameters and bodies are picked at random from
//! words of the specification and from invalid values.

use http::{Method, Request};
use serde_json::json;

use crate::{
    client_api::{create_room, send_text},
    endpoints::endpoints,
    test_server::TestServer,
};

const REQUESTS_PER_ENDPOINT: usize = 50;

/// These would invalidate the access token.
const EXCLUDED: &[&str] = &["/_matrix/client/v3/logout", "/_matrix/client/v3/logout/all"];

const ARGUMENTS: &[&str] = &[
    "x",
    "",
    "@alice:localhost",
    "@nobody:elsewhere.example",
    "ROOM",
    "!room:elsewhere.example",
    "%21room",
    "%23alias:localhost",
    "$event",
    "m.room.message",
    "m.room.power_levels",
    "m.room.create",
    "m.read",
    "displayname",
    "..",
    "%2E%2E",
    "%2F",
    "a%2Fb",
    "%",
    "%zz",
    "%ff",
    "%00",
    "%F0%9F%90%88",
    "\\",
    "-1",
    "18446744073709551616",
];

const KEYS: &[&str] = &[
    "access_token",
    "address",
    "algorithm",
    "alias",
    "auth",
    "avatar_url",
    "content",
    "creation_content",
    "device_id",
    "devices",
    "dir",
    "displayname",
    "enabled",
    "event_fields",
    "event_format",
    "events",
    "filter",
    "from",
    "full_state",
    "identifier",
    "include_all_networks",
    "inhibit_login",
    "initial_state",
    "invite",
    "is_direct",
    "join_rule",
    "kind",
    "limit",
    "logout_devices",
    "m.fully_read",
    "m.read",
    "m.relates_to",
    "membership",
    "messages",
    "msgtype",
    "name",
    "new_password",
    "new_version",
    "not_membership",
    "order",
    "password",
    "pattern",
    "power_level_content_override",
    "presence",
    "preset",
    "reason",
    "refresh_token",
    "room",
    "room_alias_name",
    "room_id",
    "room_version",
    "search_term",
    "server",
    "session",
    "set_presence",
    "since",
    "state_key",
    "status_msg",
    "third_party_instance_id",
    "thread_id",
    "timeline",
    "timeout",
    "to",
    "token",
    "topic",
    "type",
    "typing",
    "user",
    "user_id",
    "username",
    "users",
    "via",
    "visibility",
];

const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1e400",
    "1.5",
    "9007199254740993",
    "-9223372036854775809",
    "18446744073709551616",
    "\"\"",
    "\"x\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\u{202e}x\"",
    "\"@alice:localhost\"",
    "\"@:localhost\"",
    "\"!room:localhost\"",
    "\"#a:localhost\"",
    "\"$event\"",
    "\"m.room.member\"",
    "\"m.login.password\"",
    "\"m.id.user\"",
    "\"public_chat\"",
    "\"12\"",
    "\"6\"",
    "\"b\"",
    "\"main\"",
    "[]",
    "[[]]",
    "[{}]",
    "[null]",
    "{}",
    "{\"\":null}",
    "{\"type\":\"m.login.dummy\"}",
    "{\"type\":\"m.room.name\",\"content\":{}}",
    "{\"user_id\":1,\"content\":[]}",
    "{\"limit\":-1,\"types\":[\"*\",\"\"]}",
    "{\"@alice:localhost\":{\"*\":{}}}",
    "{\"rooms\":[\"x\"],\"timeline\":{\"limit\":0}}",
    "{\"users\":{\"@alice:localhost\":\"100\"},\"ban\":9007199254740993}",
];

/// xorshift with a fixed seed: every run sends the same requests.
struct Random(u64);

impl Random {
    fn number(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.number(from.len())]
    }

    /// A valid value for the argument with a probability of one half.
    fn argument(&mut self, name: &str) -> &'static str {
        if self.number(2) == 0 {
            return self.pick(ARGUMENTS);
        }
        match name {
            "{userId}" => "@alice:localhost",
            "{roomId}" | "{roomIdOrAlias}" => "ROOM",
            "{eventId}" => "EVENT",
            "{roomAlias}" => "%23alias:localhost",
            "{eventType}" => "m.room.power_levels",
            "{receiptType}" => "m.read",
            "{kind}" => "content",
            _ => "x",
        }
    }

    fn path(&mut self, template: &str) -> String {
        let segments = template.split('/');
        let filled: Vec<_> = segments
            .map(|segment| match segment.starts_with('{') {
                true => self.argument(segment),
                false => segment,
            })
            .collect();
        let mut path = filled.join("/");
        for n in 0..self.number(4) {
            path += if n == 0 { "?" } else { "&" };
            path += self.pick(KEYS);
            path += "=";
            path += self.pick(ARGUMENTS);
        }
        path
    }

    fn body(&mut self) -> Vec<u8> {
        match self.number(10) {
            0 => Vec::new(),
            1 => self.pick(VALUES).as_bytes().to_vec(),
            2 => format!("{}{}", "[".repeat(5000), "]".repeat(5000)).into_bytes(),
            3 => vec![b'{', 0xff, b'}'],
            _ => {
                let fields = 0..self.number(8);
                let fields: Vec<_> = fields
                    .map(|_| format!("\"{}\":{}", self.pick(KEYS), self.pick(VALUES)))
                    .collect();
                format!("{{{}}}", fields.join(",")).into_bytes()
            }
        }
    }
}

#[test]
fn random_requests_never_cause_a_server_error() {
    let server = TestServer::new();
    let alice = server.register("alice");
    let mut random = Random(0x5eed);
    for (method, template) in endpoints() {
        if EXCLUDED.contains(&template) {
            continue;
        }
        let room = create_room(&alice, json!({}));
        let event = send_text(&alice, &room, "hello");
        let request = |_| {
            let path = random.path(template);
            let path = path.replace("ROOM", &room).replace("EVENT", &event);
            Request::builder()
                .method(method.parse::<Method>().expect("a method"))
                .uri(path)
                .header("authorization", format!("Bearer {}", alice.token))
                .body(random.body())
        };
        // Requests that `http` rejects could not arrive over a connection either.
        let requests: Vec<_> = (0..REQUESTS_PER_ENDPOINT)
            .map(request)
            .filter_map(Result::ok)
            .collect();
        let sent = requests.clone();
        for (response, sent) in server.respond_all(requests).iter().zip(sent) {
            assert!(
                !response.status().is_server_error(),
                "{} for {method} {}\n{}",
                response.status(),
                sent.uri(),
                sent.body().escape_ascii()
            );
        }
    }
    assert!(alice.is_logged_in());
}
