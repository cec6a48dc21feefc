//! Whatever a client asks, the fault is its own: no nonsense makes the server fail.
//!
//! Every endpoint of the census is asked with arguments, parameters and bodies that are put
//! together at random from what the specification names and what nobody should send.

use http::{Method, Request};
use serde_json::json;

use crate::{
    census::endpoints,
    home::{Home, Person},
};

/// How often each endpoint is asked.
const ROUNDS: usize = 50;

/// Endpoints that end what the others need.
const LAST_WORDS: &[&str] = &["/_matrix/client/v3/logout", "/_matrix/client/v3/logout/all"];

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

/// xorshift: the same nonsense each time.
struct Chance(u64);

impl Chance {
    fn number(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.number(from.len())]
    }

    /// What belongs in the place of an argument, half of the time.
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

/// A new room of somebody's, and an event in it.
fn room_of(somebody: &Person<'_>) -> (String, String) {
    let (_, room) = somebody.post("/_matrix/client/v3/createRoom", json!({}));
    let room = room["room_id"]
        .as_str()
        .expect("a room was made")
        .to_owned();
    let send = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let (_, event) = somebody.put(&send, json!({"msgtype": "m.text", "body": "hello"}));
    let event = event["event_id"].as_str().expect("an event was sent");
    (room, event.to_owned())
}

#[test]
fn no_nonsense_makes_the_server_fail() {
    let home = Home::new();
    let alice = home.register("alice");
    let mut chance = Chance(0x5eed);
    for (method, template) in endpoints() {
        if LAST_WORDS.contains(&template) {
            continue;
        }
        let (room, event) = room_of(&alice);
        let ask = |_| {
            let path = chance.path(template);
            let path = path.replace("ROOM", &room).replace("EVENT", &event);
            Request::builder()
                .method(method.parse::<Method>().expect("this is a method"))
                .uri(path)
                .header("authorization", format!("Bearer {}", alice.token))
                .body(chance.body())
        };
        // What http holds to be no request, no connection could bring.
        let requests: Vec<_> = (0..ROUNDS).map(ask).filter_map(Result::ok).collect();
        let asked = requests.clone();
        for (response, asked) in home.respond_all(requests).iter().zip(asked) {
            assert!(
                !response.status().is_server_error(),
                "{} for {method} {}\n{}",
                response.status(),
                asked.uri(),
                asked.body().escape_ascii()
            );
        }
    }
    assert!(alice.is_logged_in());
}
