//! How many connections each household has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use super::peer;
use crate::rates::household;

/// The connections of every household that has any, so no more entries than connections.
#[derive(Debug)]
pub(super) struct Households {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One of the connections of a household, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    households: Arc<Households>,
    household: IpAddr,
}

impl Households {
    /// Each may have `most` connections. Whatever may be a proxy may have any number.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            counts: Mutex::default(),
        })
    }

    /// Takes a place for a connection from `address`, if its household has one left.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let household = household(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&household).copied().unwrap_or_default();
        if count >= self.most && !peer::may_be_proxy(address) {
            return None;
        }
        counts.insert(household, count + 1);
        Some(Place {
            households: self.clone(),
            household,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = self.households.counts.lock();
        let mut counts = counts.unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.household) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.household);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Households, Place};

    #[test]
    fn a_household_has_so_many_connections_and_no_more() {
        let households = Households::new(2);
        let enter = |text: &str| households.enter(text.parse::<IpAddr>().unwrap());
        let first = enter("2001:db8::1").unwrap();
        let _second = enter("2001:db8::2").unwrap();
        assert!(enter("2001:db8::3").is_none());
        let _neighbour = enter("2001:db8:0:1::1").unwrap();
        drop(first);
        let _third = enter("2001:db8::3").unwrap();
        assert!(enter("2001:db8::4").is_none());
    }

    #[test]
    fn a_proxy_in_the_house_speaks_for_many() {
        let households = Households::new(2);
        let enter = || households.enter("127.0.0.1".parse().unwrap());
        let places: Vec<Option<Place>> = (0..10).map(|_| enter()).collect();
        assert!(places.iter().all(Option::is_some));
    }

    #[test]
    fn who_has_no_connection_is_forgotten() {
        let households = Households::new(2);
        for n in 0..100_u8 {
            drop(households.enter([192, 0, 2, n].into()).unwrap());
        }
        assert!(households.counts.lock().unwrap().is_empty());
    }
}
