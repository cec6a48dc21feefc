//! Requests of the client-server API.

use std::io;

use serde::Deserialize;
use serde_json::json;

use super::http::Client;

#[derive(Deserialize)]
struct RegisterResponse {
    access_token: String,
}

#[derive(Deserialize)]
struct RoomResponse {
    room_id: String,
}

/// Registers a user; returns the access token.
pub fn register(port: u16, name: &str) -> io::Result<String> {
    let body = json!({
        "username": name,
        "password": "correct horse battery staple",
        "auth": {"type": "m.login.dummy"},
    });
    let response: RegisterResponse =
        Client::connect(port, None)?.json("POST", "/_matrix/client/v3/register", Some(&body))?;
    Ok(response.access_token)
}

/// Creates a public room; returns its id.
pub fn create_public_room(client: &mut Client) -> io::Result<String> {
    let body = json!({"preset": "public_chat"});
    let response: RoomResponse =
        client.json("POST", "/_matrix/client/v3/createRoom", Some(&body))?;
    Ok(response.room_id)
}

pub fn join(client: &mut Client, room: &str) -> io::Result<()> {
    let path = format!("/_matrix/client/v3/join/{room}");
    client
        .json::<RoomResponse>("POST", &path, Some(&json!({})))
        .map(drop)
}

/// Sends a text message; returns its event id.
pub fn send_text(
    client: &mut Client,
    room: &str,
    transaction: &str,
    text: &str,
) -> io::Result<String> {
    #[derive(Deserialize)]
    struct SendResponse {
        event_id: String,
    }
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{transaction}");
    let body = json!({"msgtype": "m.text", "body": text});
    let response: SendResponse = client.json("PUT", &path, Some(&body))?;
    Ok(response.event_id)
}
