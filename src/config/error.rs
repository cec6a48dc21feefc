use std::{io, path::PathBuf};

/// The settings cannot be used. The messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    /// The file is not TOML, or a value has the wrong type.
    #[error("line {line}: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        message: String,
    },
    #[error("there is no setting `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        key: String,
        /// The setting with the most similar name.
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
