//! Authentication: from the access token, or another server's signature, to the caller that the
//! handler gets.

use std::net::IpAddr;

use http::Request;
use ruma::{
    OwnedServerName,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceTokenOptional, NoAccessToken,
            NoAuthentication, extract_bearer_or_query_token,
        },
        federation::authentication::{ServerSignatures, XMatrix},
    },
};

use crate::{
    api::{Error, Origin, Session, Unauthenticated},
    federation::Federation,
    protocol::signed_request::SignedRequest,
    rates::site,
    users::Users,
};

/// The authentication that an endpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuthRequirement {
    None,
    OptionalSession,
    Session,
    /// Another server's signature.
    Server,
}

/// What was found in a request.
pub(super) struct Credentials {
    pub session: Option<Session>,
    pub server: Option<OwnedServerName>,
    pub address: IpAddr,
}

/// One of ruma's authentication schemes.
pub(super) trait Scheme {
    type Caller: Send + 'static;
    const REQUIREMENT: AuthRequirement;

    fn caller(credentials: Credentials) -> Result<Self::Caller, Error>;
}

impl Scheme for AccessToken {
    type Caller = Session;
    const REQUIREMENT: AuthRequirement = AuthRequirement::Session;

    fn caller(credentials: Credentials) -> Result<Session, Error> {
        credentials.session.ok_or_else(missing_token)
    }
}

impl Scheme for AccessTokenOptional {
    type Caller = Option<Session>;
    const REQUIREMENT: AuthRequirement = AuthRequirement::OptionalSession;

    fn caller(credentials: Credentials) -> Result<Option<Session>, Error> {
        Ok(credentials.session)
    }
}

impl Scheme for ServerSignatures {
    type Caller = Origin;
    const REQUIREMENT: AuthRequirement = AuthRequirement::Server;

    fn caller(credentials: Credentials) -> Result<Origin, Error> {
        let server = credentials.server.ok_or_else(missing_signature)?;
        Ok(Origin { server })
    }
}

/// Schemes without authentication. hearth has no application services, so their tokens are ignored.
macro_rules! unauthenticated {
    ($($scheme:ty),+) => {
        $(impl Scheme for $scheme {
            type Caller = Unauthenticated;
            const REQUIREMENT: AuthRequirement = AuthRequirement::None;

            fn caller(credentials: Credentials) -> Result<Unauthenticated, Error> {
                Ok(Unauthenticated {
                    address: credentials.address,
                    user: credentials.session.map(|session| session.user),
                })
            }
        })+
    };
}

unauthenticated!(NoAuthentication, NoAccessToken, AppserviceTokenOptional);

/// The session of the token in the `Authorization` header or, as some clients still send it, in the
/// query. An `Authorization` header without a bearer token is ignored: a proxy may have added it.
///
/// Where no token is needed, a valid one only tells a known user from the other clients of a network.
pub(super) async fn session(
    auth: AuthRequirement,
    request: &Request<()>,
    address: IpAddr,
    users: &Users,
) -> Result<Option<Session>, Error> {
    if auth == AuthRequirement::Server {
        return Ok(None);
    }
    match extract_bearer_or_query_token(request).ok().flatten() {
        Some(token) if auth == AuthRequirement::None => {
            let session = users.session(&token, Some(address)).await.ok();
            Ok(session.filter(|session| !session.is_locked))
        }
        Some(token) => Ok(Some(users.session(&token, Some(address)).await?)),
        None if auth == AuthRequirement::Session => Err(missing_token()),
        None => Ok(None),
    }
}

/// The `X-Matrix` header of a request, not yet verified.
///
/// Source: server-server API, "Request authentication".
pub(super) fn signature(
    auth: AuthRequirement,
    request: &Request<()>,
    federation: &Federation,
) -> Result<Option<XMatrix>, Error> {
    if auth != AuthRequirement::Server {
        return Ok(None);
    }
    let signed =
        XMatrix::extract_from_http_headers(request.headers()).map_err(|_| missing_signature())?;
    if !federation.allows(&signed.origin) {
        return Err(Error::forbidden("this server does not federate with yours"));
    }
    Ok(Some(signed))
}

/// Checks that the key of `signed` is known. It is fetched for the client at `address` if needed, before
/// anything of the body is read.
pub(super) async fn check_key(
    signed: &XMatrix,
    address: IpAddr,
    federation: &Federation,
) -> Result<(), Error> {
    if federation.has_key_of(signed, site(address)).await? {
        Ok(())
    } else {
        Err(wrong_signature())
    }
}

/// What is signed of `request`, if `signature` is valid.
pub(super) async fn verify(
    signature: &XMatrix,
    request: Request<Vec<u8>>,
    federation: &Federation,
) -> Result<SignedRequest, Error> {
    let signed = federation.verify_request(signature, request).await?;
    signed.ok_or_else(wrong_signature)
}

fn wrong_signature() -> Error {
    Error::unauthorized(
        "the signature of this request does not match a key that your server publishes",
    )
}

fn missing_signature() -> Error {
    Error::unauthorized(
        "this endpoint needs an `Authorization: X-Matrix` header with the signature of a server",
    )
}

fn missing_token() -> Error {
    Error::missing_token("this endpoint needs an access token in the `Authorization` header")
}
