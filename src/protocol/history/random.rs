//! Random histories: memberships, power levels, join rules and other state change on forks.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{
    RoomVersionId,
    events::{StateEventType, room::member::MembershipState},
    signatures::sign_json,
};
use serde_json::{Value, json};

use super::{Action, History, Index, State};
use crate::protocol::build::canonical_content;

/// The users of random histories, two on each of three servers. The first is the creator.
const USERS: [&str; 6] = [
    "@alice:a.example",
    "@amy:a.example",
    "@bob:b.example",
    "@ben:b.example",
    "@carol:c.example",
    "@carl:c.example",
];

const IDENTITY_SERVER: &str = "id.example";

const TOKENS: [&str; 2] = ["token1", "token2"];

const LEVELS: [i32; 4] = [0, 25, 50, 100];

impl History {
    /// A random history of so many events. The same seed gives the same history.
    pub fn random(version: &RoomVersionId, seed: u64, events: usize) -> Self {
        let mut history = Self::public(version, USERS[0]);
        history.then(Action::join(USERS[2]));
        let admins = history.levels(&[(USERS[0], 100), (USERS[2], 100)], json!({}));
        history.then(Action::state(USERS[0], "m.room.power_levels", "", admins));
        history.extend_randomly(seed, events);
        history
    }

    /// Appends random events until there are so many.
    pub fn extend_randomly(&mut self, seed: u64, events: usize) {
        let mut rng = StdRng::seed_from_u64(seed);
        while self.events.len() < events {
            self.grow(&mut rng);
        }
    }

    /// Tries to append a random event near the end. Most events that are not allowed are dropped, some
    /// stay as rejected events.
    fn grow(&mut self, rng: &mut StdRng) {
        let prev = self.random_prev(rng);
        let state = self.state_after_all(&prev);
        let action = self.random_action(rng, &state);
        // Some events have outdated auth events.
        let cited = if rng.random_bool(0.1) {
            self.random_state(rng)
        } else {
            state.clone()
        };
        let built = self.build(&prev, &cited, action);
        let allowed = self.allows(&built.pdu, &state).is_ok();
        if self.index(built.pdu.event_id()).is_none() && (allowed || rng.random_bool(0.05)) {
            self.push(&prev, state, built, allowed);
        }
    }

    fn random_state(&self, rng: &mut StdRng) -> std::sync::Arc<State> {
        self.events[rng.random_range(0..self.events.len())]
            .state_after
            .clone()
    }

    fn random_prev(&self, rng: &mut StdRng) -> Vec<Index> {
        let end = self.events.len();
        let mut near = |back: usize| rng.random_range(end.saturating_sub(back).max(3)..end);
        let mut prev = match near(100) % 5 {
            0 => vec![near(12)],
            1 => vec![near(10), near(10)],
            2 if end.is_multiple_of(3) => vec![near(10), near(20), near(10)],
            _ => vec![near(3)],
        };
        prev.sort_unstable();
        prev.dedup();
        prev
    }

    fn random_action(&self, rng: &mut StdRng, state: &State) -> Action {
        let joined: Vec<&'static str> = USERS
            .into_iter()
            .filter(|user| self.is_joined(state, user))
            .collect();
        let anybody = *USERS.choose(rng).expect("not empty");
        let target = *USERS.choose(rng).expect("not empty");
        let sender = match joined.choose(rng) {
            Some(user) if rng.random_bool(0.9) => *user,
            _ => anybody,
        };
        match rng.random_range(0..100) {
            0..20 => self.random_join(rng, state, anybody),
            20..26 => Action::member(sender, sender, "leave"),
            26..36 => Action::member(sender, target, "leave"),
            36..46 => Action::member(sender, target, "ban"),
            46..54 => Action::member(sender, target, "invite"),
            54..60 => self.random_knock(rng, state),
            60..63 => random_token(rng, sender),
            63..66 => self.random_use_of_token(rng, state, target),
            66..76 => self.random_levels(rng, state, sender),
            76..84 => random_join_rule(rng, sender),
            84..91 => {
                let topic = json!({ "topic": rng.random_range(0..1000) });
                Action::state(sender, "m.room.topic", "", topic)
            }
            91..96 => {
                let key = if rng.random_bool(0.5) { sender } else { "key" };
                Action::state(
                    sender,
                    "test.state",
                    key,
                    json!({ "n": rng.random_range(0..1000) }),
                )
            }
            _ => {
                let body = json!({ "body": rng.random_range(0..1000) });
                Action::message(sender, "m.room.message", body)
            }
        }
    }

    fn membership(&self, state: &State, user: &str) -> Option<MembershipState> {
        let event = state.get(&(StateEventType::RoomMember, user.to_owned()))?;
        self.events[*event].pdu.membership()
    }

    fn is_joined(&self, state: &State, user: &str) -> bool {
        self.membership(state, user) == Some(MembershipState::Join)
    }

    /// A knock of a user who is not in the room.
    fn random_knock(&self, rng: &mut StdRng, state: &State) -> Action {
        let is_outside = |user: &&str| {
            matches!(
                self.membership(state, user),
                None | Some(MembershipState::Leave)
            )
        };
        let outside: Vec<&'static str> = USERS.into_iter().filter(is_outside).collect();
        let user = outside.choose(rng).copied().unwrap_or(USERS[0]);
        Action::member(user, user, "knock")
    }

    /// A join, sometimes authorized by another user of the same server, which signs for both.
    fn random_join(&self, rng: &mut StdRng, state: &State, user: &'static str) -> Action {
        let server = user.split_once(':').expect("a user id").1;
        let near = USERS.iter().find(|other| {
            **other != user && other.ends_with(server) && self.is_joined(state, other)
        });
        match near {
            Some(near) if rng.random_bool(0.5) => {
                let content =
                    json!({ "membership": "join", "join_authorised_via_users_server": near });
                Action::state(user, "m.room.member", user, content)
            }
            _ => Action::join(user),
        }
    }

    /// A third-party invite with a token of the state.
    fn random_use_of_token(&self, rng: &mut StdRng, state: &State, target: &str) -> Action {
        let token = *TOKENS.choose(rng).expect("not empty");
        let key = (StateEventType::RoomThirdPartyInvite, token.to_owned());
        let held = state
            .get(&key)
            .map(|event| self.events[*event].pdu.sender());
        let sender = USERS
            .into_iter()
            .find(|user| held.is_some_and(|held| held == *user));
        let mut signed =
            canonical_content(&json!({ "mxid": target, "token": token })).expect("canonical");
        sign_json(IDENTITY_SERVER, &Self::key(IDENTITY_SERVER), &mut signed).expect("an object");
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": "somebody", "signed": signed },
        });
        Action::state(sender.unwrap_or(USERS[0]), "m.room.member", target, content)
    }

    /// The power levels of the state with one change, which the sender may not be allowed to make.
    fn random_levels(&self, rng: &mut StdRng, state: &State, sender: &'static str) -> Action {
        let current = state.get(&(StateEventType::RoomPowerLevels, String::new()));
        let mut content: Value = current.map_or(json!({ "users": {} }), |event| {
            serde_json::from_str(self.events[*event].pdu.content().get()).expect("JSON")
        });
        let level = *LEVELS.choose(rng).expect("not empty");
        let field = [
            "state_default",
            "events_default",
            "users_default",
            "ban",
            "kick",
            "invite",
        ];
        if rng.random_bool(0.7) {
            let user = *USERS.choose(rng).expect("not empty");
            content["users"][user] = level.into();
        } else {
            content[*field.choose(rng).expect("not empty")] = level.into();
        }
        Action::state(sender, "m.room.power_levels", "", content)
    }
}

/// An `m.room.third_party_invite` event.
fn random_token(rng: &mut StdRng, sender: &'static str) -> Action {
    let key = History::key(IDENTITY_SERVER).public_key();
    let content = json!({
        "display_name": rng.random_range(0..1000).to_string(), "public_key": key,
        "key_validity_url": "https://id.example/valid",
    });
    let token = TOKENS.choose(rng).expect("not empty");
    Action::state(sender, "m.room.third_party_invite", token, content)
}

fn random_join_rule(rng: &mut StdRng, sender: &'static str) -> Action {
    let rules = [
        "public",
        "public",
        "invite",
        "knock",
        "restricted",
        "knock_restricted",
    ];
    let rule = json!({ "join_rule": rules.choose(rng).expect("not empty"), "allow": [] });
    Action::state(sender, "m.room.join_rules", "", rule)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::History;
    use crate::protocol::versions;

    #[test]
    fn random_histories_have_all_kinds_of_conflicts() {
        let mut counts = BTreeMap::<String, usize>::new();
        for version in versions::SUPPORTED {
            for event in (0..6).flat_map(|seed| History::random(&version, seed, 64).events) {
                let pdu = &event.pdu;
                let mut count = |what: String| *counts.entry(what).or_default() += 1;
                if pdu.rejected() {
                    count("rejected".to_owned());
                    continue;
                }
                if event.prev.len() > 1 {
                    count("merge".to_owned());
                }
                if let Some(membership) = pdu.membership() {
                    let other = if pdu.state_key() == Some(pdu.sender().as_str()) {
                        ""
                    } else {
                        " another"
                    };
                    count(format!("{membership}{other}"));
                    for field in ["join_authorised_via_users_server", "third_party_invite"] {
                        if pdu
                            .content_field::<&serde_json::value::RawValue>(field)
                            .is_some()
                        {
                            count(field.to_owned());
                        }
                    }
                } else {
                    count(pdu.event_type().to_string());
                }
            }
        }
        for what in [
            "rejected",
            "merge",
            "join",
            "leave",
            "leave another",
            "ban another",
            "invite another",
            "knock",
            "join_authorised_via_users_server",
            "third_party_invite",
            "m.room.power_levels",
            "m.room.join_rules",
            "m.room.topic",
            "m.room.message",
            "m.room.third_party_invite",
            "test.state",
        ] {
            assert!(
                counts.get(what).is_some_and(|count| *count >= 5),
                "{what} in {counts:?}"
            );
        }
    }
}
