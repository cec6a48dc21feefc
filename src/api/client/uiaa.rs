//! User-interactive authentication (client-server API, "User-Interactive Authentication API").
//!
//! An endpoint that requires it takes an [`Interactive`] request and calls [`authenticate`] or [`confirm_password`] first.

use std::borrow::Cow;

use ruma::{
    UserId,
    api::{
        client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UserIdentifier},
        error::{DeserializationError, ErrorKind, StandardErrorBody},
    },
    serde::JsonObject,
};
use serde_json::{Value, json, value::to_raw_value};

use super::password;
use crate::{
    api::{Adapted, Api, Error, Quirk, Session, Unauthenticated},
    rates::site,
    users::{self, Claimant, Operation, PasswordClient},
};

const PASSWORD: &[AuthType] = &[AuthType::Password];

/// A request that is carried out after user-interactive authentication. The quirk is the request
/// without `auth`, which all requests of one session of the authentication have in common.
pub type Interactive<R> = Adapted<R, Operation>;

impl Quirk for Operation {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        _path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let mut body: JsonObject = serde_json::from_slice(request.body())?;
        let auth = body.remove("auth");
        let uri = request.uri();
        let operation = Self::new(request.method().as_str(), uri.path(), &(uri.query(), &body));
        if let Some(auth) = auth.and_then(normalize) {
            body.insert("auth".to_owned(), auth);
        }
        *request.body_mut() = Cow::Owned(serde_json::to_vec(&body)?);
        Ok(operation)
    }
}

/// `auth` as in current versions of the specification.
///
/// NOTSPEC: matrix-js-sdk's `register` sends an empty object where it has no `auth` yet, and
/// matrix-nio names the user as `user`, as versions before r0.4 did.
fn normalize(mut auth: Value) -> Option<Value> {
    if let Some(auth) = auth.as_object_mut() {
        if auth.is_empty() {
            return None;
        }
        if !auth.contains_key("identifier")
            && let Some(user) = auth.remove("user")
        {
            let identifier = json!({ "type": "m.id.user", "user": user });
            auth.insert("identifier".to_owned(), identifier);
        }
    }
    Some(auth)
}

/// Who sends a request that needs the authentication.
#[derive(Clone, Copy)]
pub(super) enum Client<'a> {
    Session(&'a Session),
    Unauthenticated(Unauthenticated),
}

impl Client<'_> {
    pub(super) fn claimant(self) -> Claimant {
        match self {
            Self::Session(session) => Claimant::User(session.user),
            Self::Unauthenticated(client) => Claimant::Network(site(client.address)),
        }
    }
}

/// Authenticates the user of `session` once more, by their password.
///
/// # Errors
/// Those of [`authenticate`].
pub(super) async fn confirm_password(
    api: &Api,
    session: &Session,
    operation: Operation,
    auth: Option<&AuthData>,
) -> Result<(), Error> {
    authenticate(api, Client::Session(session), operation, PASSWORD, auth).await?;
    Ok(())
}

/// Returns the session, which is used up, if all stages of `flow` are complete, `auth` included; otherwise
/// [`Error::Uiaa`] with the stages that are left, or [`Error::Limited`] after too many wrong passwords or tokens.
pub(super) async fn authenticate(
    api: &Api,
    client: Client<'_>,
    operation: Operation,
    flow: &[AuthType],
    auth: Option<&AuthData>,
) -> Result<String, Error> {
    let uia = &api.users.uia;
    let claimant = client.claimant();
    let owner = claimant.user();
    let begin = || Attempt {
        session: uia.begin(operation, claimant),
        flow,
        completed: Vec::new(),
    };
    let Some(auth) = auth else {
        return Err(begin().more(None));
    };
    // Scripts that know the flow send the first stage without a session.
    let attempt = match auth.session() {
        None => begin(),
        Some(id) => match uia.completed(id, operation, owner) {
            Some(completed) => Attempt {
                session: id.to_owned(),
                flow,
                completed,
            },
            None => {
                return Err(begin().failed("session has expired or belongs to another request"));
            }
        },
    };
    let Some(next) = attempt.next() else {
        uia.remove(&attempt.session);
        return Ok(attempt.session);
    };
    match auth.auth_type() {
        // The client checks whether the fallback page is complete.
        None => Err(attempt.more(None)),
        Some(stage) if attempt.completed.contains(&stage) => Err(attempt.more(None)),
        Some(stage) if stage != *next => {
            Err(attempt.failed("type must be the next stage of the flow"))
        }
        Some(stage) => match check(api, client, auth).await? {
            StageResult::Failed(message) => Err(attempt.failed(message)),
            StageResult::Complete => {
                if let AuthData::RegistrationToken(auth) = auth {
                    uia.set_registration_token(&attempt.session, auth.token.clone());
                }
                let completed = uia.complete(&attempt.session, stage);
                let attempt = Attempt {
                    completed,
                    ..attempt
                };
                match attempt.next() {
                    None => {
                        uia.remove(&attempt.session);
                        Ok(attempt.session)
                    }
                    Some(_) => Err(attempt.more(None)),
                }
            }
        },
    }
}

enum StageResult {
    Complete,
    /// The client may try again.
    Failed(&'static str),
}

async fn check(api: &Api, client: Client<'_>, auth: &AuthData) -> Result<StageResult, Error> {
    match (auth, client) {
        (AuthData::Dummy(_), _) => Ok(StageResult::Complete),
        (AuthData::RegistrationToken(auth), _) => {
            if api.users.is_registration_token(&auth.token)? {
                Ok(StageResult::Complete)
            } else {
                Ok(StageResult::Failed(
                    "token is not a valid registration token",
                ))
            }
        }
        (AuthData::Password(auth), Client::Session(session)) => {
            let UserIdentifier::Matrix(named) = &auth.identifier else {
                return Err(Error::forbidden("identifier.type must be m.id.user"));
            };
            let name = named.user.to_lowercase();
            let named = UserId::parse_with_server_name(&*name, session.user_id.server_name());
            if named.ok().as_deref() != Some(&*session.user_id) {
                return Ok(StageResult::Failed("identifier.user is another user"));
            }
            let client = PasswordClient::Device(session.device);
            let (user, password) = (session.user_id.as_str(), auth.password.clone());
            match password::authenticate(api, client, user, password).await {
                Ok(_) => Ok(StageResult::Complete),
                Err(Error::Users(users::Error::WrongPassword)) => {
                    Ok(StageResult::Failed("wrong password"))
                }
                Err(error) => Err(error),
            }
        }
        _ => Ok(StageResult::Failed(
            "type is a stage that this server does not support",
        )),
    }
}

struct Attempt<'a> {
    session: String,
    flow: &'a [AuthType],
    completed: Vec<AuthType>,
}

impl Attempt<'_> {
    fn next(&self) -> Option<&AuthType> {
        let mut stages = self.flow.iter();
        stages.find(|stage| !self.completed.contains(stage))
    }

    fn failed(self, message: &'static str) -> Error {
        self.more(Some(StandardErrorBody::new(
            ErrorKind::Forbidden,
            message.to_owned(),
        )))
    }

    fn more(self, error: Option<StandardErrorBody>) -> Error {
        let mut info = UiaaInfo::new(vec![AuthFlow::new(self.flow.to_vec())]);
        info.completed = self.completed;
        // Clients expect it even if no stage has parameters.
        info.params = to_raw_value(&json!({})).ok();
        info.session = Some(self.session);
        info.auth_error = error.map(Box::new);
        Error::Uiaa(Box::new(info))
    }
}
