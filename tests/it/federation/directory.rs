//! Aliases and published rooms across servers.

use http::Method;
use serde_json::{Value, json};

use crate::{
    home::{Home, refused},
    rooms::{done, escaped, make_room},
};

#[test]
fn an_alias_of_another_server_is_found_there() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = make_room(&bob, json!({ "room_alias_name": "pub" }));
    let path = |name: &str| {
        let alias = escaped(&format!("#{name}:{}", there.name()));
        format!("/_matrix/client/v3/directory/room/{alias}")
    };
    let found = done(here.ask(Method::GET, &path("pub"), Value::Null));
    assert_eq!(found, json!({ "room_id": room, "servers": [there.name()] }));
    refused(&alice.get(&path("bup")), 404, "M_NOT_FOUND");
}
