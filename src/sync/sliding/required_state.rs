//! The state that a client wants of a room (MSC4186, `RequiredStateRequest`).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    rooms::{
        Error,
        state::{self, overlay::StateOverlay},
    },
    store::{
        EventNum, Position, Reader, RoomNum, Rows, StateKeyNum,
        records::{RequiredState, StatePattern},
    },
    sync::state::{MEMBER, state_changes},
};

/// State events by their keys; event 0 is none.
pub type Entries = BTreeMap<StateKeyNum, EventNum>;

impl StatePattern {
    fn matches(&self, kind: &str, state_key: &str) -> bool {
        self.kind.as_ref().is_none_or(|wanted| wanted == kind)
            && self
                .state_key
                .as_ref()
                .is_none_or(|wanted| wanted == state_key)
    }

    /// Whether it matches all that `other` matches.
    fn covers(&self, other: &Self) -> bool {
        let covers = |own: &Option<String>, other| own.is_none() || own == other;
        covers(&self.kind, &other.kind) && covers(&self.state_key, &other.state_key)
    }

    fn may_match_members(&self) -> bool {
        self.kind.as_ref().is_none_or(|kind| kind == MEMBER)
    }
}

impl RequiredState {
    /// Lazily loaded members are wanted if they are needed, or by name.
    fn matches(&self, kind: &str, state_key: &str) -> bool {
        let is_lazy = self.lazy_members && kind == MEMBER;
        let is_included = self.include.iter().any(|pattern| {
            pattern.matches(kind, state_key) && (!is_lazy || pattern.state_key.is_some())
        });
        is_included
            && !self
                .exclude
                .iter()
                .any(|pattern| pattern.matches(kind, state_key))
    }

    /// Whether it surely gives all that `other` gives.
    fn covers(&self, other: &Self) -> bool {
        let covers = |own: &StatePattern, pattern: &StatePattern| {
            let by_need = self.lazy_members && own.state_key.is_none();
            own == pattern && self.lazy_members == other.lazy_members
                || own.covers(pattern) && !(by_need && pattern.may_match_members())
        };
        let is_included = |pattern| self.include.iter().any(|own| covers(own, pattern));
        other.include.iter().all(is_included)
            && self
                .exclude
                .iter()
                .all(|pattern| other.exclude.contains(pattern))
            && (self.lazy_members || !other.lazy_members)
    }
}

/// About how many bytes it takes.
pub fn size(required: &[RequiredState]) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let of_pattern = |pattern: &StatePattern| {
        size_of::<StatePattern>() + text(&pattern.kind) + text(&pattern.state_key)
    };
    let of_one = |required: &RequiredState| {
        let patterns = required.include.iter().chain(&required.exclude);
        size_of::<RequiredState>() + patterns.map(of_pattern).sum::<usize>()
    };
    size_of::<Vec<RequiredState>>() + required.iter().map(of_one).sum::<usize>()
}

/// Whether any of `required` matches.
pub fn matches(required: &[RequiredState], kind: &str, state_key: &str) -> bool {
    required
        .iter()
        .any(|required| required.matches(kind, state_key))
}

/// Whether the members that the timeline needs are wanted. Others may be matched all the same.
pub fn is_lazy(required: &[RequiredState]) -> bool {
    required.iter().any(|required| required.lazy_members)
}

/// Whether `new` may give more than `known`.
pub fn is_expanded(known: &[RequiredState], new: &[RequiredState]) -> bool {
    let is_known = |new: &RequiredState| known.iter().any(|known| known.covers(new));
    !new.iter().all(is_known)
}

/// The entries of `state` that `required` matches. Grows with the room if it has wildcards.
pub fn full(
    r: &impl Reader,
    room: RoomNum,
    state: &StateOverlay,
    required: &[RequiredState],
) -> Result<Entries, Error> {
    let mut entries = Entries::new();
    let patterns = || required.iter().flat_map(|required| &required.include);
    if patterns().any(|pattern| pattern.kind.is_none()) {
        for (key, event) in state.entries(r, room)? {
            let (kind, state_key) = state::key_name(r, room, key)?;
            if matches(required, &kind, &state_key) {
                entries.insert(key, event);
            }
        }
        return Ok(entries);
    }
    let mut names: BTreeSet<(String, String)> = BTreeSet::new();
    for required in required {
        for pattern in &required.include {
            match (&pattern.kind, &pattern.state_key) {
                (Some(kind), Some(state_key)) => {
                    names.insert((kind.clone(), state_key.clone()));
                }
                (Some(kind), None) if !(required.lazy_members && kind == MEMBER) => {
                    for row in r.state_keys()?.prefix((room, kind.as_str()))? {
                        let (key, _) = row?;
                        let (_, kind, state_key) = key.value();
                        names.insert((kind.to_owned(), state_key.to_owned()));
                    }
                }
                _ => {}
            }
        }
    }
    for (kind, state_key) in names {
        if matches(required, &kind, &state_key) {
            entries.extend(entry(r, room, state, &kind, &state_key)?);
        }
    }
    Ok(entries)
}

/// The member events of `users` in `state`.
pub fn members(
    r: &impl Reader,
    room: RoomNum,
    state: &StateOverlay,
    users: &BTreeSet<String>,
) -> Result<Entries, Error> {
    let mut entries = Entries::new();
    for user in users {
        entries.extend(entry(r, room, state, MEMBER, user)?);
    }
    Ok(entries)
}

fn entry(
    r: &impl Reader,
    room: RoomNum,
    state: &StateOverlay,
    kind: &str,
    state_key: &str,
) -> Result<Option<(StateKeyNum, EventNum)>, Error> {
    let event = state.get(r, room, kind, state_key)?;
    let key = state::key_num(r, room, kind, state_key)?;
    Ok(key.zip(event))
}

/// A change of a room's state.
#[derive(Debug)]
pub struct StateChange {
    pub key: StateKeyNum,
    pub kind: String,
    pub state_key: String,
    /// 0 if there is none any more.
    pub event: EventNum,
}

/// The last change of each key after `since`, up to and including `upto`.
pub fn changes(
    r: &impl Reader,
    room: RoomNum,
    since: Position,
    upto: Position,
) -> Result<Vec<StateChange>, Error> {
    let changed: Entries = state_changes(r, room, since, upto)?.into_iter().collect();
    let changes = changed.into_iter().map(|(key, event)| {
        let (kind, state_key) = state::key_name(r, room, key)?;
        Ok(StateChange {
            key,
            kind,
            state_key,
            event,
        })
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: &str, state_key: &str) -> StatePattern {
        let part = |text: &str| (text != "*").then(|| text.to_owned());
        StatePattern {
            kind: part(kind),
            state_key: part(state_key),
        }
    }

    fn required(include: &[(&str, &str)], lazy_members: bool) -> RequiredState {
        RequiredState {
            include: include
                .iter()
                .map(|(kind, key)| pattern(kind, key))
                .collect(),
            exclude: Vec::new(),
            lazy_members,
        }
    }

    #[test]
    fn lazily_loaded_members_are_matched_by_name_only() {
        let lazy = required(&[("*", "*"), (MEMBER, "@me:h")], true);
        assert!(lazy.matches("m.room.name", ""));
        assert!(lazy.matches(MEMBER, "@me:h"));
        assert!(!lazy.matches(MEMBER, "@other:h"));
        assert!(required(&[("*", "*")], false).matches(MEMBER, "@other:h"));
    }

    #[test]
    fn what_is_excluded_is_not_matched() {
        let mut all = required(&[("*", "*")], false);
        all.exclude.push(pattern("m.room.create", ""));
        assert!(!all.matches("m.room.create", ""));
        assert!(all.matches("m.room.name", ""));
    }

    #[test]
    fn a_config_is_expanded_unless_the_known_one_surely_gives_all_of_it() {
        let name = required(&[("m.room.name", "")], false);
        let all = required(&[("*", "*")], false);
        let lazy = required(&[("*", "*")], true);
        let me = required(&[(MEMBER, "@me:h")], false);
        let expanded = |known: &RequiredState, new: &RequiredState| {
            is_expanded(std::slice::from_ref(known), std::slice::from_ref(new))
        };
        assert!(!expanded(&all, &name) && !expanded(&lazy, &name) && !expanded(&lazy, &lazy));
        assert!(expanded(&name, &all) && expanded(&lazy, &all) && expanded(&name, &me));
        assert!(expanded(&lazy, &me), "the member may not have been needed");
        let mut some = all.clone();
        some.exclude.push(pattern("m.room.name", ""));
        assert!(expanded(&some, &all) && !expanded(&all, &some));
    }
}
