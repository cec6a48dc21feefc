use std::process::ExitCode;

use serde_json::{Value, json};

use super::admin::command;

command! {
    /// Send a message to everybody with an account, as a server notice.
    Announce "announce" {
        /// the message
        #[argh(positional)]
        message: String,
    }
}

impl Announce {
    pub(super) fn run(self) -> ExitCode {
        let request = json!({ "body": self.message });
        let show = |_: &Value| "The message is on its way to everybody.\n".to_owned();
        self.options().run("announce", &request, show)
    }
}
