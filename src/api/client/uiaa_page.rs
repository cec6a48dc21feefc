//! Fallback pages for stages of a registration that a client does not support
//! (client-server API, "User-Interactive Authentication API", "Fallback").

use std::borrow::Cow;

use ruma::{
    api::{
        client::uiaa::{
            AuthType,
            get_uiaa_fallback_page::v3::{Request, Response},
        },
        error::DeserializationError,
    },
    exports::serde_html_form,
};
use serde::Deserialize;

use super::register;
use crate::api::{Adapted, Api, Error, Quirk, Unauthenticated};

/// `GET /_matrix/client/v3/auth/{authType}/fallback/web`
pub async fn get_uiaa_fallback_page(
    api: Api,
    _client: Unauthenticated,
    request: Request,
) -> Result<Response, Error> {
    check_next(&api, &request.auth_type, &request.session)?;
    Ok(form(&request.auth_type, ""))
}

/// `POST /_matrix/client/v3/auth/{authType}/fallback/web`
pub async fn submit_uiaa_fallback_page(
    api: Api,
    client: Unauthenticated,
    Adapted {
        request: page,
        quirk: Form { token },
    }: Adapted<Request, Form>,
) -> Result<Response, Error> {
    check_next(&api, &page.auth_type, &page.session)?;
    if page.auth_type == AuthType::RegistrationToken
        && !register::check_token(&api, client, &token)?
    {
        let message = "<p>This is not a registration token of this server.</p>";
        return Ok(form(&page.auth_type, message));
    }
    if page.auth_type == AuthType::RegistrationToken {
        api.users.uia.set_registration_token(&page.session, token);
    }
    api.users.uia.complete(&page.session, page.auth_type);
    Ok(html(DONE))
}

/// The form in the body: the registration token; empty on pages that ask for nothing.
#[derive(Debug, Deserialize)]
pub struct Form {
    #[serde(default)]
    token: String,
}

impl Quirk for Form {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        Ok(serde_html_form::from_bytes(request.body())?)
    }
}

/// Fails unless `stage` is the next stage of a registration.
fn check_next(api: &Api, stage: &AuthType, session: &str) -> Result<(), Error> {
    let completed = api.users.uia.completed_unauthenticated(session);
    let completed = completed.ok_or_else(|| Error::not_found("session has expired"))?;
    let mut flow = register::flow(api)?.iter();
    if flow.find(|stage| !completed.contains(stage)) == Some(stage) {
        Ok(())
    } else {
        Err(Error::not_found("the stage is not the next of the session"))
    }
}

/// The page of a stage; its form is posted to its own URL, which has the session.
fn form(stage: &AuthType, message: &str) -> Response {
    let field = match stage {
        AuthType::RegistrationToken => {
            "<p><label>Registration token <input name=token autofocus required></label></p>"
        }
        _ => "<p>Nothing more is needed to make an account here.</p>",
    };
    html(&format!(
        "<form method=post>{message}{field}<p><button>Continue</button></p></form>"
    ))
}

/// The page of a completed stage (client-server API, "Fallback").
const DONE: &str = "<p>Thank you. You can go back to your app.</p><script>\
    if (window.onAuthDone) { window.onAuthDone(); }\
    else if (window.opener && window.opener.postMessage) {\
    window.opener.postMessage(\"authDone\", \"*\"); }\
    </script>";

fn html(body: &str) -> Response {
    let page = format!(
        "<!DOCTYPE html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\">\
         <title>Registration</title>{body}</html>"
    );
    Response::html(page.into_bytes())
}
