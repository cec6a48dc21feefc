use std::{io, path::PathBuf};

/// The settings cannot be used. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("line {line}: `{key}` has to be {expected}")]
    Value {
        /// Counted from 1.
        line: usize,
        key: String,
        expected: &'static str,
    },
    /// The file is not TOML.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        message: String,
    },
    #[error("there is no setting `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        key: String,
        /// The setting that is most likely meant.
        nearest: &'static str,
    },
    /// A setting that is in the file and a credential.
    #[error(
        "`{key}` is in the settings file, and there is a credential `hearth_{key}` too; \
         remove one of them"
    )]
    Duplicate { key: &'static str },
    #[error("{0}")]
    Contradiction(&'static str),
}
