//! Keys and values as bytes: what is read is what was written, in the order of what it is.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::store::{
    Field, Position, RoomNum,
    field::{bytes_of, view_of},
};

/// Numbers at which bytes carry over, and any.
fn number(dice: &mut StdRng) -> u64 {
    let near = [0, 1, 255, 256, 65_535, u64::from(u32::MAX), u64::MAX];
    match dice.random_range(0..10) {
        place @ 0..7 => near[place],
        _ => dice.random(),
    }
}

/// Short strings of characters that are adjacent in the order of bytes, or extreme.
fn text(dice: &mut StdRng) -> String {
    let chars = ['\0', '\u{1}', 'a', 'b', 'é', '\u{10ffff}'];
    let length = dice.random_range(0..4);
    (0..length)
        .map(|_| chars[dice.random_range(0..chars.len())])
        .collect()
}

/// Holds that views of `F` are read as they were written, and that their bytes are ordered as they.
fn holds<F, V>(made: &[V], view: impl for<'a> Fn(&'a V) -> F::View<'a>)
where
    F: Field,
    for<'a> F::View<'a>: Ord + std::fmt::Debug,
{
    for one in made {
        let bytes = bytes_of::<F>(&view(one));
        assert_eq!(view_of::<F>(&bytes), view(one));
        for other in made {
            let order = bytes.cmp(&bytes_of::<F>(&view(other)));
            let (one, other) = (view(one), view(other));
            assert_eq!(order, one.cmp(&other), "{one:?} and {other:?}");
        }
    }
}

fn many<V>(mut make: impl FnMut(&mut StdRng) -> V) -> Vec<V> {
    let mut dice = StdRng::seed_from_u64(1);
    (0..200).map(|_| make(&mut dice)).collect()
}

#[test]
fn bytes_of_keys_are_in_the_order_of_the_keys() {
    holds::<u64, _>(&many(number), |n| *n);
    holds::<&str, _>(&many(text), |text| text);
    holds::<[u8; 2], _>(&many(|dice| dice.random::<[u8; 2]>()), |bytes| *bytes);
    holds::<(RoomNum, Position), _>(
        &many(|dice| (RoomNum(number(dice) as u32), Position(number(dice)))),
        |pair| *pair,
    );
    holds::<(RoomNum, &str), _>(
        &many(|dice| (RoomNum(dice.random_range(0..3)), text(dice))),
        |(room, text)| (*room, text),
    );
}

#[test]
fn keys_with_the_same_first_string_are_adjacent() {
    type Key = (&'static str, &'static str, u64);
    let mut keys = many(|dice| (text(dice), text(dice), number(dice)));
    let bytes = |(a, b, n): &(String, String, u64)| bytes_of::<Key>(&(a, b, *n));
    for key in &keys {
        let bytes = bytes(key);
        let read = view_of::<Key>(&bytes);
        assert_eq!(read, (key.0.as_str(), key.1.as_str(), key.2));
        assert!(bytes_of::<Key>(&("", "", 0)) <= bytes);
        assert!(bytes_of::<Key>(&(&key.0, "", 0)) <= bytes);
    }
    keys.sort_by_key(bytes);
    let mut texts: Vec<&str> = keys.iter().map(|(a, ..)| a.as_str()).collect();
    texts.dedup();
    let stretches = texts.len();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(stretches, texts.len());
}
