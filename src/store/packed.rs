//! Packed records: a version byte, then the fields in postcard's encoding.
//!
//! Change the fields of a record only together with its version and a migration of its table.

use std::{fmt, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{Error, field::Field};

pub trait Record: Serialize + DeserializeOwned + fmt::Debug + 'static {
    /// For errors.
    const NAME: &'static str;
    /// The byte in front of the fields.
    const VERSION: u8 = 1;
}

/// The value type of a table whose rows are packed `T`s.
#[derive(Debug)]
pub struct Packed<T>(PhantomData<T>);

/// A packed `T`, as bytes.
pub struct Bytes<'a, T>(&'a [u8], PhantomData<T>);

impl<T> fmt::Debug for Bytes<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<T: Record> Bytes<'_, T> {
    /// In bytes.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Fails if the version or the fields are not those of `T`. [`Found::record`](super::Found::record)
    /// has a better error.
    pub fn unpack(&self) -> Result<T, Error> {
        match unpack_before(self.0)? {
            (record, []) => Ok(record),
            _ => Err(not_decodable::<T>()),
        }
    }

    /// The first fields of the record, which are those of `U`. The others are not decoded.
    pub fn first_fields<U: Record>(&self) -> Result<U, Error> {
        unpack_before(self.0).map(|(first, _)| first)
    }
}

/// `record` packed, followed by `rest`.
pub fn pack_before<T: Record>(record: &T, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + rest.len());
    bytes.push(T::VERSION);
    let mut bytes = postcard::to_extend(record, bytes)
        .expect("a record holds only what postcard can encode, and memory can grow");
    bytes.extend_from_slice(rest);
    bytes
}

/// The record at the start of `bytes`, and the bytes behind it.
pub fn unpack_before<T: Record>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    match bytes.split_first() {
        Some((&version, fields)) if version == T::VERSION => {
            postcard::take_from_bytes(fields).map_err(|_| not_decodable::<T>())
        }
        _ => Err(not_decodable::<T>()),
    }
}

fn not_decodable<T: Record>() -> Error {
    Error::Corrupt(format!("a `{}` does not decode", T::NAME).into())
}

impl<T: Record> Field for Packed<T> {
    type View<'a> = Bytes<'a, T>;

    fn write(view: &Bytes<'_, T>, last: bool, bytes: &mut Vec<u8>) {
        <&[u8]>::write(&view.0, last, bytes);
    }

    fn read<'a>(bytes: &mut &'a [u8], last: bool) -> Bytes<'a, T> {
        Bytes(<&[u8]>::read(bytes, last), PhantomData)
    }
}
