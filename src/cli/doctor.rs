use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{
    admin::{Admin, Error, command},
    output::finish,
    table::printable,
};

command! {
    /// Check what other servers and apps find of this one, and this machine: what is wrong, and what to do. The exit
    /// code is 1 if something is wrong.
    Doctor "doctor" {}
}

/// In the order in which they are printed.
const STATES: [(&str, &str); 4] = [
    ("error", "WRONG"),
    ("warning", "warning"),
    ("unknown", "unknown"),
    ("ok", "ok"),
];

impl Doctor {
    pub(super) fn run(self) -> ExitCode {
        let report = match self.options().perform(check) {
            Ok(report) => report,
            Err(code) => return code,
        };
        let text = match self.json {
            true => format!("{report:#}\n"),
            false => show(&report),
        };
        match (finish(&text), &report["green"]) {
            (ExitCode::SUCCESS, Value::Bool(false)) => ExitCode::FAILURE,
            (code, _) => code,
        }
    }
}

async fn check(admin: &Admin<'_>) -> Result<Value, Error> {
    let is_stopped = matches!(admin, Admin::Offline(_));
    let mut request = json!({ "is_stopped": is_stopped });
    loop {
        let mut response = admin.request("doctor", &request).await?;
        if response["report"].is_object() {
            return Ok(response["report"].take());
        }
        request["run"] = response["run"].clone();
        if io::stderr().is_terminal() {
            let steps = response["waiting_for"].as_array().into_iter().flatten();
            let steps: Vec<_> = steps.filter_map(Value::as_str).collect();
            eprintln!("waiting for {} …", steps.join(", "));
        }
    }
}

fn show(report: &Value) -> String {
    let mut text = String::new();
    let findings = report["findings"].as_array().into_iter().flatten();
    let findings: Vec<_> = findings.collect();
    let mut counts = Vec::new();
    for (state, title) in STATES {
        let of_state = findings.iter().filter(|finding| finding["state"] == state);
        let mut count = 0;
        for finding in of_state {
            count += 1;
            let field = |name: &str| printable(finding[name].as_str().unwrap_or_default());
            text += &format!("{title:<7}  {:<11}  {}\n", field("check"), field("problem"));
            let advice = field("advice");
            if !advice.is_empty() {
                text += &format!("{:22}{advice}\n", "");
            }
        }
        counts.push(count);
    }
    text += &match counts[..] {
        [0, 0, ..] => "Nothing is wrong.\n".to_owned(),
        [errors, warnings, ..] => format!("{errors} wrong, {warnings} warnings\n"),
        _ => String::new(),
    };
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::show;

    #[test]
    fn what_is_wrong_comes_first_with_what_to_do() {
        let finding = |check: &str, state: &str, advice: &str| json!({ "check": check, "state": state, "problem": "Seen.", "advice": advice });
        let report =
            json!({ "findings": [finding("dns", "ok", ""), finding("clock", "error", "Set it.")] });
        assert_eq!(
            show(&report),
            "WRONG    clock        Seen.\n                      Set it.\nok       dns          Seen.\n\
             1 wrong, 0 warnings\n"
        );
    }
}
