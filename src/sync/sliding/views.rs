//! The rooms of a list that match some filters, kept with the list: so a request looks at the rooms of its
//! windows only.

use super::{entry::Order, filter::ResolvedFilters};

/// The rooms that match `filters`, without those that few lists have ([`Entry::is_special`]).
///
/// [`Entry::is_special`]: super::entry::Entry::is_special
#[derive(Debug)]
pub struct View {
    pub filters: ResolvedFilters,
    /// Sorted.
    pub rooms: Vec<Order>,
}

impl View {
    /// Moves a room from `before` to `after`, `None` if it is not in the view.
    pub fn update(&mut self, before: Option<Order>, after: Option<Order>) {
        let before = before.and_then(|before| self.rooms.binary_search(&before).ok());
        update(&mut self.rooms, before, after, |order| *order);
    }
}

/// Replaces the item at `before` in `sorted` by `after`, of which either may be none.
pub fn update<T>(
    sorted: &mut Vec<T>,
    before: Option<usize>,
    after: Option<T>,
    order: impl Fn(&T) -> Order,
) {
    let end_of =
        |sorted: &Vec<T>, item: &T| sorted.partition_point(|other| order(other) < order(item));
    match (before, after) {
        (Some(before), Some(after)) => {
            let place = end_of(sorted, &after);
            let place = if place <= before {
                sorted[place..=before].rotate_right(1);
                place
            } else {
                sorted[before..place].rotate_left(1);
                place - 1
            };
            sorted[place] = after;
        }
        (Some(before), None) => drop(sorted.remove(before)),
        (None, Some(after)) => {
            let place = end_of(sorted, &after);
            sorted.insert(place, after);
        }
        (None, None) => {}
    }
}

/// A view with some rooms more.
pub struct Merged<'a> {
    view: &'a [Order],
    /// With their indexes in the whole.
    others: Vec<(usize, Order)>,
}

impl<'a> Merged<'a> {
    /// `others` is sorted, and has nothing of `view`.
    pub fn new(view: &'a [Order], others: impl Iterator<Item = Order>) -> Self {
        let others = others.enumerate().map(|(number, other)| {
            let before = view.partition_point(|order| *order < other);
            (before + number, other)
        });
        Self {
            view,
            others: others.collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.view.len() + self.others.len()
    }

    /// # Panics
    /// Unless `index` is less than the length.
    pub fn get(&self, index: usize) -> Order {
        let before = self.others.partition_point(|(at, _)| *at < index);
        match self.others.get(before) {
            Some((at, order)) if *at == index => *order,
            _ => self.view[index - before],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;

    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::store::{Position, RoomNum};

    fn order(number: u64) -> Order {
        (Reverse(Position(number)), Reverse(RoomNum(1)))
    }

    fn random(rng: &mut StdRng, count: usize) -> Vec<Order> {
        let mut orders: Vec<Order> = (0..count)
            .map(|_| order(rng.random_range(0..1_000_000)))
            .collect();
        orders.sort_unstable();
        orders.dedup();
        orders
    }

    #[test]
    fn updates_keep_the_order() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut sorted = Vec::new();
        for _ in 0..2000 {
            let before = match sorted.len() {
                0 => None,
                _ if rng.random_ratio(1, 3) => None,
                len => Some(rng.random_range(0..len)),
            };
            let after = rng.random_ratio(2, 3).then(|| random(&mut rng, 1)[0]);
            let mut expected = sorted.clone();
            if let Some(before) = before {
                expected.remove(before);
            }
            expected.extend(after);
            expected.sort_unstable();
            update(&mut sorted, before, after, |order| *order);
            assert_eq!(sorted, expected);
        }
    }

    #[test]
    fn a_view_with_other_rooms_is_one_sorted_sequence() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let count = rng.random_range(0..30);
            let all = random(&mut rng, count);
            let (view, others): (Vec<Order>, Vec<Order>) =
                all.iter().partition(|_| rng.random_ratio(1, 2));
            let merged = Merged::new(&view, others.iter().copied());
            let merged: Vec<Order> = (0..merged.len()).map(|index| merged.get(index)).collect();
            assert_eq!(merged, all);
        }
    }
}
