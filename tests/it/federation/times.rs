//! What happened in a room at a certain time, here and where history is.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    home::{Home, Person, refused},
    rooms::{done, escaped, make_room, room_of, say},
};

const HOUR: Duration = Duration::from_hours(1);

fn find(who: &Person<'_>, room: &str, ts: u64, dir: &str) -> (u16, Value) {
    let room = escaped(room);
    let path = format!("/_matrix/client/v1/rooms/{room}/timestamp_to_event");
    who.get(&format!("{path}?ts={ts}&dir={dir}"))
}

/// Says something every hour: the ids and the times.
fn talk(home: &Home, who: &Person<'_>, room: &str, count: usize) -> Vec<(String, u64)> {
    let texts = (0..count).map(|number| {
        home.clock.advance(HOUR);
        let id = say(who, room, &number.to_string());
        (id, home.clock.now_ms())
    });
    texts.collect()
}

#[test]
fn a_time_leads_to_the_event_before_or_after_it() {
    let home = Home::new();
    let (alice, bob) = (home.register("alice"), home.register("bob"));
    let room = room_of(&[&alice]);
    let said = talk(&home, &alice, &room, 3);
    let (first, second) = (&said[0], &said[1]);
    let event = |(id, ts): &(String, u64)| json!({ "event_id": id, "origin_server_ts": ts });
    let between = first.1 + 1;
    assert_eq!(done(find(&alice, &room, between, "f")), event(second));
    assert_eq!(done(find(&alice, &room, between, "b")), event(first));
    assert_eq!(done(find(&alice, &room, first.1, "f")), event(first));
    assert_eq!(done(find(&alice, &room, first.1, "b")), event(first));
    refused(&find(&alice, &room, 1, "b"), 404, "M_NOT_FOUND");
    let late = home.clock.now_ms() + 1;
    refused(&find(&alice, &room, late, "f"), 404, "M_NOT_FOUND");
    refused(&find(&bob, &room, between, "f"), 403, "M_FORBIDDEN");
}

#[test]
fn an_event_of_a_time_before_one_came_is_fetched_from_those_who_were_there() {
    let [here, there] = Home::federating();
    let (alice, bob) = (here.register("alice"), there.register("bob"));
    let room = make_room(&bob, json!({ "preset": "public_chat" }));
    let said = talk(&there, &bob, &room, 30);
    let join = format!("/_matrix/client/v3/join/{}", escaped(&room));
    let via = format!("{join}?via={}", there.name());
    done(alice.post(&via, json!({})));
    let (id, ts) = &said[3];
    let found = done(find(&alice, &room, ts - 1, "f"));
    assert_eq!(found["event_id"], id.as_str());
    let context = format!(
        "/_matrix/client/v3/rooms/{}/context/{}",
        escaped(&room),
        escaped(id)
    );
    assert_eq!(done(alice.get(&context))["event"]["content"]["body"], "3");
}
