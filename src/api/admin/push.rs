//! Push notifications.

use serde_json::{Value, json};

use super::user::Name;
use crate::{
    api::{Api, Error},
    push::KnownPusher,
};

/// Each may take 20 s.
const MAX_TESTED: usize = 10;

pub async fn show(api: Api, request: Name) -> Result<Value, Error> {
    let (user, user_id, _) = api.users.find(request.user())?;
    let pushers = api.push.pushers(user)?;
    let pushers: Vec<_> = pushers.iter().map(to_json).collect();
    Ok(json!({ "user_id": user_id, "pushers": pushers }))
}

/// Sends the badge to the push gateways of a user, at most [`MAX_TESTED`], and shows what they answer.
pub async fn test(api: Api, request: Name) -> Result<Value, Error> {
    let (user, user_id, _) = api.users.find(request.user())?;
    let mut pushers = Vec::new();
    for pusher in api.push.pushers(user)?.into_iter().take(MAX_TESTED) {
        let mut tested = to_json(&pusher);
        let error = api.push.test(&pusher).await?;
        tested["works"] = error.is_none().into();
        tested["error"] = error.into();
        pushers.push(tested);
    }
    Ok(json!({ "user_id": user_id, "pushers": pushers }))
}

/// Without the pushkey, which is a secret of the device.
fn to_json(pusher: &KnownPusher) -> Value {
    let state = pusher.state.as_ref();
    let answer = state.and_then(|state| state.answer.as_ref());
    json!({
        "app": pusher.pusher.app_display_name,
        "device": pusher.pusher.device_display_name,
        "gateway": pusher.gateway,
        "set_ts": pusher.pusher.set_ts,
        "success_ts": state.and_then(|state| state.success_ts),
        "failing_since_ts": state.and_then(|state| state.failing_since_ts),
        "answer_ts": answer.map(|(ts, _)| ts),
        "answer": answer.map(|(_, answer)| answer),
    })
}
