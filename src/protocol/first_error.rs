//! Carries read errors through ruma.
//!
//! ruma's functions take closures that return `Option`, so a failed read would look like an absent
//! event, and the verdict would be wrong. The error is kept here and checked before the verdict is
//! used.

use std::cell::RefCell;

/// Holds the first read error. All reads after it return `None`, so that ruma ends soon.
pub(super) struct FirstError<E>(RefCell<Option<E>>);

impl<E> FirstError<E> {
    pub(super) fn new() -> Self {
        Self(RefCell::new(None))
    }

    pub(super) fn read<T>(&self, read: impl FnOnce() -> Result<Option<T>, E>) -> Option<T> {
        if self.0.borrow().is_some() {
            return None;
        }
        read().unwrap_or_else(|error| {
            *self.0.borrow_mut() = Some(error);
            None
        })
    }

    /// Must be called before a result is used.
    pub(super) fn check(self) -> Result<(), E> {
        self.0.into_inner().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::FirstError;

    #[test]
    fn after_the_first_error_nothing_is_read() {
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
