//! Ranges of keys: from one whole key to another, or all keys that begin with the same parts.

use std::{
    borrow::Borrow,
    marker::PhantomData,
    ops::{Bound, RangeBounds},
};

use super::field::{Field, FixedWidth, bytes_of};

/// A value for one part of a key.
pub trait KeyPart {
    /// The part's type in the table.
    type Part: Field;

    /// Appends the bytes that the part has in front of another part.
    fn write_part(&self, bytes: &mut Vec<u8>);
}

impl<F: FixedWidth> KeyPart for F {
    type Part = F;

    fn write_part(&self, bytes: &mut Vec<u8>) {
        F::write(self, false, bytes);
    }
}

impl KeyPart for &str {
    type Part = &'static str;

    fn write_part(&self, bytes: &mut Vec<u8>) {
        <&str>::write(self, false, bytes);
    }
}

/// The beginning of a key of type `K`: its first part, or a tuple of its first parts.
pub trait Prefix<K> {
    /// The part that follows in the key.
    type Next: Field;

    /// Appends the bytes with which the keys begin.
    fn write_prefix(&self, bytes: &mut Vec<u8>);
}

macro_rules! first_part {
    ($(($first:ident, $next:ident $(, $rest:ident)*)),+) => {
        $(impl<View, $first, $next $(, $rest)*> Prefix<($first, $next $(, $rest)*)> for View
        where
            View: KeyPart<Part = $first>,
            $first: Field,
            $next: Field,
        {
            type Next = $next;

            fn write_prefix(&self, bytes: &mut Vec<u8>) {
                self.write_part(bytes);
            }
        })+
    };
}

first_part!((A, B), (A, B, C), (A, B, C, D), (A, B, C, D, E));

macro_rules! first_parts {
    ($($view:ident: $part:ident $place:tt),+; $next:ident $(, $rest:ident)*) => {
        impl<$($view, $part,)+ $next $(, $rest)*> Prefix<($($part,)+ $next $(, $rest)*)>
            for ($($view,)+)
        where
            $($view: KeyPart<Part = $part>, $part: Field,)+
            $next: Field,
        {
            type Next = $next;

            fn write_prefix(&self, bytes: &mut Vec<u8>) {
                $(self.$place.write_part(bytes);)+
            }
        }
    };
}

first_parts!(V: A 0, W: B 1; C);
first_parts!(V: A 0, W: B 1; C, D);
first_parts!(V: A 0, W: B 1, X: C 2; D);
first_parts!(V: A 0, W: B 1, X: C 2; D, E);

/// A range of keys of type `K`.
pub struct Bounds<K> {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    key: PhantomData<K>,
}

impl<K: Field> Bounds<K> {
    pub(super) fn all() -> Self {
        Self::new(Bound::Unbounded, Bound::Unbounded)
    }

    pub(super) fn range<'k, B: Borrow<K::View<'k>>>(range: &impl RangeBounds<B>) -> Self {
        let bytes = |bound: &B| bytes_of::<K>(bound.borrow());
        Self::new(range.start_bound().map(bytes), range.end_bound().map(bytes))
    }

    pub(super) fn prefix(prefix: &impl Prefix<K>) -> Self {
        let mut bytes = Vec::with_capacity(48);
        prefix.write_prefix(&mut bytes);
        let end = after_all_with(bytes.clone());
        Self::new(Bound::Included(bytes), end)
    }

    pub(super) fn prefix_range<P>(prefix: &P, range: &impl RangeBounds<P::Next>) -> Self
    where
        P: Prefix<K>,
        P::Next: FixedWidth,
    {
        let mut prefix_bytes = Vec::with_capacity(48);
        prefix.write_prefix(&mut prefix_bytes);
        let with = |next: &P::Next| {
            let mut bytes = prefix_bytes.clone();
            next.write_part(&mut bytes);
            bytes
        };
        let start = match range.start_bound() {
            Bound::Included(next) => Bound::Included(with(next)),
            Bound::Excluded(next) => match after_all_with(with(next)) {
                Bound::Excluded(bytes) => Bound::Included(bytes),
                _ => return Self::none(),
            },
            Bound::Unbounded => Bound::Included(prefix_bytes.clone()),
        };
        let end = match range.end_bound() {
            Bound::Included(next) => after_all_with(with(next)),
            Bound::Excluded(next) => Bound::Excluded(with(next)),
            Bound::Unbounded => after_all_with(prefix_bytes),
        };
        Self::new(start, end)
    }

    pub(super) fn prefix_from<'k, B: Borrow<K::View<'k>>>(
        prefix: &impl Prefix<K>,
        start: Bound<B>,
    ) -> Self {
        let all = Self::prefix(prefix);
        match start {
            Bound::Unbounded => all,
            start => Self::new(start.map(|key| bytes_of::<K>(key.borrow())), all.end),
        }
    }

    /// All keys behind those that begin with `prefix`.
    pub(super) fn behind(prefix: &impl Prefix<K>) -> Self {
        match Self::prefix(prefix).end {
            Bound::Excluded(start) => Self::new(Bound::Included(start), Bound::Unbounded),
            _ => Self::none(),
        }
    }

    fn none() -> Self {
        Self::new(Bound::Unbounded, Bound::Excluded(Vec::new()))
    }

    fn new(start: Bound<Vec<u8>>, end: Bound<Vec<u8>>) -> Self {
        let key = PhantomData;
        Self { start, end, key }
    }

    pub(super) fn as_slices(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (
            self.start.as_ref().map(Vec::as_slice),
            self.end.as_ref().map(Vec::as_slice),
        )
    }
}

/// The end of the range of all keys that begin with `prefix`.
fn after_all_with(mut prefix: Vec<u8>) -> Bound<Vec<u8>> {
    while let Some(last) = prefix.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            return Bound::Excluded(prefix);
        }
        prefix.pop();
    }
    Bound::Unbounded
}
