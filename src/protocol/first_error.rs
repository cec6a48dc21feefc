//! Carries a caller's read error past ruma.
//!
//! ruma's functions take closures that answer `Option`: a failed read would look like an absent
//! event, and a verdict would be built on it. So the error is kept here, and looked at before the
//! verdict is believed.

use std::cell::RefCell;

/// Holds the first read error. After it every read answers `None`, so that ruma ends soon.
pub(super) struct FirstError<E>(RefCell<Option<E>>);

impl<E> FirstError<E> {
    pub(super) fn new() -> Self {
        Self(RefCell::new(None))
    }

    /// Reads, unless a read has failed before.
    pub(super) fn read<T>(&self, read: impl FnOnce() -> Result<Option<T>, E>) -> Option<T> {
        if self.0.borrow().is_some() {
            return None;
        }
        read().unwrap_or_else(|error| {
            *self.0.borrow_mut() = Some(error);
            None
        })
    }

    /// The first read error, if any. Must be asked before a result is used.
    pub(super) fn check(self) -> Result<(), E> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::FirstError;

    #[test]
    fn the_first_error_wins_and_ends_all_reading() {
        let first_error = FirstError::new();
        assert_eq!(first_error.read(|| Ok(Some(1))), Some(1));
        assert_eq!(first_error.read(|| Err::<Option<u8>, _>("disk")), None);
        assert_eq!(
            first_error.read(|| -> Result<Option<u8>, _> { unreachable!() }),
            None
        );
        assert_eq!(first_error.check(), Err("disk"));
    }
}
