//! The limits of one attempt to fetch auth chains from another server.

use super::event_source::FetchError;

/// How many requests the auth chains of one attempt may take, how many bytes the responses may have, and
/// how many of the events in long ones are verified.
const MAX_REQUESTS: usize = 150;
const MAX_BYTES: usize = 16 * 1024 * 1024;
const MAX_EVENTS: usize = 10_000;
/// How many events are left out in one attempt because the server does not give the state before them. It has
/// given the events, so it is at fault.
const MAX_UNKNOWN_STATES: usize = 10;

/// What is left of the limits of one attempt to fetch auth chains from another server.
#[derive(Debug)]
pub struct FetchBudget {
    pub requests: usize,
    bytes: usize,
    pub events: usize,
    unknown_states: usize,
}

impl Default for FetchBudget {
    fn default() -> Self {
        Self {
            requests: MAX_REQUESTS,
            bytes: MAX_BYTES,
            events: MAX_EVENTS,
            unknown_states: MAX_UNKNOWN_STATES,
        }
    }
}

impl FetchBudget {
    /// # Errors
    /// [`FetchError::Unavailable`] if so many more requests are not allowed.
    pub fn spend_requests(&mut self, count: usize) -> Result<(), FetchError> {
        let left = self.requests.checked_sub(count);
        let left = left.filter(|_| self.bytes > 0);
        self.requests = left.ok_or(FetchError::Unavailable)?;
        Ok(())
    }

    /// Whether another event may be left out because the server does not give the state before it.
    pub fn may_leave_out(&mut self) -> bool {
        let left = self.unknown_states.checked_sub(1);
        self.unknown_states = left.unwrap_or(0);
        left.is_some()
    }

    /// The last response may exceed the budget. Its size is limited by the source.
    pub fn spend_bytes(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::{FetchBudget, MAX_BYTES, MAX_REQUESTS};

    #[test]
    fn a_server_that_gives_no_end_of_an_auth_chain_is_given_up() {
        let mut budget = FetchBudget::default();
        let spent = (0..).take_while(|_| budget.spend_requests(1).is_ok());
        assert_eq!(spent.count(), MAX_REQUESTS);
        let mut budget = FetchBudget::default();
        budget.spend_bytes(MAX_BYTES / 2);
        assert!(budget.spend_requests(1).is_ok());
        budget.spend_bytes(MAX_BYTES / 2);
        assert!(budget.spend_requests(1).is_err());
    }
}
