//! Calls (client-server API, "Voice over IP").

use hmac::{Hmac, KeyInit, Mac};
use ruma::{api::client::voip::get_turn_server_info, serde::Base64};
use serde_json::json;
use sha1::Sha1;

use crate::api::{Api, Error, Session, Streamed};

/// `GET /_matrix/client/v3/voip/turnServer`. NOTSPEC: `{}` where there is none, as Synapse answers.
///
/// The credentials are those of coturn's `use-auth-secret`: the user name begins with the time when they
/// expire, in seconds since the epoch, and the password is the HMAC-SHA1 of the user name under the shared
/// secret.
pub async fn get_turn_server_info(
    api: Api,
    session: Session,
    _request: get_turn_server_info::v3::Request,
) -> Result<Streamed, Error> {
    let Some(turn) = &api.config.turn else {
        return Streamed::json(&json!({}));
    };
    let ttl = turn.ttl.0.as_secs();
    let expiry = api.clock.now_ms() / 1000 + ttl;
    let username = format!("{expiry}:{}", session.user_id);
    Streamed::json(&json!({
        "password": password(turn.secret.expose(), &username),
        "username": username,
        "uris": turn.uris,
        "ttl": ttl,
    }))
}

fn password(secret: &str, username: &str) -> String {
    let mut hmac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length");
    hmac.update(username.as_bytes());
    // 20 bytes: ruma's base64 leaves out the one `=` that coturn's has.
    Base64::<ruma::serde::base64::Standard, _>::new(hmac.finalize().into_bytes().to_vec()).encode()
        + "="
}

#[cfg(test)]
mod tests {
    use super::password;

    #[test]
    fn the_password_is_that_of_coturn() {
        // As `echo -n USERNAME | openssl dgst -sha1 -hmac SECRET -binary | base64` has it.
        let expected = "U1hnS4Fn7mbCvacwlDvVjDlUr5M=";
        assert_eq!(password("north", "1433895918:@alice:example.org"), expected);
    }
}
