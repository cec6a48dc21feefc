//! Push rules (client-server API, "Push Rules: API").

use std::borrow::Cow;

use ruma::{
    api::{
        IncomingRequest, Metadata,
        client::push::{
            delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
            get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions,
            set_pushrule_enabled,
        },
        error::{DeserializationError, ErrorKind},
    },
    push::{AnyPushRule, InsertPushRuleError, RemovePushRuleError, RuleKind, Ruleset},
};

use serde_json::{Map, Value};

use crate::{
    api::{Api, Error, Session},
    users::account_data::push_rules,
};

/// `GET /_matrix/client/v3/pushrules/`
pub async fn get_pushrules_all(
    api: Api,
    who: Session,
    _request: get_pushrules_all::v3::Request,
) -> Result<get_pushrules_all::v3::Response, Error> {
    let rules = api.users.push_rules(who.user, &who.user_id)?;
    Ok(get_pushrules_all::v3::Response::new(rules))
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub async fn get_pushrules_global_scope(
    api: Api,
    who: Session,
    _request: get_pushrules_global_scope::v3::Request,
) -> Result<get_pushrules_global_scope::v3::Response, Error> {
    let rules = api.users.push_rules(who.user, &who.user_id)?;
    Ok(get_pushrules_global_scope::v3::Response::new(rules))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn get_pushrule(
    api: Api,
    who: Session,
    request: get_pushrule::v3::Request,
) -> Result<get_pushrule::v3::Response, Error> {
    let rule = rule(&api, &who, request.kind, &request.rule_id)?;
    Ok(get_pushrule::v3::Response::new(rule.into()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn get_pushrule_enabled(
    api: Api,
    who: Session,
    request: get_pushrule_enabled::v3::Request,
) -> Result<get_pushrule_enabled::v3::Response, Error> {
    let rule = rule(&api, &who, request.kind, &request.rule_id)?;
    Ok(get_pushrule_enabled::v3::Response::new(rule.enabled()))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn get_pushrule_actions(
    api: Api,
    who: Session,
    request: get_pushrule_actions::v3::Request,
) -> Result<get_pushrule_actions::v3::Response, Error> {
    let rule = rule(&api, &who, request.kind, &request.rule_id)?;
    let actions = rule.actions().to_vec();
    Ok(get_pushrule_actions::v3::Response::new(actions))
}

/// A request for a new rule, which need not name conditions where rules can have some, as ruma's
/// has to.
#[derive(Debug)]
pub struct SetPushRule(set_pushrule::v3::Request);

impl Metadata for SetPushRule {
    const METHOD: http::Method = set_pushrule::v3::Request::METHOD;
    const RATE_LIMITED: bool = set_pushrule::v3::Request::RATE_LIMITED;
    type Authentication = <set_pushrule::v3::Request as Metadata>::Authentication;
    type PathBuilder = <set_pushrule::v3::Request as Metadata>::PathBuilder;
    const PATH_BUILDER: Self::PathBuilder = set_pushrule::v3::Request::PATH_BUILDER;
}

impl IncomingRequest for SetPushRule {
    type EndpointError = <set_pushrule::v3::Request as IncomingRequest>::EndpointError;
    type OutgoingResponse = set_pushrule::v3::Response;

    fn try_from_http_request_inner(
        request: http::Request<&[u8]>,
        path_args: &[&str],
    ) -> Result<Self, DeserializationError> {
        let (parts, body) = request.into_parts();
        let body = with_conditions(body);
        let request = http::Request::from_parts(parts, &*body);
        set_pushrule::v3::Request::try_from_http_request_inner(request, path_args).map(Self)
    }
}

fn with_conditions(body: &[u8]) -> Cow<'_, [u8]> {
    match serde_json::from_slice::<Map<String, Value>>(body) {
        Ok(mut fields) if !fields.contains_key("conditions") => {
            fields.insert("conditions".to_owned(), Value::Array(Vec::new()));
            Cow::Owned(Value::Object(fields).to_string().into_bytes())
        }
        _ => Cow::Borrowed(body),
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn set_pushrule(
    api: Api,
    who: Session,
    SetPushRule(request): SetPushRule,
) -> Result<set_pushrule::v3::Response, Error> {
    let set_pushrule::v3::Request {
        rule,
        before,
        after,
        ..
    } = request;
    change(&api, &who, move |rules| {
        push_rules::insert(rules, rule.clone(), after.as_deref(), before.as_deref())
            .map_err(not_inserted)
    })
    .await?;
    Ok(set_pushrule::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn delete_pushrule(
    api: Api,
    who: Session,
    request: delete_pushrule::v3::Request,
) -> Result<delete_pushrule::v3::Response, Error> {
    let (kind, id) = (request.kind, request.rule_id);
    change(&api, &who, move |rules| {
        rules
            .remove(kind.clone(), &id)
            .map_err(|error| match error {
                RemovePushRuleError::ServerDefault => {
                    Error::invalid_param("a rule of the server can be disabled, not deleted")
                }
                _ => no_rule(),
            })
    })
    .await?;
    Ok(delete_pushrule::v3::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn set_pushrule_enabled(
    api: Api,
    who: Session,
    request: set_pushrule_enabled::v3::Request,
) -> Result<set_pushrule_enabled::v3::Response, Error> {
    let (kind, id, enabled) = (request.kind, request.rule_id, request.enabled);
    change(&api, &who, move |rules| {
        let set = rules.set_enabled(kind.clone(), &id, enabled);
        set.map_err(|_| no_rule())
    })
    .await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn set_pushrule_actions(
    api: Api,
    who: Session,
    request: set_pushrule_actions::v3::Request,
) -> Result<set_pushrule_actions::v3::Response, Error> {
    let (kind, id, actions) = (request.kind, request.rule_id, request.actions);
    change(&api, &who, move |rules| {
        let set = rules.set_actions(kind.clone(), &id, actions.clone());
        set.map_err(|_| no_rule())
    })
    .await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

fn no_rule() -> Error {
    Error::not_found("there is no such push rule")
}

/// The specification has `M_UNKNOWN` for a neighbour that is not there.
fn not_inserted(error: InsertPushRuleError) -> Error {
    match error {
        InsertPushRuleError::ServerDefaultRuleId
        | InsertPushRuleError::InvalidRuleId
        | InsertPushRuleError::RelativeToServerDefaultRule => {
            Error::invalid_param(error.to_string())
        }
        _ => Error::new(ErrorKind::Unknown, error.to_string()),
    }
}

fn rule(api: &Api, who: &Session, kind: RuleKind, id: &str) -> Result<AnyPushRule, Error> {
    let rules = api.users.push_rules(who.user, &who.user_id)?;
    let rule = rules.get(kind, id).ok_or_else(no_rule)?;
    Ok(rule.to_owned())
}

async fn change(
    api: &Api,
    who: &Session,
    change: impl Fn(&mut Ruleset) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let change = api.users.change_push_rules(who.user, &who.user_id, change);
    change.await
}
