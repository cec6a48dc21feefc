//! What requests are about: accounts on the server, rooms, and a hostile server that is in them.

use std::{collections::HashMap, io};

use ruma::{OwnedEventId, OwnedRoomId, ServerName};
use serde_json::{Value, json};

use crate::{
    common::{
        client_api::{join, send_text},
        http::{Client, Response},
    },
    mock_homeserver::{MockHomeserver, to_json},
};

pub const PASSWORD: &str = "correct horse battery staple";
const CLIENT: &str = "/_matrix/client/v3";
const FEDERATION: &str = "/_matrix/federation";
const BASE64: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE";

pub struct World {
    pub token: String,
    port: u16,
    hostile: MockHomeserver,
    /// By name, as in `valid_requests.txt`.
    values: HashMap<&'static str, Value>,
    number: usize,
    remote_room: OwnedRoomId,
    join: OwnedEventId,
}

impl World {
    /// Registers two users, one of whom creates a room, into which the hostile server joins, and joins a
    /// room of that server. `setup` is a number for their names.
    pub fn new(port: u16, hostile: &MockHomeserver, setup: usize) -> io::Result<World> {
        let other = register(port, &format!("other{setup}"))?;
        let user = register(port, &format!("alice{setup}"))?;
        let token = text(&user, "access_token");
        let mut client = Client::connect(port, Some(&format!("Bearer {token}")))?;
        let mut post = |path: &str, body: Value| client.json::<Value>("POST", path, Some(&body));
        let room = post(
            &format!("{CLIENT}/createRoom"),
            json!({
                "room_version": hostile.client_version(), "preset": "public_chat",
                "room_alias_name": format!("main{setup}"),
            }),
        )?;
        let room = text(&room, "room_id");
        let backup = json!({
            "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
            "auth_data": { "public_key": BASE64, "signatures": {} },
        });
        let backup = post(&format!("{CLIENT}/room_keys/version"), backup)?;
        let user_id = text(&user, "user_id");
        let filter = post(
            &format!("{CLIENT}/user/{user_id}/filter"),
            json!({ "room": { "timeline": { "limit": 3 } } }),
        )?;
        let openid = post(
            &format!("{CLIENT}/user/{user_id}/openid/request_token"),
            json!({}),
        )?;
        let pending = post("/_matrix/media/v1/create", json!({}))?;
        let media = upload_image(port, &token)?;
        let event = send_text(&mut client, &room, "first", "hello")?;
        let remote_room = hostile.create_room(3);
        join(
            &mut client,
            &format!("{remote_room}?via={}", hostile.name()),
        )?;
        let membership =
            format!("{CLIENT}/rooms/{remote_room}/state/m.room.member/{user_id}?format=event");
        let join: Value = client.json("GET", &membership, None)?;
        let sync: Value = client.json("GET", &format!("{CLIENT}/sync"), None)?;
        let messages: Value = client.json(
            "GET",
            &format!("{CLIENT}/rooms/{room}/messages?dir=b&limit=2"),
            None,
        )?;
        let values = [
            ("userId", json!(user_id)),
            ("otherId", other["user_id"].clone()),
            ("deviceId", user["device_id"].clone()),
            ("refreshToken", user["refresh_token"].clone()),
            ("password", json!(PASSWORD)),
            ("roomId", json!(room)),
            ("roomVersion", json!(hostile.client_version())),
            ("remoteVersion", json!(hostile.version())),
            ("remoteRoomId", json!(remote_room)),
            ("roomAlias", json!(format!("#other{setup}:localhost"))),
            ("eventId", json!(event)),
            ("version", backup["version"].clone()),
            ("filterId", filter["filter_id"].clone()),
            ("openIdToken", openid["access_token"].clone()),
            ("mediaId", json!(media)),
            ("pendingMediaId", json!(media_id(&pending))),
            ("since", sync["next_batch"].clone()),
            ("from", messages["end"].clone()),
            (
                "messageFilter",
                json!(r#"{"types":["m.room.message"],"lazy_load_members":true}"#),
            ),
            (
                "syncFilter",
                json!(r#"{"room":{"state":{"lazy_load_members":true}}}"#),
            ),
            ("now", json!("1800000000000")),
            ("base64", json!(BASE64)),
            ("signature", json!(format!("{BASE64}{BASE64}"))),
            ("remoteServer", json!(hostile.name())),
            ("remoteUserId", json!(hostile.user(0))),
            ("setup", json!(setup.to_string())),
            (
                "passwordAuth",
                json!({
                    "type": "m.login.password", "password": PASSWORD,
                    "identifier": { "type": "m.id.user", "user": user_id },
                }),
            ),
        ];
        let mut world = World {
            token,
            port,
            hostile: hostile.clone(),
            values: values.into_iter().collect(),
            number: setup * 100_000,
            remote_room,
            join: text(&join, "event_id")
                .try_into()
                .map_err(io::Error::other)?,
        };
        world.next_remote_user();
        world.join_remote_user()?;
        Ok(world)
    }

    /// Logs the user in again if the session has ended.
    pub fn log_in(&mut self) -> io::Result<()> {
        let mut client = Client::connect(self.port, Some(&format!("Bearer {}", self.token)))?;
        let path = format!("{CLIENT}/account/whoami");
        if client.request("GET", &path, None)?.status == 200 {
            return Ok(());
        }
        let mut login = self.values["passwordAuth"].clone();
        login["device_id"] = self.values["deviceId"].clone();
        let mut client = Client::connect(self.port, None)?;
        let response: Value = client.json("POST", &format!("{CLIENT}/login"), Some(&login))?;
        self.token = text(&response, "access_token");
        Ok(())
    }

    /// Replaces the names in a text of `valid_requests.txt`.
    pub fn fill(&mut self, template: &str, encode: bool) -> String {
        let mut filled = String::new();
        let mut rest = template;
        while let Some((before, name, after)) = next_name(rest) {
            filled += before;
            let value = self.value(name);
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            filled += &if encode { percent_encode(&text) } else { text };
            rest = after;
        }
        filled + rest
    }

    /// The same in all strings of a body.
    pub fn fill_json(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => match next_name(text) {
                Some(("", name, "")) => *value = self.value(name),
                _ => *text = self.fill(text, false),
            },
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill_json(item)),
            Value::Object(fields) => {
                let filled = std::mem::take(fields).into_iter().map(|(key, mut field)| {
                    self.fill_json(&mut field);
                    (self.fill(&key, false), field)
                });
                *fields = filled.collect();
            }
            _ => {}
        }
    }

    fn value(&mut self, name: &str) -> Value {
        match name {
            "number" => {
                self.number += 1;
                json!(self.number.to_string())
            }
            "joinEvent" => {
                self.next_remote_user();
                self.membership_event("join")
            }
            "knockEvent" => {
                self.next_remote_user();
                let mut event = self.membership_event("join");
                event["content"] = json!({ "membership": "knock" });
                event
            }
            "leaveEvent" => {
                self.next_remote_user();
                // Without the join, the leave is refused.
                let _ = self.join_remote_user();
                self.membership_event("leave")
            }
            "messageEvent" => {
                let messages = self
                    .hostile
                    .build_messages(&self.remote_room, &self.join, 1);
                to_json(&messages[0])
            }
            "stateEvent" => {
                let (room, join) = (&self.remote_room, Some(&self.join));
                let topic = json!({ "topic": self.number.to_string() });
                to_json(
                    &self
                        .hostile
                        .build_event(room, join, ("m.room.topic", Some("")), &topic),
                )
            }
            "inviteEvent" => {
                let room = self.new_remote_room();
                let user = self.string("userId");
                let invite = json!({ "membership": "invite" });
                let kind = ("m.room.member", Some(&*user));
                to_json(&self.hostile.build_event(&room, None, kind, &invite))
            }
            "inviteEventV1" => {
                let mut event = self.value("inviteEvent");
                event["origin"] = json!(self.hostile.name());
                event
            }
            "uiaSession" => {
                let user = json!({ "username": "somebody", "password": PASSWORD });
                let response = Client::connect(self.port, None).and_then(|mut client| {
                    client.request("POST", &format!("{CLIENT}/register"), Some(&user))
                });
                let body = response.map(|response| serde_json::from_slice::<Value>(&response.body));
                match body {
                    Ok(Ok(body)) => body["session"].clone(),
                    _ => Value::Null,
                }
            }
            "remoteCreateEvent" => {
                let room = self.values["newRemoteRoomId"].as_str().unwrap_or_default();
                let room = OwnedRoomId::try_from(room);
                self.hostile
                    .create_event(&room.unwrap_or_else(|_| self.remote_room.clone()))
            }
            // Known once the body is signed.
            "eventIdOfBody" => json!("{eventIdOfBody}"),
            name => match self.values.get(name) {
                Some(value) => value.clone(),
                None => panic!("valid_requests.txt has an unknown name: {name}"),
            },
        }
    }

    pub fn next_remote_user(&mut self) {
        self.number += 1;
        let user = format!("@new{}:{}", self.number, self.hostile.name());
        self.values.insert("newRemoteUserId", json!(user));
    }

    fn new_remote_room(&mut self) -> OwnedRoomId {
        let room = self.hostile.create_room(1);
        self.values.insert("newRemoteRoomId", json!(room));
        room
    }

    /// An event for the last remote user in the room of the server, by its own template.
    fn membership_event(&mut self, membership: &str) -> Value {
        let path = format!(
            "{FEDERATION}/v1/make_{membership}/{}/{}?ver={}",
            percent_encode(&self.string("roomId")),
            percent_encode(&self.string("newRemoteUserId")),
            self.hostile.client_version()
        );
        let template = self.ask("GET", &path, Vec::new());
        let template = template.and_then(|response| Ok(serde_json::from_slice(&response.body)?));
        let mut template: Value = template.unwrap_or_default();
        let mut event = template["event"].take();
        self.hostile.sign_event(&mut event);
        event
    }

    fn join_remote_user(&mut self) -> io::Result<()> {
        match self.send_own_membership_event("join")? {
            200 => Ok(()),
            status => Err(io::Error::other(format!("send_join: {status}"))),
        }
    }

    /// Sends events that the hostile server may sign, but not send as a `membership` of its user. Returns
    /// what they are, and the statuses.
    pub fn send_forged_membership_events(
        &mut self,
        membership: &str,
    ) -> io::Result<Vec<(&'static str, u16)>> {
        type Forge = fn(&mut Value, &World);
        let forgeries: [(&str, Forge); 8] = [
            ("another type", |event, _| {
                event["type"] = json!("m.room.topic")
            }),
            (
                "authorized by a user of a room that is not restricted",
                |event, world| {
                    let field = "join_authorised_via_users_server";
                    event["content"][field] = json!(world.string("userId"));
                },
            ),
            ("no state event", |event, _| {
                event.as_object_mut().map(|event| event.remove("state_key"));
            }),
            ("another membership", |event, _| {
                event["content"]["membership"] = json!("knock");
            }),
            ("no membership", |event, _| event["content"] = json!({})),
            ("of another user", |event, world| {
                event["state_key"] = json!(world.string("remoteUserId"));
            }),
            ("by a user of the other server", |event, world| {
                event["sender"] = json!(world.string("userId"));
                event["state_key"] = event["sender"].clone();
            }),
            ("of another room", |event, world| {
                event["room_id"] = json!(world.string("remoteRoomId"));
            }),
        ];
        let mut statuses = Vec::new();
        for (what, forge) in forgeries {
            let mut event = self.membership_event(membership);
            forge(&mut event, self);
            self.hostile.sign_event(&mut event);
            for version in ["v1", "v2"] {
                let response = self.send_membership_event(version, membership, &event)?;
                statuses.push((what, response.status));
            }
        }
        Ok(statuses)
    }

    /// Sends the join of the last remote user, then their leave, each with the id of another event and then
    /// again, and the join once more; the statuses.
    pub fn send_outdated_membership_events(&mut self) -> io::Result<Vec<u16>> {
        let join = self.membership_event("join");
        let send = |world: &Self, membership, event: &Value, id: &str| {
            let response = world.send_membership_event_as("v2", membership, event, id);
            response.map(|response| response.status)
        };
        let other = self.join.to_string();
        let mut statuses = vec![send(self, "join", &join, &other)?];
        statuses.push(send(self, "join", &join, &self.hostile.event_id(&join))?);
        let leave = self.membership_event("leave");
        statuses.push(send(self, "leave", &leave, &self.hostile.event_id(&join))?);
        statuses.push(send(self, "leave", &leave, &self.hostile.event_id(&leave))?);
        statuses.push(send(self, "join", &join, &self.hostile.event_id(&join))?);
        Ok(statuses)
    }

    /// Sends invitations of the account that the hostile server may not send. Returns what they are, and the
    /// statuses.
    pub fn send_forged_invites(&mut self) -> io::Result<Vec<(&'static str, u16)>> {
        type Forge = fn(&mut Value, &World);
        let forgeries: [(&str, Forge); 5] = [
            ("another type", |event, _| {
                event["type"] = json!("m.room.topic")
            }),
            ("too large", |event, _| {
                event["content"]["reason"] = json!("x".repeat(16 * 1024));
            }),
            ("a join", |event, _| {
                event["content"]["membership"] = json!("join")
            }),
            ("of a user of another server", |event, world| {
                event["state_key"] = json!(world.string("remoteUserId"));
            }),
            ("by a user of the other server", |event, world| {
                event["sender"] = json!(world.string("otherId"));
            }),
        ];
        let mut statuses = Vec::new();
        for (what, forge) in forgeries {
            let mut event = self.value("inviteEvent");
            forge(&mut event, self);
            self.hostile.sign_event(&mut event);
            let room = percent_encode(&self.string("newRemoteRoomId"));
            let id = percent_encode(&self.hostile.event_id(&event));
            let create = self.value("remoteCreateEvent");
            let body = json!({
                "room_version": self.hostile.version(), "event": event, "invite_room_state": [create],
            });
            let path = format!("{FEDERATION}/v2/invite/{room}/{id}");
            let response = self.ask("PUT", &path, body.to_string().into_bytes())?;
            statuses.push((what, response.status));
        }
        let mut event = self.value("inviteEvent");
        self.hostile.sign_event(&mut event);
        let room = percent_encode(&self.string("newRemoteRoomId"));
        let create = self.value("remoteCreateEvent");
        let other = percent_encode(&self.hostile.event_id(&create));
        let mut invite = |what, event: &Value, id: &str| {
            let body = json!({
                "room_version": self.hostile.version(), "event": event, "invite_room_state": [create],
            });
            let path = format!("{FEDERATION}/v2/invite/{room}/{id}");
            let response = self.ask("PUT", &path, body.to_string().into_bytes())?;
            statuses.push((what, response.status));
            io::Result::Ok(())
        };
        invite("with another id", &event, &other)?;
        let id = percent_encode(&self.hostile.event_id(&event));
        event["signatures"] = json!({});
        invite("without a signature", &event, &id)?;
        Ok(statuses)
    }

    /// Sends the join or the leave of the last remote user; the status.
    pub fn send_own_membership_event(&mut self, membership: &str) -> io::Result<u16> {
        let event = self.membership_event(membership);
        Ok(self.send_membership_event("v2", membership, &event)?.status)
    }

    fn send_membership_event(
        &self,
        version: &str,
        membership: &str,
        event: &Value,
    ) -> io::Result<Response> {
        self.send_membership_event_as(version, membership, event, &self.hostile.event_id(event))
    }

    fn send_membership_event_as(
        &self,
        version: &str,
        membership: &str,
        event: &Value,
        id: &str,
    ) -> io::Result<Response> {
        let (room, id) = (percent_encode(&self.string("roomId")), percent_encode(id));
        let path = format!("{FEDERATION}/{version}/send_{membership}/{room}/{id}");
        self.ask("PUT", &path, event.to_string().into_bytes())
    }

    fn string(&self, name: &str) -> String {
        self.values[name].as_str().unwrap_or_default().to_owned()
    }

    /// Sends a signed request of the hostile server.
    fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> io::Result<Response> {
        let header = self.authorization(method, path, &body).unwrap_or_default();
        let mut client = Client::connect(self.port, Some(&header))?;
        let body = serde_json::from_slice::<Value>(&body).ok();
        client.request(method, path, body.as_ref())
    }

    /// The header of a request of the hostile server; `None` if it cannot be signed.
    pub fn authorization(&self, method: &str, path: &str, body: &[u8]) -> Option<String> {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .body(body.to_vec());
        let server = ServerName::parse("localhost").expect("a server name");
        self.hostile.authorization(&server, &request.ok()?)
    }

    /// Signs the events in a body that was changed; returns the id of the first.
    pub fn sign_events(&self, body: &mut Value) -> String {
        let mut first = None;
        let mut sign = |event: &mut Value| {
            if event.get("hashes").is_some() || event.get("prev_events").is_some() {
                self.hostile.sign_event(event);
                first.get_or_insert_with(|| self.hostile.event_id(event));
            }
        };
        sign(body);
        body.get_mut("event").into_iter().for_each(&mut sign);
        let pdus = body.get_mut("pdus").and_then(Value::as_array_mut);
        pdus.into_iter().flatten().for_each(sign);
        first.unwrap_or_else(|| "$none".to_owned())
    }
}

/// What is before, in and after the first `{name}`.
fn next_name(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (name, after) = rest.split_once('}')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some((before, name, after))
}

fn register(port: u16, name: &str) -> io::Result<Value> {
    let body = json!({
        "username": name, "password": PASSWORD, "auth": { "type": "m.login.dummy" }, "refresh_token": true,
    });
    Client::connect(port, None)?.json("POST", &format!("{CLIENT}/register"), Some(&body))
}

/// Uploads a picture of one pixel; returns its media id.
fn upload_image(port: u16, token: &str) -> io::Result<String> {
    const PIXEL: &[u8] =
        b"GIF89a\x01\0\x01\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/gif\r\n\
         Authorization: Bearer {token}\r\nContent-Length: {}\r\n\r\n",
        PIXEL.len()
    );
    let mut client = Client::connect(port, None)?;
    client.send_bytes(&[head.as_bytes(), PIXEL].concat())?;
    Ok(media_id(&serde_json::from_slice(
        &client.read_response()?.body,
    )?))
}

fn media_id(response: &Value) -> String {
    let uri = response["content_uri"].as_str().unwrap_or_default();
    uri.rsplit('/').next().unwrap_or_default().to_owned()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

pub fn percent_encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
