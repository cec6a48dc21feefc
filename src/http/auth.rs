//! Who is asking: from the access token, or another server's signature, to the type that the handler
//! takes.

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
    users::Users,
};

/// What an endpoint wants to know of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing.
    Nothing,
    /// A session, if there is one.
    Perhaps,
    /// A session.
    Session,
    /// Another server's signature.
    Server,
}

/// What has been found of a caller.
pub(super) struct Proof {
    pub session: Option<Session>,
    pub server: Option<OwnedServerName>,
    pub address: IpAddr,
}

/// One of ruma's authentication schemes, and the type of caller that it comes down to.
pub(super) trait Scheme {
    type Caller: Send + 'static;
    const DEMAND: Demand;

    /// The caller, when what [`DEMAND`](Self::DEMAND) asks for has been found.
    fn caller(proof: Proof) -> Result<Self::Caller, Error>;
}

impl Scheme for AccessToken {
    type Caller = Session;
    const DEMAND: Demand = Demand::Session;

    fn caller(proof: Proof) -> Result<Session, Error> {
        proof.session.ok_or_else(missing_token)
    }
}

impl Scheme for AccessTokenOptional {
    type Caller = Option<Session>;
    const DEMAND: Demand = Demand::Perhaps;

    fn caller(proof: Proof) -> Result<Option<Session>, Error> {
        Ok(proof.session)
    }
}

impl Scheme for ServerSignatures {
    type Caller = Origin;
    const DEMAND: Demand = Demand::Server;

    fn caller(proof: Proof) -> Result<Origin, Error> {
        let server = proof.server.ok_or_else(unsigned)?;
        Ok(Origin { server })
    }
}

/// Schemes under which everybody is served. No application service is known here, so a token of
/// one, where it may come, proves nothing.
macro_rules! anyone {
    ($($scheme:ty),+) => {
        $(impl Scheme for $scheme {
            type Caller = Unauthenticated;
            const DEMAND: Demand = Demand::Nothing;

            fn caller(proof: Proof) -> Result<Unauthenticated, Error> {
                Ok(Unauthenticated { address: proof.address })
            }
        })+
    };
}

anyone!(NoAuthentication, NoAccessToken, AppserviceTokenOptional);

/// The session behind the token in the `Authorization` header or, as clients still send it, in the
/// query. What is not a bearer token at all counts as none: a proxy may have left it there.
pub(super) async fn session(
    demand: Demand,
    request: &Request<()>,
    address: IpAddr,
    users: &Users,
) -> Result<Option<Session>, Error> {
    if let Demand::Nothing | Demand::Server = demand {
        return Ok(None);
    }
    match extract_bearer_or_query_token(request).ok().flatten() {
        Some(token) => Ok(Some(users.session(&token, Some(address)).await?)),
        None if demand == Demand::Session => Err(missing_token()),
        None => Ok(None),
    }
}

/// What a request says about the server that has signed it, before anything is checked.
///
/// Source: server-server API, "Request authentication".
pub(super) fn signature(
    demand: Demand,
    request: &Request<()>,
    federation: &Federation,
) -> Result<Option<XMatrix>, Error> {
    if demand != Demand::Server {
        return Ok(None);
    }
    let signed = XMatrix::extract_from_http_headers(request.headers()).map_err(|_| unsigned())?;
    if !federation.allows(&signed.origin) {
        return Err(Error::forbidden("this server does not federate with yours"));
    }
    Ok(Some(signed))
}

/// The server that has signed `request`, as it says.
pub(super) async fn server(
    signed: XMatrix,
    request: &Request<&[u8]>,
    federation: &Federation,
) -> Result<OwnedServerName, Error> {
    if federation.is_signed(&signed, request).await? {
        Ok(signed.origin)
    } else {
        Err(Error::unauthorized(
            "this request is not signed by a key that your server shows",
        ))
    }
}

fn unsigned() -> Error {
    Error::unauthorized("this needs the signature of a server")
}

fn missing_token() -> Error {
    Error::missing_token("this needs an access token")
}
