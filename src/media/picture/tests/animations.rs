use std::io::Cursor;

use image::{
    AnimationDecoder, Delay, Frame, ImageDecoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::gif::{GifDecoder, GifEncoder},
};

use super::{MEMORY, crc32, encoded, photograph, shape, small};
use crate::media::picture::{Picture, Shape, make};

/// A GIF of 200 by 100 pixels.
pub fn animated_gif(frames: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for frame in 0..frames {
        let shade = (frame * 40) as u8;
        let picture = RgbaImage::from_pixel(200, 100, Rgba([shade, 0, 0, 255]));
        let delay = Delay::from_numer_denom_ms(100, 1);
        encoder
            .encode_frame(Frame::from_parts(picture, 0, 0, delay))
            .unwrap();
    }
    drop(encoder);
    bytes
}

/// The chunks of a WebP or a PNG from `start` on: name and content.
fn chunks(bytes: &[u8], start: usize, is_png: bool) -> Vec<(&[u8], &[u8])> {
    let (mut chunks, mut rest) = (Vec::new(), &bytes[start..]);
    while let Some((head, behind)) = rest.split_at_checked(8) {
        let (name, length) = if is_png {
            let length = u32::from_be_bytes(head[..4].try_into().unwrap());
            (&head[4..], length as usize)
        } else {
            let length = u32::from_le_bytes(head[4..].try_into().unwrap());
            (&head[..4], length as usize)
        };
        chunks.push((name, &behind[..length]));
        let padding = if is_png { 4 } else { length % 2 };
        rest = &behind[length + padding..];
    }
    chunks
}

fn webp_chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_le_bytes();
    [name, &length, content, &[0; 1][..content.len() % 2]].concat()
}

/// A WebP of 200 by 100 pixels.
pub fn animated_webp(frames: u32) -> Vec<u8> {
    let size = [199, 0, 0, 99, 0, 0];
    let mut content = b"WEBP".to_vec();
    content.extend(webp_chunk(b"VP8X", &[&[2, 0, 0, 0][..], &size].concat()));
    content.extend(webp_chunk(b"ANIM", &[0; 6]));
    for frame in 0..frames {
        let shade = Rgb([(frame * 40) as u8, 0, 0]);
        let picture = RgbImage::from_pixel(200, 100, shade);
        let bytes = encoded(&picture.into(), ImageFormat::WebP);
        let (name, picture) = chunks(&bytes, 12, false)[0];
        let head = [&[0; 6][..], &size, &[100, 0, 0, 0]].concat();
        let frame = [head, webp_chunk(name, picture)].concat();
        content.extend(webp_chunk(b"ANMF", &frame));
    }
    webp_chunk(b"RIFF", &content)
}

/// A PNG of 200 by 100 pixels.
pub fn animated_png(frames: u32) -> Vec<u8> {
    let chunk = |name: &[u8], content: &[u8]| {
        let checked = [name, content].concat();
        let length = (content.len() as u32).to_be_bytes();
        [&length[..], &checked, &crc32(&checked).to_be_bytes()].concat()
    };
    let number = |number: u32| number.to_be_bytes();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut sequence = 0;
    for frame in 0..frames {
        let shade = Rgb([(frame * 40) as u8, 0, 0]);
        let picture = RgbImage::from_pixel(200, 100, shade);
        let bytes = encoded(&picture.into(), ImageFormat::Png);
        let chunks = chunks(&bytes, 8, true);
        if frame == 0 {
            png.extend(chunk(b"IHDR", chunks[0].1));
            png.extend(chunk(b"acTL", &[number(frames), number(0)].concat()));
        }
        let control = [sequence, 200, 100, 0, 0, 0x0001_000a, 0].map(number);
        png.extend(chunk(b"fcTL", &control.concat()[..26]));
        sequence += 1;
        for (_, content) in chunks.iter().filter(|(name, _)| *name == b"IDAT") {
            if frame == 0 {
                png.extend(chunk(b"IDAT", content));
            } else {
                png.extend(chunk(b"fdAT", &[&number(sequence), *content].concat()));
                sequence += 1;
            }
        }
    }
    png.extend(chunk(b"IEND", b""));
    png
}

#[test]
fn animated_webp_becomes_gif_and_animated_png_a_still_thumbnail() {
    let animated = |width, height| Shape {
        animated: true,
        ..shape(width, height)
    };
    let webp = animated_webp(3);
    let Ok(Picture::Made(made, "image/gif")) = make(Cursor::new(&webp), animated(96, 96), MEMORY)
    else {
        panic!("it is not animated");
    };
    let frames = GifDecoder::new(Cursor::new(&made)).unwrap().into_frames();
    assert_eq!(frames.collect_frames().unwrap().len(), 3);
    for (bytes, kind) in [(webp, "image/webp"), (animated_png(3), "image/png")] {
        // They are small enough.
        let stays = make(Cursor::new(&bytes), animated(320, 240), MEMORY);
        assert!(matches!(stays, Ok(Picture::Small(same)) if same == kind));
        for wanted in [shape(96, 96), shape(320, 240)] {
            let (still, kind) = small(&bytes, wanted);
            assert_eq!((still.width() >= 96, kind), (true, "image/jpeg"));
        }
    }
}

#[test]
fn a_thumbnail_is_animated_only_if_requested() {
    let bytes = animated_gif(5);
    let animated = Shape {
        animated: true,
        ..shape(96, 96)
    };
    let Ok(Picture::Made(made, "image/gif")) = make(Cursor::new(&bytes), animated, MEMORY) else {
        panic!("it is not animated");
    };
    let decoder = GifDecoder::new(Cursor::new(&made)).unwrap();
    assert_eq!(decoder.dimensions(), (96, 48));
    let frames = decoder.into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[1].delay(), Delay::from_numer_denom_ms(100, 1));
    assert_eq!(small(&bytes, shape(96, 96)).1, "image/jpeg");
    // Small enough, but animated: a still thumbnail is made.
    assert_eq!(small(&bytes, shape(320, 240)).1, "image/jpeg");
    let still = make(Cursor::new(animated_gif(1)), animated, MEMORY);
    assert!(matches!(still, Ok(Picture::Made(_, "image/jpeg"))));
}

#[test]
fn a_still_thumbnail_of_full_size_is_made_if_no_animation_is_requested() {
    let everything = shape(u32::MAX, u32::MAX);
    let (still, kind) = small(&animated_gif(3), everything);
    assert_eq!(
        (still.width(), still.height(), kind),
        (200, 100, "image/jpeg")
    );
    let animated = Shape {
        animated: true,
        ..everything
    };
    let unchanged = make(Cursor::new(animated_gif(3)), animated, MEMORY);
    assert!(matches!(unchanged, Ok(Picture::Small("image/gif"))));
    let bytes = encoded(&photograph(60, 40), ImageFormat::Jpeg);
    // However little memory there is: nothing is decoded.
    let stays = make(Cursor::new(&bytes), everything, 5000);
    assert!(matches!(stays, Ok(Picture::Small("image/jpeg"))));
}
