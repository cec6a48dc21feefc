//! What the owner sees of the pushers of a user, and a notification to try them.

use super::{notification, sender::PushSender};
use crate::{
    rooms,
    store::{
        UserNum,
        records::{Pusher, PusherState},
    },
    users::pushers::{self, PusherKey},
};

/// A pusher with what is known of it.
#[derive(Debug)]
pub struct KnownPusher {
    pub key: PusherKey,
    pub pusher: Pusher,
    /// Where its gateway is; `None` if the settings do not allow it.
    pub gateway: Option<String>,
    pub state: Option<PusherState>,
}

impl PushSender {
    pub fn pushers(&self, user: UserNum) -> Result<Vec<KnownPusher>, rooms::Error> {
        let known = self.0.store.read(|s| pushers::of_user(s, user))?;
        let known = known.into_iter().map(|(key, pusher)| {
            let data = notification::data(&key, &pusher)?;
            let gateway = self.0.gateways.parse(&data.url).ok();
            let unsaved = self.0.lock().unsaved.get(&key).cloned();
            let state = match unsaved {
                Some(state) => Some(state),
                None => self.0.store.read(|s| pushers::load_state(s, &key))?,
            };
            Ok(KnownPusher {
                gateway: gateway.map(|gateway| gateway.origin()),
                key,
                pusher,
                state,
            })
        });
        known.collect()
    }

    /// Sends the badge of the user to a gateway; what is wrong with it, if anything.
    pub async fn test(&self, pusher: &KnownPusher) -> Result<Option<String>, rooms::Error> {
        let data = notification::data(&pusher.key, &pusher.pusher)?;
        let gateway = match self.0.gateways.parse(&data.url) {
            Ok(gateway) => gateway,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let badge = self.0.badge(pusher.key.user).await?;
        let body = notification::of_badge(&pusher.key, &pusher.pusher, badge)?;
        let _turn = self.0.gateways.turn(&gateway, false).await;
        Ok(match self.0.gateways.send(&gateway, body).await {
            Ok(rejected) if rejected.contains(&pusher.key.pushkey) => {
                Some("it does not know the device any more; open the app there".to_owned())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        })
    }
}
