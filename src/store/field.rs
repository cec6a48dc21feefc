//! The encoding of keys and values as bytes. The order of the bytes is the order of the keys.
//!
//! To redb all tables have the same types. So its B-trees are compiled once, not once for each pair of
//! types.

use std::{any::TypeId, fmt};

/// A type of keys, values, or parts of them.
pub trait Field: 'static {
    /// A value as it is written, and as it is read from bytes that live for `'a`.
    type View<'a>: fmt::Debug;

    /// Appends `view` to `bytes`. The `last` part of a key or value needs no length.
    fn write(view: &Self::View<'_>, last: bool, bytes: &mut Vec<u8>);

    /// Reads what [`write`](Self::write) has written from the front of `bytes`.
    fn read<'a>(bytes: &mut &'a [u8], last: bool) -> Self::View<'a>;

    /// The type of the first part, of its own if it has no parts.
    fn first_part() -> TypeId {
        TypeId::of::<Self>()
    }
}

/// A field that is read as the same type and has the same bytes at the end of a key as before
/// another part.
pub trait FixedWidth: for<'a> Field<View<'a> = Self> {}

/// Reading does not fail: redb verifies checksums of its pages, and the versions of tables ensure that
/// the same types have written them.
const DECODABLE: &str = "a row has the types of its table";

/// The bytes of one key or value.
pub(super) fn bytes_of<F: Field>(view: &F::View<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    F::write(view, true, &mut bytes);
    bytes
}

/// The key or value that `bytes` are.
pub(super) fn view_of<F: Field>(mut bytes: &[u8]) -> F::View<'_> {
    F::read(&mut bytes, true)
}

impl Field for () {
    type View<'a> = ();

    fn write((): &(), _: bool, _: &mut Vec<u8>) {}

    fn read(_: &mut &[u8], _: bool) {}
}

/// Big-endian.
macro_rules! number {
    ($($int:ty),+) => {
        $(impl Field for $int {
            type View<'a> = $int;

            fn write(view: &$int, _: bool, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&view.to_be_bytes());
            }

            fn read(bytes: &mut &[u8], _: bool) -> $int {
                <$int>::from_be_bytes(*take(bytes))
            }
        }

        impl FixedWidth for $int {})+
    };
}

number!(u8, u32, u64);

impl<const N: usize> Field for [u8; N] {
    type View<'a> = [u8; N];

    fn write(view: &[u8; N], _: bool, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(view);
    }

    fn read(bytes: &mut &[u8], _: bool) -> [u8; N] {
        *take(bytes)
    }
}

impl<const N: usize> FixedWidth for [u8; N] {}

/// With their length in front, unless they are last. The last ones are in the order of bytes, others
/// first in the order of their length.
impl Field for &'static [u8] {
    type View<'a> = &'a [u8];

    fn write(view: &&[u8], last: bool, bytes: &mut Vec<u8>) {
        if !last {
            let length = u32::try_from(view.len()).expect("only identifiers are not last");
            u32::write(&length, false, bytes);
        }
        bytes.extend_from_slice(view);
    }

    fn read<'a>(bytes: &mut &'a [u8], last: bool) -> &'a [u8] {
        let length = if last {
            bytes.len()
        } else {
            u32::read(bytes, false) as usize
        };
        bytes.split_off(..length).expect(DECODABLE)
    }
}

/// UTF-8.
impl Field for &'static str {
    type View<'a> = &'a str;

    fn write(view: &&str, last: bool, bytes: &mut Vec<u8>) {
        <&[u8]>::write(&view.as_bytes(), last, bytes);
    }

    fn read<'a>(bytes: &mut &'a [u8], last: bool) -> &'a str {
        std::str::from_utf8(<&[u8]>::read(bytes, last)).expect(DECODABLE)
    }
}

/// The parts in sequence.
macro_rules! parts {
    ($($part:ident $place:tt),+; $end:ident $last:tt) => {
        impl<$($part: Field,)+ $end: Field> Field for ($($part,)+ $end) {
            type View<'a> = ($($part::View<'a>,)+ $end::View<'a>);

            fn write(view: &Self::View<'_>, last: bool, bytes: &mut Vec<u8>) {
                $($part::write(&view.$place, false, bytes);)+
                $end::write(&view.$last, last, bytes);
            }

            fn read<'a>(bytes: &mut &'a [u8], last: bool) -> Self::View<'a> {
                ($($part::read(bytes, false),)+ $end::read(bytes, last))
            }

            fn first_part() -> TypeId {
                A::first_part()
            }
        }
    };
}

parts!(A 0; B 1);
parts!(A 0, B 1; C 2);
parts!(A 0, B 1, C 2; D 3);
parts!(A 0, B 1, C 2, D 3; E 4);

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> &'a [u8; N] {
    let (taken, rest) = bytes.split_first_chunk().expect(DECODABLE);
    *bytes = rest;
    taken
}
