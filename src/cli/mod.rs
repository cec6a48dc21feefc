//! The command line: one file per command, each a struct with `run`.

mod admin;
mod announce;
mod backup;
mod config;
mod doctor;
mod federation;
mod invite;
mod log;
mod media;
mod output;
mod push;
mod reports;
mod restore;
mod room;
mod rotate_key;
mod serve;
mod setup;
mod status;
mod table;
mod terminal;
mod user;
mod version;
mod why;

use std::{env, process::ExitCode};

use argh::FromArgs;

/// A Matrix homeserver for the smallest computers that people own.
#[derive(FromArgs)]
struct Hearth {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Command {
    Setup(setup::Setup),
    Serve(serve::Serve),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Backup(backup::Backup),
    Restore(restore::Restore),
    User(user::User),
    Invite(invite::Invite),
    Room(room::Room),
    Media(media::Media),
    Federation(federation::Federation),
    Push(push::Push),
    Reports(reports::Reports),
    Announce(announce::Announce),
    Why(why::Why),
    Log(log::Log),
    RotateKey(rotate_key::RotateKey),
    Version(version::Version),
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let command = match command() {
        Ok(command) => command,
        Err(code) => return code,
    };
    match command {
        Command::Setup(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Backup(command) => command.run(),
        Command::Restore(command) => command.run(),
        Command::User(command) => command.run(),
        Command::Invite(command) => command.run(),
        Command::Room(command) => command.run(),
        Command::Media(command) => command.run(),
        Command::Federation(command) => command.run(),
        Command::Push(command) => command.run(),
        Command::Reports(command) => command.run(),
        Command::Announce(command) => command.run(),
        Command::Why(command) => command.run(),
        Command::Log(command) => command.run(),
        Command::RotateKey(command) => command.run(),
        Command::Version(command) => command.run(),
    }
}

/// The command of the process's arguments. `-h`, `-V` and `--version` work as with other programs.
fn command() -> Result<Command, ExitCode> {
    let mut arguments: Vec<String> = env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    for argument in arguments.iter_mut().skip(1) {
        if argument == "-h" {
            "--help".clone_into(argument);
        }
    }
    match arguments.get(1).map(String::as_str) {
        Some("-V" | "--version") => Ok(Command::Version(version::Version {})),
        _ => parse(&arguments),
    }
}

/// Prints what there is to say of arguments that are invalid or ask for help.
fn parse(arguments: &[String]) -> Result<Command, ExitCode> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (program, rest) = arguments.split_first().unwrap_or((&"hearth", &[]));
    let name = program.rsplit('/').next().unwrap_or(program);
    match Hearth::from_args(&[name], rest) {
        Ok(hearth) => Ok(hearth.command),
        Err(early) if early.status.is_ok() => Err(output::finish(&format!("{}\n", early.output))),
        Err(early) => {
            eprintln!("{}\nRun {name} --help for more information.", early.output);
            Err(ExitCode::FAILURE)
        }
    }
}
