//! Thumbnails of pictures: from the bytes of one file to those of another.
//!
//! An uploaded file may be hostile. The number of pixels that it claims, and the memory that decoding takes, are
//! checked before anything is decoded, and panics of the decoders are caught.

mod cost;
mod decode;
mod failure;
mod resize;
#[cfg(test)]
mod tests;

pub use self::{
    decode::{PictureInfo, info},
    failure::Failure,
    resize::{Picture, Shape, make},
};
