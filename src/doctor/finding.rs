//! What a check finds: a sentence of what is wrong, and one of what to do.

use serde::Serialize;

/// The longest text of a finding.
const MAX_CHARS: usize = 1000;

/// How bad it is. The order is from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// It cannot be seen from here.
    Unknown,
    /// It works, but not well.
    Warning,
    /// Others cannot reach this server, or soon will not.
    Error,
}

#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    pub state: State,
    pub problem: String,
    /// What to do. Empty if nothing is to be done.
    pub advice: String,
}

/// What all checks found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether there is no error.
    pub green: bool,
    /// Milliseconds since the epoch.
    pub checked_ts: u64,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Finding {
    pub fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self::new(check, State::Ok, seen, "")
    }

    pub fn unknown(
        check: &'static str,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, State::Unknown, problem, advice)
    }

    pub fn warning(
        check: &'static str,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, State::Warning, problem, advice)
    }

    pub fn error(
        check: &'static str,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::new(check, State::Error, problem, advice)
    }

    pub fn new(
        check: &'static str,
        state: State,
        problem: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            state,
            problem: printable(problem.into()),
            advice: printable(advice.into()),
        }
    }
}

/// Findings go to terminals, logs and server notices, and may have text from elsewhere in them.
fn printable(text: String) -> String {
    let is_plain = |c: char| !c.is_control() && !is_invisible(c);
    if text.len() <= MAX_CHARS && text.chars().all(is_plain) {
        return text;
    }
    let mut printable = String::new();
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == MAX_CHARS => {
                printable.push('…');
                break;
            }
            c if is_plain(c) => printable.push(c),
            c => printable.extend(c.escape_unicode()),
        }
    }
    printable
}

/// What separates lines or changes the direction of text.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

impl Report {
    pub fn new(mut findings: Vec<Finding>, checked_ts: u64) -> Self {
        // Two addresses often have the same fault.
        let mut seen = std::collections::HashSet::new();
        findings.retain(|finding| seen.insert((finding.check, finding.problem.clone())));
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.state));
        let is_wrong = |finding: &Finding| finding.state == State::Error;
        Self {
            green: !findings.iter().any(is_wrong),
            checked_ts,
            findings,
        }
    }

    /// That of a check whose task has panicked.
    pub fn of_failed_check(checked_ts: u64) -> Self {
        let failed = Finding::error(
            "doctor",
            "The check itself has failed before it was done.",
            "This is a fault of hearth: please report it, with what the log says at this time.",
        );
        Self::new(vec![failed], checked_ts)
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, MAX_CHARS};

    #[test]
    fn text_from_elsewhere_is_escaped_and_has_a_limit() {
        let finding = Finding::ok("check", "Grüße\n\u{1b}[31m red \u{202e}txet");
        assert_eq!(finding.problem, "Grüße\\u{a}\\u{1b}[31m red \\u{202e}txet");
        let finding = Finding::error("check", "ä".repeat(MAX_CHARS + 1), "");
        assert_eq!(finding.problem, "ä".repeat(MAX_CHARS) + "…");
        let finding = Finding::error("check", "ä".repeat(MAX_CHARS), "");
        assert_eq!(finding.problem, "ä".repeat(MAX_CHARS));
    }
}
