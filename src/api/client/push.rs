//! Push rules (client-server API, "Push Rules: API").

use std::borrow::Cow;

use ruma::{
    api::{
        client::push::{
            delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled,
            get_pushrules_all, get_pushrules_global_scope, set_pushrule, set_pushrule_actions,
            set_pushrule_enabled,
        },
        error::{DeserializationError, ErrorKind},
    },
    push::{InsertPushRuleError, RemovePushRuleError, RuleKind, Ruleset},
    serde::JsonObject,
};

use serde_json::{Value, json};

use crate::{
    api::{Adapted, Api, AsSent, Error, Quirk, Session, Streamed, adapted::edit_body},
    users::account_data::push_rules::{self, SentRule},
};

/// `GET /_matrix/client/v3/pushrules/`
pub async fn get_pushrules_all(
    api: Api,
    session: Session,
    _request: get_pushrules_all::v3::Request,
) -> Result<Streamed, Error> {
    Streamed::json(&content(&api, &session)?)
}

/// `GET /_matrix/client/v3/pushrules/global/`
pub async fn get_pushrules_global_scope(
    api: Api,
    session: Session,
    _request: get_pushrules_global_scope::v3::Request,
) -> Result<Streamed, Error> {
    Streamed::json(&content(&api, &session)?["global"])
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn get_pushrule(
    api: Api,
    session: Session,
    request: get_pushrule::v3::Request,
) -> Result<Streamed, Error> {
    Streamed::json(&rule(&api, &session, &request.kind, &request.rule_id)?)
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn get_pushrule_enabled(
    api: Api,
    session: Session,
    request: get_pushrule_enabled::v3::Request,
) -> Result<get_pushrule_enabled::v3::Response, Error> {
    let rule = rule(&api, &session, &request.kind, &request.rule_id)?;
    let enabled = rule["enabled"] == true;
    Ok(get_pushrule_enabled::v3::Response::new(enabled))
}

/// `GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn get_pushrule_actions(
    api: Api,
    session: Session,
    request: get_pushrule_actions::v3::Request,
) -> Result<Streamed, Error> {
    let rule = rule(&api, &session, &request.kind, &request.rule_id)?;
    Streamed::json(&json!({ "actions": rule["actions"] }))
}

/// The body as the client sent it, but [readable](push_rules::make_readable). `conditions` is optional; ruma
/// requires it of rules that may have some.
#[derive(Debug)]
pub struct ReadableRule(JsonObject);

impl Quirk for ReadableRule {
    fn apply(
        request: &mut http::Request<Cow<'_, [u8]>>,
        path_arguments: &[&str],
    ) -> Result<Self, DeserializationError> {
        let AsSent(mut sent) = AsSent::apply(request, path_arguments)?;
        push_rules::make_readable(&mut sent);
        edit_body(request, |body| {
            body.clone_from(&sent);
            body.entry("conditions")
                .or_insert_with(|| Value::Array(Vec::new()));
        })?;
        Ok(Self(sent))
    }
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn set_pushrule(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: ReadableRule(fields),
    }: Adapted<set_pushrule::v3::Request, ReadableRule>,
) -> Result<set_pushrule::v3::Response, Error> {
    let set_pushrule::v3::Request {
        rule,
        before,
        after,
        ..
    } = request;
    let sent = SentRule {
        kind: rule.kind(),
        id: rule.rule_id().to_owned(),
        fields,
    };
    change(&api, &session, Some(sent), move |rules| {
        push_rules::insert(rules, rule.clone(), after.as_deref(), before.as_deref())
            .map_err(not_inserted)
    })
    .await?;
    Ok(set_pushrule::v3::Response::new())
}

/// `DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId}`
pub async fn delete_pushrule(
    api: Api,
    session: Session,
    request: delete_pushrule::v3::Request,
) -> Result<delete_pushrule::v3::Response, Error> {
    let (kind, id) = (request.kind, request.rule_id);
    change(&api, &session, None, move |rules| {
        rules
            .remove(kind.clone(), &id)
            .map_err(|error| match error {
                RemovePushRuleError::ServerDefault => Error::invalid_param(
                    "ruleId must not be a server-default rule: those can only be disabled",
                ),
                _ => no_rule(),
            })
    })
    .await?;
    Ok(delete_pushrule::v3::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled`
pub async fn set_pushrule_enabled(
    api: Api,
    session: Session,
    request: set_pushrule_enabled::v3::Request,
) -> Result<set_pushrule_enabled::v3::Response, Error> {
    let (kind, id, enabled) = (request.kind, request.rule_id, request.enabled);
    change(&api, &session, None, move |rules| {
        let set = rules.set_enabled(kind.clone(), &id, enabled);
        set.map_err(|_| no_rule())
    })
    .await?;
    Ok(set_pushrule_enabled::v3::Response::new())
}

/// `PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions`
pub async fn set_pushrule_actions(
    api: Api,
    session: Session,
    Adapted {
        request,
        quirk: ReadableRule(fields),
    }: Adapted<set_pushrule_actions::v3::Request, ReadableRule>,
) -> Result<set_pushrule_actions::v3::Response, Error> {
    let (kind, id, actions) = (request.kind, request.rule_id, request.actions);
    let sent = SentRule {
        kind: kind.clone(),
        id: id.clone(),
        fields,
    };
    change(&api, &session, Some(sent), move |rules| {
        let set = rules.set_actions(kind.clone(), &id, actions.clone());
        set.map_err(|_| no_rule())
    })
    .await?;
    Ok(set_pushrule_actions::v3::Response::new())
}

fn no_rule() -> Error {
    Error::not_found("no push rule has this kind and id")
}

/// The specification has `M_UNKNOWN` if the rule in `before` or `after` does not exist.
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

/// All rules, as JSON: ruma's types drop what they do not know.
fn content(api: &Api, session: &Session) -> Result<Value, Error> {
    let content = api.users.push_rules_content(session.user, &session.user_id);
    Ok(content?)
}

fn rule(api: &Api, session: &Session, kind: &RuleKind, id: &str) -> Result<Value, Error> {
    let content = content(api, session)?;
    let rules = content["global"][kind.as_str()].as_array();
    let mut rules = rules.into_iter().flatten();
    let rule = rules.find(|rule| rule["rule_id"] == id);
    rule.cloned().ok_or_else(no_rule)
}

async fn change(
    api: &Api,
    session: &Session,
    sent: Option<SentRule>,
    change: impl Fn(&mut Ruleset) -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let change = api
        .users
        .change_push_rules(session.user, &session.user_id, sent, change);
    change.await
}
