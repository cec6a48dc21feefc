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

/// Asks for a line; `default` is the answer if it is empty.
pub(super) fn prompt(question: &str, default: &str) -> io::Result<String> {
    match default {
        "" => eprint!("{question}: "),
        default => eprint!("{question} [{default}]: "),
    }
    let answer = read_line()?;
    match answer.trim() {
        "" => Ok(default.to_owned()),
        answer => Ok(answer.to_owned()),
    }
}

/// Asks for a confirmation. Without a terminal there is none but the argument `instead`.
pub(super) fn confirm(question: &str, instead: &str) -> bool {
    if !io::stdin().is_terminal() {
        eprintln!("hearth: {question} Add {instead} to do so.");
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
    // What is typed before is not taken: whoever has seen the question may type.
    let _hidden = Hidden::new()?;
    eprint!("{question}");
    let line = read_typed(io::stdin().lock());
    eprintln!();
    line
}

/// The line that is typed at a terminal which passes on each key.
///
/// # Errors
/// [`io::ErrorKind::Interrupted`] for Ctrl-C. If that were a signal, the terminal would stay as it is.
fn read_typed(keys: impl BufRead) -> io::Result<String> {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    const CTRL_U: u8 = 21;

    let mut line = Vec::new();
    for key in keys.bytes() {
        match key? {
            CTRL_C => {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "it was interrupted",
                ));
            }
            b'\n' | b'\r' => {
                let text = String::from_utf8(line);
                return text.map_err(|_| io::Error::other("it is not text in UTF-8"));
            }
            CTRL_D if line.is_empty() => break,
            CTRL_U => line.clear(),
            8 | 127 => {
                // A character ends where its first byte is gone.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            byte if byte < b' ' => {}
            byte => line.push(byte),
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The terminal does not show what is typed and passes on each key, until this is dropped.
struct Hidden(Termios);

impl Hidden {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::read_typed;

    #[test]
    fn a_hidden_line_can_be_corrected() {
        for (keys, line) in [
            ("secret\n", "secret"),
            ("sä\u{7f}ecret\rmore", "secret"),
            ("wrong\u{15}secret\n", "secret"),
            ("\u{8}se\u{1b}cret\u{4}\n", "secret"),
            ("\n", ""),
        ] {
            assert_eq!(read_typed(keys.as_bytes()).unwrap(), line, "{keys:?}");
        }
    }

    #[test]
    fn ctrl_c_and_the_end_of_the_input_give_no_password() {
        let kind = |keys: &[u8]| read_typed(keys).unwrap_err().kind();
        assert_eq!(kind(b"sec\x03ret\n"), ErrorKind::Interrupted);
        assert_eq!(kind(b"\x04"), ErrorKind::UnexpectedEof);
        assert_eq!(kind(b"secret"), ErrorKind::UnexpectedEof);
        assert_eq!(kind(b"\xff\n"), ErrorKind::Other);
    }
}
