//! What other servers see of events that are here only because others refer to them.

use ruma::{RoomVersionId, server_name};
use serde_json::{Value, json};

use super::{replica::Replica, with_store};
use crate::{
    protocol::history::{Action, History},
    rooms::timeline::server_history_visibility::visible_json,
};

#[test]
fn an_outlier_is_shown_to_other_servers_only_if_it_is_state() {
    const ALICE: &str = "@alice:a.example";
    let mut history = History::public(&RoomVersionId::V11, ALICE);
    let joined = history.then(Action::join("@bob:b.example"));
    let topic = json!({ "topic": "seen" });
    let topic = history.after(&[joined], Action::state(ALICE, "m.room.topic", "", topic));
    let message = json!({ "body": "private" });
    let message = history.after(&[joined], Action::message(ALICE, "m.room.message", message));
    with_store(async |store| {
        let replica = Replica::new(store, &history, &RoomVersionId::V11).await;
        for index in 0..=joined {
            replica.receive(index, None).await.expect("it is taken");
        }
        replica.store_outliers([topic, message]).await;
        let seen = |index| {
            let server = server_name!("c.example");
            let num = replica.num(index);
            let mut json = store
                .read(|s| visible_json(s, replica.room, server, [num]))
                .expect("an event");
            let event: Value = serde_json::from_slice(&json.remove(0)).expect("JSON");
            event["content"].clone()
        };
        assert_eq!(seen(topic), json!({ "topic": "seen" }));
        assert_eq!(seen(message), json!({}));
    });
}
