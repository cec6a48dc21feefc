//! People who use the server.

use std::io;

use serde::Deserialize;
use serde_json::json;

use super::http::Client;

#[derive(Deserialize)]
struct Registered {
    access_token: String,
}

#[derive(Deserialize)]
struct Room {
    room_id: String,
}

/// Registers somebody and returns the access token.
pub fn register(port: u16, name: &str) -> io::Result<String> {
    let body = json!({
        "username": name,
        "password": "correct horse battery staple",
        "auth": {"type": "m.login.dummy"},
    });
    let registered: Registered =
        Client::connect(port, None)?.json("POST", "/_matrix/client/v3/register", Some(&body))?;
    Ok(registered.access_token)
}

/// Makes a room that everybody may join and returns its id.
pub fn make_room(client: &mut Client) -> io::Result<String> {
    let body = json!({"preset": "public_chat"});
    let room: Room = client.json("POST", "/_matrix/client/v3/createRoom", Some(&body))?;
    Ok(room.room_id)
}

/// Joins a room.
pub fn join(client: &mut Client, room: &str) -> io::Result<()> {
    let path = format!("/_matrix/client/v3/join/{room}");
    client
        .json::<Room>("POST", &path, Some(&json!({})))
        .map(drop)
}

/// Sends a text under a transaction id and returns the event id.
pub fn say(client: &mut Client, room: &str, transaction: &str, text: &str) -> io::Result<String> {
    #[derive(Deserialize)]
    struct Sent {
        event_id: String,
    }
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
    let body = json!({"msgtype": "m.text", "body": text});
    let sent: Sent = client.json("PUT", &path, Some(&body))?;
    Ok(sent.event_id)
}
