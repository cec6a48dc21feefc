//! The rules of a server ACL ([server access control lists]), in a form that is cheap to evaluate.
//!
//! Any member with the power to may send an ACL of any entries, so the cost of an evaluation must not be
//! more than linear in the size of the ACL. Entries without wildcards are found by binary search. For the
//! others see [`GlobText`].
//!
//! [server access control lists]: https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls

use ruma::{CanonicalJsonObject, CanonicalJsonValue, ServerName};

use super::glob::{GlobText, MAX_TEXT_BYTES};

#[derive(Debug)]
pub struct ServerAcl {
    allow_ip_literals: bool,
    allow: Patterns,
    deny: Patterns,
}

impl ServerAcl {
    /// The ACL without what is malformed in it. NOTSPEC: as in Synapse, an entry that is no string is
    /// skipped, and another field of a wrong type counts as missing: so the rest holds.
    pub fn parse(content: &CanonicalJsonObject) -> Self {
        let allow_ip_literals = match content.get("allow_ip_literals") {
            Some(CanonicalJsonValue::Bool(allow)) => *allow,
            _ => true,
        };
        let patterns = |field| match content.get(field) {
            Some(CanonicalJsonValue::Array(entries)) => {
                Patterns::new(entries.iter().filter_map(CanonicalJsonValue::as_str))
            }
            _ => Patterns::default(),
        };
        Self {
            allow_ip_literals,
            allow: patterns("allow"),
            deny: patterns("deny"),
        }
    }

    pub fn allows(&self, server: &ServerName) -> bool {
        if !self.allow_ip_literals && server.is_ip_literal() {
            return false;
        }
        let name = server.host().to_ascii_lowercase();
        // DNS names have at most 253 characters, and are ASCII.
        let Some(host) = GlobText::new(&name).filter(|_| name.is_ascii()) else {
            return false;
        };
        !self.deny.matches(&host) && self.allow.matches(&host)
    }

    /// The memory that it takes, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.allow.memory() + self.deny.memory()
    }
}

/// The entries of a list that can match a host name, in lower case.
#[derive(Debug, Default)]
struct Patterns {
    /// Those without wildcards, sorted.
    names: Vec<Box<str>>,
    globs: Vec<Box<str>>,
}

impl Patterns {
    fn new<'a>(entries: impl Iterator<Item = &'a str>) -> Self {
        let mut patterns = Self::default();
        for entry in entries {
            let entry = entry.to_lowercase();
            // Host names are ASCII, and a wildcard other than `*` stands for one character.
            let characters = entry.bytes().filter(|byte| *byte != b'*').count();
            if !entry.is_ascii() || characters > MAX_TEXT_BYTES {
                continue;
            }
            let list = match entry.contains(['*', '?']) {
                true => &mut patterns.globs,
                false => &mut patterns.names,
            };
            list.push(entry.into_boxed_str());
        }
        for list in [&mut patterns.names, &mut patterns.globs] {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        patterns
    }

    fn matches(&self, host: &GlobText<'_>) -> bool {
        let is_named = self
            .names
            .binary_search_by(|name| (**name).cmp(host.text()));
        is_named.is_ok() || self.globs.iter().any(|glob| host.matches(glob))
    }

    fn memory(&self) -> usize {
        /// Of an allocation.
        const OVERHEAD: usize = 16;
        let entries = self.names.iter().chain(&self.globs);
        entries
            .map(|entry| size_of::<Box<str>>() + entry.len() + OVERHEAD)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{
        OwnedServerName, canonical_json::to_canonical_value,
        events::room::server_acl::RoomServerAclEventContent, server_name,
    };
    use serde_json::{Value, json};

    use super::*;

    fn acl(content: Value) -> ServerAcl {
        match to_canonical_value(content).expect("canonical JSON") {
            CanonicalJsonValue::Object(content) => ServerAcl::parse(&content),
            _ => panic!("not an object"),
        }
    }

    fn allows(content: Value, server: &ServerName) -> bool {
        acl(content).allows(server)
    }

    #[test]
    fn malformed_entries_of_an_acl_are_skipped_and_the_others_hold() {
        let (good, evil) = (server_name!("good.example"), server_name!("evil.example"));
        for odd in [json!(1), json!(null), json!({}), json!(["evil.example"])] {
            let acl = json!({ "allow": [odd, "*"], "deny": [odd, "evil.*"] });
            assert!(allows(acl.clone(), good) && !allows(acl, evil));
            let acl = json!({ "allow": ["*"], "deny": odd, "allow_ip_literals": odd });
            assert!(allows(acl.clone(), good) && allows(acl, server_name!("1.2.3.4")));
            assert!(!allows(json!({ "allow": odd }), good));
        }
    }

    #[test]
    fn names_are_compared_without_case_and_port_and_ip_literals_can_be_denied() {
        let acl = json!({ "allow": ["*"], "deny": ["EVIL.*", "bad.example"], "allow_ip_literals": false });
        for (server, allowed) in [
            ("evil.example:8448", false),
            ("Bad.Example", false),
            ("good.example", true),
            ("not-evil.example", true),
            ("1.2.3.4", false),
            ("[::1]:8448", false),
        ] {
            let server = ServerName::parse(server).expect("a server name");
            assert_eq!(allows(acl.clone(), &server), allowed, "{server}");
        }
    }

    /// All texts of up to `length` of these characters.
    fn texts(characters: &str, length: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut last = all.clone();
        for _ in 0..length {
            let longer = last
                .iter()
                .flat_map(|text| characters.chars().map(move |c| format!("{text}{c}")));
            last = longer.collect();
            all.extend_from_slice(&last);
        }
        all
    }

    #[test]
    fn every_short_pattern_matches_what_it_does_in_ruma() {
        let servers = texts("ab", 5)
            .into_iter()
            .filter(|name| !name.is_empty())
            .map(|name| OwnedServerName::try_from(name).expect("a server name"))
            .collect::<Vec<_>>();
        for pattern in texts("ab*?", 5) {
            let expected = RoomServerAclEventContent::new(true, vec![pattern.clone()], Vec::new());
            let acl = acl(json!({ "allow": [pattern] }));
            for server in &servers {
                let expected = expected.is_allowed(server);
                assert_eq!(acl.allows(server), expected, "{pattern} {server}");
            }
        }
    }

    #[test]
    fn patterns_match_in_names_of_the_maximal_length() {
        let long = |middle: usize| format!("{}b{}", "a".repeat(middle), "a".repeat(254 - middle));
        for middle in [0, 1, 127, 128, 129, 200, 253] {
            let server = ServerName::parse(long(middle)).expect("a server name");
            for (pattern, matches) in [
                ("*a*a*a*b*".to_owned(), middle >= 3),
                (
                    format!("*{}*", "a".repeat(128)),
                    middle.max(254 - middle) >= 128,
                ),
                (format!("{}b*", "?".repeat(middle)), true),
                (format!("*{}b?*", "?".repeat(middle)), true),
                (format!("*{}b*", "?".repeat(middle + 1)), false),
                ("?".repeat(255), true),
                ("?".repeat(256), false),
            ] {
                let allowed = allows(json!({ "allow": [pattern] }), &server);
                assert_eq!(allowed, matches, "{pattern} {middle}");
            }
        }
        let too_long = ServerName::parse("a".repeat(256)).expect("a server name");
        assert!(!allows(json!({ "allow": ["*"] }), &too_long));
    }

    #[test]
    fn entries_that_match_no_host_name_take_no_memory() {
        let empty = acl(json!({})).memory();
        let entries = ["ä.example".to_owned(), "a".repeat(256), "?".repeat(256)];
        assert_eq!(acl(json!({ "deny": entries })).memory(), empty);
        assert!(acl(json!({ "deny": ["a"] })).memory() > empty);
    }
}
