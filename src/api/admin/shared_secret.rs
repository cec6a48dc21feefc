//! Registration with a shared secret: `/_synapse/admin/v1/register`, which Synapse's
//! `register_new_matrix_user` and other tools call. The client gets a nonce, signs it together with the
//! account, and sends both.

use crate::{
    api::{Api, Error, Unauthenticated},
    rates::site,
    users::{NewAccount, NewLogin, NewPassword, SharedSecretRequest},
};

/// `GET /_synapse/admin/v1/register`
pub async fn get_nonce(
    api: Api,
    client: Unauthenticated,
    _request: get_nonce::Request,
) -> Result<get_nonce::Response, Error> {
    let nonce = api.users.shared_secret_nonce(site(client.address))?;
    Ok(get_nonce::Response { nonce })
}

/// `POST /_synapse/admin/v1/register`
pub async fn register(
    api: Api,
    _client: Unauthenticated,
    request: register::Request,
) -> Result<register::Response, Error> {
    api.users.check_shared_secret(&SharedSecretRequest {
        nonce: &request.nonce,
        username: &request.username,
        password: &request.password,
        admin: request.admin,
        user_type: request.user_type.as_deref(),
        mac: &request.mac,
    })?;
    let user_id = api.users.check_username(&request.username)?;
    let account = NewAccount {
        user_id: user_id.clone(),
        password: Some(NewPassword::Clear(request.password)),
        admin: Some(request.admin),
        display_name: request.displayname,
        login: (!request.inhibit_login).then(NewLogin::default),
        registration_token: None,
    };
    let registered = api.users.register(account).await?;
    let (device_id, access_token) = registered
        .login
        .map(|login| (login.device_id, login.access_token.into_string()))
        .unzip();
    Ok(register::Response {
        home_server: user_id.server_name().to_owned(),
        user_id,
        device_id,
        access_token,
    })
}

pub mod get_nonce {
    //! `GET /_synapse/admin/v1/register`

    use ruma::api::{
        IncomingRequest, OutgoingBodyJson, OutgoingResponse,
        auth_scheme::NoAuthentication,
        error::{DeserializationError, Error as MatrixError, IntoHttpError},
        metadata,
    };
    use serde::Serialize;

    #[derive(Clone, Copy, Debug)]
    pub struct Request;

    metadata! {
        method: GET,
        rate_limited: true,
        authentication: NoAuthentication,
        path: "/_synapse/admin/v1/register",
    }

    #[derive(Clone, Debug, Serialize, OutgoingBodyJson)]
    pub struct Response {
        /// Valid for a minute.
        pub nonce: String,
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            _request: http::Request<&[u8]>,
            _path_args: &[&str],
        ) -> Result<Self, DeserializationError> {
            Ok(Self)
        }
    }

    impl OutgoingResponse for Response {
        type Body = Self;

        fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
            Ok(http::Response::new(self))
        }
    }
}

pub mod register {
    //! `POST /_synapse/admin/v1/register`

    use std::fmt;

    use ruma::{
        OwnedDeviceId, OwnedServerName, OwnedUserId,
        api::{
            IncomingRequest, OutgoingBodyJson, OutgoingResponse,
            auth_scheme::NoAuthentication,
            error::{DeserializationError, Error as MatrixError, IntoHttpError},
            metadata,
        },
    };
    use serde::{Deserialize, Serialize};

    #[derive(Clone, Deserialize)]
    pub struct Request {
        pub nonce: String,
        pub username: String,
        pub displayname: Option<String>,
        pub password: String,
        #[serde(default)]
        pub admin: bool,
        /// Synapse's kind of user: signed, otherwise ignored.
        pub user_type: Option<String>,
        /// HMAC-SHA1 over the account under the shared secret, in hexadecimal digits.
        pub mac: String,
        /// Whether the new user is not logged in.
        #[serde(default)]
        pub inhibit_login: bool,
    }

    impl fmt::Debug for Request {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Request")
                .field("username", &self.username)
                .field("admin", &self.admin)
                .finish_non_exhaustive()
        }
    }

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: NoAuthentication,
        path: "/_synapse/admin/v1/register",
    }

    #[derive(Clone, Serialize, OutgoingBodyJson)]
    pub struct Response {
        pub user_id: OwnedUserId,
        pub home_server: OwnedServerName,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub device_id: Option<OwnedDeviceId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        pub access_token: Option<String>,
    }

    impl fmt::Debug for Response {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Response")
                .field("user_id", &self.user_id)
                .finish_non_exhaustive()
        }
    }

    impl IncomingRequest for Request {
        type EndpointError = MatrixError;
        type OutgoingResponse = Response;

        fn try_from_http_request_inner(
            request: http::Request<&[u8]>,
            _path_args: &[&str],
        ) -> Result<Self, DeserializationError> {
            Ok(serde_json::from_slice(request.body())?)
        }
    }

    impl OutgoingResponse for Response {
        type Body = Self;

        fn try_into_http_response_inner(self) -> Result<http::Response<Self>, IntoHttpError> {
            Ok(http::Response::new(self))
        }
    }
}
