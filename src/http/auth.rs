//! Who is asking: from the access token to the type that the handler takes.

use std::net::IpAddr;

use http::Request;
use ruma::api::auth_scheme::{
    AccessToken, AccessTokenOptional, AppserviceTokenOptional, NoAccessToken, NoAuthentication,
    extract_bearer_or_query_token,
};

use crate::{
    api::{Anyone, Error, Session},
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
}

/// One of ruma's authentication schemes, and the type of caller that it comes down to.
pub(super) trait Scheme {
    type Caller: Send + 'static;
    const DEMAND: Demand;

    /// The caller, when what [`DEMAND`](Self::DEMAND) asks for has been found.
    fn caller(session: Option<Session>, address: IpAddr) -> Result<Self::Caller, Error>;
}

impl Scheme for AccessToken {
    type Caller = Session;
    const DEMAND: Demand = Demand::Session;

    fn caller(session: Option<Session>, _address: IpAddr) -> Result<Session, Error> {
        session.ok_or_else(missing_token)
    }
}

impl Scheme for AccessTokenOptional {
    type Caller = Option<Session>;
    const DEMAND: Demand = Demand::Perhaps;

    fn caller(session: Option<Session>, _address: IpAddr) -> Result<Option<Session>, Error> {
        Ok(session)
    }
}

/// Schemes under which everybody is served. No application service is known here, so a token of
/// one, where it may come, proves nothing.
macro_rules! anyone {
    ($($scheme:ty),+) => {
        $(impl Scheme for $scheme {
            type Caller = Anyone;
            const DEMAND: Demand = Demand::Nothing;

            fn caller(_session: Option<Session>, address: IpAddr) -> Result<Anyone, Error> {
                Ok(Anyone { address })
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
    if demand == Demand::Nothing {
        return Ok(None);
    }
    match extract_bearer_or_query_token(request).ok().flatten() {
        Some(token) => Ok(Some(users.session(&token, Some(address)).await?)),
        None if demand == Demand::Session => Err(missing_token()),
        None => Ok(None),
    }
}

fn missing_token() -> Error {
    Error::missing_token("this needs an access token")
}
