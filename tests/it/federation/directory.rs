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

#[test]
fn the_published_rooms_of_another_server_are_read_page_by_page_and_searched() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    for name in ["one", "two", "three"] {
        make_room(&bob, json!({ "visibility": "public", "name": name }));
    }
    make_room(
        &alice,
        json!({ "visibility": "public", "name": "not there" }),
    );
    let names = |page: &Value| -> Vec<String> {
        let rooms = page["chunk"].as_array().expect("rooms").iter();
        rooms
            .map(|room| room["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    let path = format!("/_matrix/client/v3/publicRooms?server={}", there.name());
    let first = done(alice.get(&format!("{path}&limit=2")));
    assert_eq!(names(&first), ["one", "two"]);
    assert_eq!(first["total_room_count_estimate"], 3);
    let since = first["next_batch"].as_str().expect("there is more");
    let second = done(alice.get(&format!("{path}&limit=2&since={since}")));
    assert_eq!(names(&second), ["three"]);
    assert_eq!(second["next_batch"], Value::Null);
    let search = json!({ "filter": { "generic_search_term": "TW" } });
    assert_eq!(names(&done(alice.post(&path, search))), ["two"]);
    let since = json!({ "since": "nonsense" });
    refused(&alice.post(&path, since), 400, "M_INVALID_PARAM");
}
