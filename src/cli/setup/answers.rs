//! What a new server is to be.

use std::{env, io, path::Path, process::ExitCode};

use ruma::{OwnedServerName, ServerName};

use super::{arguments::Setup, machine};
use crate::{cli::terminal, config::is_local, users::accounts::generate_password};

pub(super) struct Answers {
    pub name: OwnedServerName,
    /// Where apps reach the server, if not at its name.
    pub url: Option<String>,
    /// The e-mail address for the certificate. Without one, a proxy has it.
    pub acme: Option<String>,
    pub registration: Registration,
    pub memory: String,
    pub disk: Option<String>,
    /// Lines of the file.
    pub others: Vec<String>,
}

pub(super) enum Registration {
    Closed,
    /// With this registration token.
    Token(String),
    /// Only where nobody else can connect.
    Open,
}

impl Answers {
    /// What `setup` says, and what is asked for.
    pub(super) fn collect(setup: &Setup, data_dir: &Path) -> Result<Self, ExitCode> {
        let ask = Questions {
            are_asked: !setup.yes,
        };
        let name = ask.name(setup.name.as_deref())?;
        let is_local = is_local(&name);
        let url = match &setup.url {
            Some(url) => Some(url.clone()),
            None if is_local => None,
            None => ask.url(&name)?,
        };
        let acme = match &setup.acme {
            Some(contact) => Some(contact.clone()),
            None if is_local || setup.proxy => None,
            None => ask.acme()?,
        };
        let memory = ask.or_given(
            setup.memory.as_ref(),
            "Memory that hearth may use",
            &machine::memory(),
        )?;
        let disk = match (&setup.disk, machine::disk(data_dir)) {
            (None, Some(default)) => Some(ask.text("Disk space that it may use", &default)?),
            (given, _) => given.clone(),
        };
        Ok(Self {
            registration: ask.registration(setup.registration.as_deref(), is_local)?,
            name,
            url,
            acme,
            memory,
            disk,
            others: setup.set.clone(),
        })
    }
}

/// The name for the first account.
pub(super) fn likely_user() -> String {
    let names = ["SUDO_USER", "USER"]
        .into_iter()
        .filter_map(|name| env::var(name).ok());
    let mut names = names.filter(|name| !name.is_empty() && name != "root");
    names.next().unwrap_or_else(|| "admin".to_owned())
}

struct Questions {
    are_asked: bool,
}

impl Questions {
    /// The answer, or `default` if there is none or nothing is asked.
    fn text(&self, question: &str, default: &str) -> Result<String, ExitCode> {
        match self.are_asked {
            true => terminal::prompt(question, default).map_err(|error| no_answer(&error)),
            false => Ok(default.to_owned()),
        }
    }

    fn or_given(
        &self,
        given: Option<&String>,
        question: &str,
        default: &str,
    ) -> Result<String, ExitCode> {
        given.map_or_else(|| self.text(question, default), |given| Ok(given.clone()))
    }

    fn is_so(&self, question: &str) -> Result<bool, ExitCode> {
        let answer = self.text(question, "n")?;
        Ok(answer.eq_ignore_ascii_case("y") || answer.eq_ignore_ascii_case("yes"))
    }

    fn name(&self, given: Option<&str>) -> Result<OwnedServerName, ExitCode> {
        if given.is_none() && !self.are_asked {
            eprintln!("hearth: give the server name, such as --name example.org");
            return Err(ExitCode::FAILURE);
        }
        let mut given = given.map(str::to_owned);
        loop {
            let is_given = given.is_some();
            let name = match given.take() {
                Some(name) => name,
                None => self.text("The name of the server, such as example.org", "")?,
            };
            let name = match ServerName::parse(name.trim().to_lowercase()) {
                Ok(name) => name,
                Err(_) => {
                    eprintln!(
                        "{name:?} is no server name: it has to be a domain name of yours, such as example.org"
                    );
                    if is_given {
                        return Err(ExitCode::FAILURE);
                    }
                    continue;
                }
            };
            eprintln!("You will be @you:{name}. This name is for ever: it can never be changed.");
            warn_of_addresses(&name);
            if is_given || self.is_so("Is it right? (y/n)")? {
                return Ok(name);
            }
        }
    }

    fn url(&self, name: &ServerName) -> Result<Option<String>, ExitCode> {
        if !self.is_so(&format!(
            "Is there another web site at https://{name}? (y/n)"
        ))? {
            return Ok(None);
        }
        let default = format!("https://matrix.{name}");
        self.text("Then hearth needs another address", &default)
            .map(Some)
    }

    fn acme(&self) -> Result<Option<String>, ExitCode> {
        if self.are_asked && machine::is_taken(443) {
            eprintln!(
                "Port 443 is in use. If that is not hearth itself but a web server, it has to pass requests on to \
                 hearth, and needs the certificate."
            );
        }
        let question = "Your e-mail address, for a certificate from Let's Encrypt\n\
                        (nothing if a reverse proxy in front has one)";
        let contact = self.text(question, "")?;
        Ok(Some(contact).filter(|contact| !contact.is_empty()))
    }

    fn registration(&self, given: Option<&str>, is_local: bool) -> Result<Registration, ExitCode> {
        let mut given = given.map(str::to_owned);
        loop {
            let is_given = given.is_some();
            let question = "Who can make an account: closed (only who is invited), or token\n\
                            (everybody who knows a registration token)";
            let default = if is_local { "open" } else { "closed" };
            let answer = given
                .take()
                .map_or_else(|| self.text(question, default), Ok)?;
            match answer.as_str() {
                "closed" => return Ok(Registration::Closed),
                "token" => return Ok(Registration::Token(generate_password())),
                "open" if is_local => return Ok(Registration::Open),
                _ => eprintln!("{answer:?} has to be closed or token"),
            }
            if is_given {
                return Err(ExitCode::FAILURE);
            }
        }
    }
}

/// A warning is no refusal: the name may get its address later.
fn warn_of_addresses(name: &ServerName) {
    if is_local(name) {
        return;
    }
    let host = name.host();
    match machine::addresses(host.trim_start_matches('[').trim_end_matches(']')) {
        Ok(addresses) if addresses.iter().any(|address| machine::is_here(*address)) => {
            eprintln!("{host} leads to this computer.");
        }
        Ok(addresses) if !addresses.is_empty() => {
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            eprintln!(
                "Note: {host} leads to {}, which is not this computer itself. That is right if it is your router, \
                 which has to forward port 443 to here, or a web site that stays where it is.",
                shown.join(", ")
            );
        }
        _ => eprintln!(
            "Warning: {host} has no address yet. Is it a domain of yours? You will need a DNS record for it."
        ),
    }
}

fn no_answer(error: &io::Error) -> ExitCode {
    eprintln!(
        "hearth: there is no answer: {error}. `hearth setup --help` shows how to give all answers as options, \
         with --yes"
    );
    ExitCode::FAILURE
}
