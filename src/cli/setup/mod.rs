//! `hearth setup`: settings, service and first account of a new server. What the arguments do not say is
//! asked for. Nothing is written before all questions about the settings are answered, and a second run
//! goes on where an earlier one was stopped.

mod advice;
mod answers;
mod arguments;
mod file;
mod machine;
mod service;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::process::geteuid;
use serde_json::{Value, json};

use self::{answers::Answers, service::Service};
pub(super) use self::{arguments::Setup, file::replace_file};
use super::{
    admin::{Admin, Options},
    config,
    output::print,
    terminal, user,
};
use crate::{server, store::Store};

impl Setup {
    pub(super) fn run(self) -> ExitCode {
        match self.set_up() {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        }
    }

    fn set_up(self) -> Result<(), ExitCode> {
        let is_root = geteuid().is_root();
        let place = |given: &Option<PathBuf>, of_root: &str, of_others: &str| {
            given
                .clone()
                .unwrap_or_else(|| PathBuf::from(if is_root { of_root } else { of_others }))
        };
        let path = place(&self.config, config::SYSTEM_FILE, "hearth.toml");
        let data_dir = place(&self.data_dir, service::DATA_DIR, "hearth-data");
        if !self.overwrite && file::has_settings(&path) {
            let question = format!("{} is there already. Replace it?", path.display());
            if self.yes {
                eprintln!(
                    "hearth: {} is there already. Add --overwrite to replace it.",
                    path.display()
                );
                return Err(ExitCode::FAILURE);
            }
            if !terminal::confirm(&question, "--overwrite") {
                return Err(ExitCode::FAILURE);
            }
        }
        let answers = Answers::collect(&self, &data_dir)?;
        let config = file::write(&answers, &path, &data_dir)?;
        show(&format!("The settings are in {}.\n", path.display()))?;

        let service = Service::find(&path, &data_dir).filter(|_| !self.no_start);
        if let Some(service) = &service {
            show("Starting the service …\n")?;
            service.start(&config).map_err(|error| failed(&error))?;
        } else if !Store::exists(&data_dir) {
            server::create_data(&config).map_err(|error| failed(&error))?;
        }
        let account = match self.no_account {
            true => None,
            false => self.first_account(&path)?,
        };
        let text = advice::of(&answers, &config, account.as_ref());
        show(&text)?;
        if service.is_none() {
            show(&format!(
                "\nStart the server with `hearth serve --config {}`.\n",
                path.display()
            ))?;
        }
        Ok(())
    }

    /// The response to the request that made the account; `None` if there are accounts already.
    fn first_account(&self, path: &Path) -> Result<Option<Value>, ExitCode> {
        let options = Options {
            config: Some(path.to_owned()),
            json: false,
        };
        let list = async |server: &Admin<'_>| server.request("user/list", &json!({})).await;
        let users = options.perform(list)?;
        if users["users"]
            .as_array()
            .is_some_and(|users| !users.is_empty())
        {
            show("There are accounts already: `hearth user list` shows them.\n")?;
            return Ok(None);
        }
        let mut given = self.user.clone();
        let name = loop {
            let name = match given.take() {
                Some(name) => name,
                None if self.yes => answers::likely_user(),
                None => terminal::prompt("Your user name", &answers::likely_user())
                    .map_err(|error| failed(&error))?,
            };
            let name = json!({ "username": name });
            let check = async |server: &Admin<'_>| server.request("user/check", &name).await;
            match options.perform(check) {
                Ok(_) => break name["username"].clone(),
                Err(code) if self.yes || self.user.is_some() => return Err(code),
                Err(_) => {}
            }
        };
        let password = user::password(
            self.generate || (self.yes && !self.password_stdin),
            self.password_stdin,
        )?;
        let request = json!({
            "username": name,
            "password": password,
            "admin": true,
        });
        let add = async |server: &Admin<'_>| server.request("user/add", &request).await;
        options.perform(add).map(Some)
    }
}

fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("hearth: {error}");
    ExitCode::FAILURE
}

fn show(text: &str) -> Result<(), ExitCode> {
    print(text).map_err(|error| failed(&error))
}
