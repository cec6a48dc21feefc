//! Authorizing one event against its auth events and against states of its room. Each event that
//! the rules look at is parsed once.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules};

use crate::{
    protocol::{
        Pdu,
        authorize::{AuthError, StateRead, check_by_auth_events, check_by_state},
    },
    rooms::{Error, event, state::overlay::StateOverlay},
    store::{EventNum, Reader, RoomNum, records::Status},
};

/// Parsed events of a room, kept while one event is decided.
pub(in crate::rooms) struct ParsedEvents<'r, R> {
    r: &'r R,
    room: RoomNum,
    rules: &'static RoomVersionRules,
    /// Whether those that the states before them reject count as rejected.
    counts_rejected_by_state: bool,
    by_id: RefCell<HashMap<OwnedEventId, (EventNum, Arc<Pdu>)>>,
    ids: RefCell<HashMap<EventNum, OwnedEventId>>,
}

impl<'r, R: Reader> ParsedEvents<'r, R> {
    pub(in crate::rooms) fn new(r: &'r R, room: RoomNum, rules: &'static RoomVersionRules) -> Self {
        Self {
            r,
            room,
            rules,
            counts_rejected_by_state: true,
            by_id: RefCell::default(),
            ids: RefCell::default(),
        }
    }

    /// The same where no event counts as rejected because of the state before it: of states that are derived
    /// again, that is not known yet.
    pub(in crate::rooms) fn regardless_of_states(self) -> Self {
        Self {
            counts_rejected_by_state: false,
            ..self
        }
    }

    /// How many events are kept.
    pub(in crate::rooms) fn len(&self) -> usize {
        self.ids.borrow().len()
    }

    /// The event `num` of the room.
    pub(in crate::rooms) fn get(&self, num: EventNum) -> Result<Arc<Pdu>, Error> {
        if let Some(id) = self.ids.borrow().get(&num) {
            return Ok(self.by_id.borrow()[id].1.clone());
        }
        let mut stored = event::load(self.r, num)?;
        if !self.counts_rejected_by_state && stored.header.status == Status::RejectedByState {
            stored.header.status = Status::Accepted;
        }
        let pdu = Arc::new(stored.pdu(self.rules)?);
        let id = pdu.event_id().to_owned();
        self.ids.borrow_mut().insert(num, id.clone());
        self.by_id.borrow_mut().insert(id, (num, pdu.clone()));
        Ok(pdu)
    }

    /// The event `id` of the room.
    pub(in crate::rooms) fn find(
        &self,
        id: &EventId,
    ) -> Result<Option<(EventNum, Arc<Pdu>)>, Error> {
        if let Some(found) = self.by_id.borrow().get(id) {
            return Ok(Some(found.clone()));
        }
        let num = event::num_in(self.r, self.room, id)?;
        num.map(|num| Ok((num, self.get(num)?))).transpose()
    }

    fn num_of(&self, pdu: &Pdu) -> Option<EventNum> {
        let by_id = self.by_id.borrow();
        by_id.get(pdu.event_id()).map(|(num, _)| *num)
    }

    /// Whether its auth events and `state` allow the event.
    pub(in crate::rooms) fn allows(&self, pdu: &Pdu, state: &StateOverlay) -> Result<bool, Error> {
        match allowed(pdu, self.authorize(pdu))? {
            Some(authorized) => authorized.is_allowed_by(state),
            None => Ok(false),
        }
    }

    /// Checks the event by its auth events, which must all be here ([`check_by_auth_events`]).
    pub(in crate::rooms) fn authorize<'a>(
        &'a self,
        pdu: &'a Pdu,
    ) -> Result<Authorization<'a, 'r, R>, AuthError<Error>> {
        Ok(Authorization {
            events: self,
            pdu,
            reads: check_by_auth_events(pdu, self.rules, |id| {
                Ok(self.find(id)?.map(|(_, pdu)| pdu))
            })?,
            allowed_by: OnceCell::new(),
        })
    }
}

/// An event that its auth events allow.
pub(in crate::rooms) struct Authorization<'a, 'r, R> {
    events: &'a ParsedEvents<'r, R>,
    pdu: &'a Pdu,
    /// What the check by auth events read.
    reads: Vec<StateRead>,
    /// A state that allows the event.
    allowed_by: OnceCell<StateOverlay>,
}

impl<R: Reader> Authorization<'_, '_, R> {
    /// Whether `state` allows the event. The rules are evaluated only if `state` differs where they
    /// read the auth events: else the verdict is the same.
    pub(in crate::rooms) fn is_allowed_by(&self, state: &StateOverlay) -> Result<bool, Error> {
        if self.allowed_by.get() == Some(state) {
            return Ok(true);
        }
        let is_allowed = self.agrees(state)? || self.evaluate(state)?;
        if is_allowed {
            // A later state is compared with the first one.
            let _ = self.allowed_by.set(state.clone());
        }
        Ok(is_allowed)
    }

    fn agrees(&self, state: &StateOverlay) -> Result<bool, Error> {
        let (r, room) = (self.events.r, self.events.room);
        for ((kind, state_key), read) in &self.reads {
            let read = read.as_ref().and_then(|pdu| self.events.num_of(pdu));
            if state.get(r, room, &kind.to_string(), state_key)? != read {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn evaluate(&self, state: &StateOverlay) -> Result<bool, Error> {
        let (r, room) = (self.events.r, self.events.room);
        let fetch_state = |kind: &StateEventType, state_key: &str| {
            let num = state.get(r, room, &kind.to_string(), state_key)?;
            num.map(|num| self.events.get(num)).transpose()
        };
        let checked = check_by_state(self.pdu, self.events.rules, fetch_state);
        Ok(allowed(self.pdu, checked)?.is_some())
    }
}

/// What `checked` returned, or `None` if the rules do not allow the event `pdu`.
pub(in crate::rooms) fn allowed<T>(
    pdu: &Pdu,
    checked: Result<T, AuthError<Error>>,
) -> Result<Option<T>, Error> {
    match checked {
        Ok(result) => Ok(Some(result)),
        Err(AuthError::Rejected(reason)) => {
            log::debug!("{} is not allowed: {reason}", pdu.event_id());
            Ok(None)
        }
        Err(AuthError::Read(error)) => Err(error),
    }
}

impl From<AuthError<Self>> for Error {
    fn from(error: AuthError<Self>) -> Self {
        match error {
            AuthError::Rejected(reason) => Self::Forbidden(reason.into()),
            AuthError::Read(error) => error,
        }
    }
}
