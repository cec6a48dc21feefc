//! Questions at the terminal.

use std::io::{self, BufRead, IsTerminal};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Asks for a new password, twice and without showing it. `None` if an empty one is entered, or if there is
/// nobody to ask.
pub(super) fn prompt_password() -> io::Result<Option<String>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    loop {
        let password = prompt_hidden("New password (empty: one is made up): ")?;
        if password.is_empty() {
            return Ok(None);
        }
        if prompt_hidden("The same again: ")? == password {
            return Ok(Some(password));
        }
        eprintln!("These are not the same.");
    }
}

/// Asks for a confirmation. Without a terminal there is none.
pub(super) fn confirm(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        eprintln!("hearth: {question} Add --yes to do so.");
        return false;
    }
    eprint!("{question} [y/N] ");
    let is_confirmed = read_line().is_ok_and(|answer| answer.eq_ignore_ascii_case("y"));
    if !is_confirmed {
        eprintln!("Nothing was changed.");
    }
    is_confirmed
}

/// The first line of the standard input.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] at the end of the input.
pub(super) fn read_line() -> io::Result<String> {
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(line)
}

fn prompt_hidden(question: &str) -> io::Result<String> {
    eprint!("{question}");
    let _hidden = Hidden::new()?;
    let line = read_line();
    eprintln!();
    line
}

/// The terminal does not echo what is typed, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
