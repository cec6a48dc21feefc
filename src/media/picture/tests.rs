//! Pictures of every kind, whole, broken and hostile.

use std::io::Cursor;

use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, ImageDecoder, ImageFormat, Rgb, RgbImage, Rgba,
    RgbaImage,
    codecs::gif::{GifDecoder, GifEncoder},
};

use super::{Failure, Picture, Shape, make, size};

const MEMORY: u64 = 16 << 20;
const FORMATS: [ImageFormat; 4] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::Gif,
    ImageFormat::WebP,
];

fn shape(width: u32, height: u32) -> Shape {
    Shape {
        width,
        height,
        crop: false,
        animated: false,
    }
}

/// Red on the left, blue on the right, and green in a corner.
fn photograph(width: u32, height: u32) -> DynamicImage {
    let picture = RgbImage::from_fn(width, height, |x, y| match (x < width / 2, y) {
        (true, y) if y < height / 4 && x < width / 4 => Rgb([0, 255, 0]),
        (true, _) => Rgb([255, 0, 0]),
        (false, _) => Rgb([0, 0, 255]),
    });
    picture.into()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    let picture = match format {
        ImageFormat::Gif => DynamicImage::from(picture.to_rgba8()),
        _ => picture.clone(),
    };
    picture
        .write_to(&mut Cursor::new(&mut bytes), format)
        .unwrap();
    bytes
}

fn small(bytes: &[u8], shape: Shape) -> (DynamicImage, &'static str) {
    match make(Cursor::new(bytes), shape, MEMORY).unwrap() {
        Picture::Made(bytes, kind) => (image::load_from_memory(&bytes).unwrap(), kind),
        Picture::Small(kind) => panic!("it is small already: {kind}"),
    }
}

#[test]
fn a_picture_of_every_kind_becomes_smaller_and_keeps_its_shape() {
    for format in FORMATS {
        let bytes = encoded(&photograph(400, 200), format);
        let (picture, kind) = small(&bytes, shape(100, 100));
        assert_eq!((picture.width(), picture.height()), (100, 50), "{format:?}");
        assert_eq!(kind, "image/jpeg");
        let pixels = picture.to_rgb8();
        let [red, _, blue] = pixels.get_pixel(10, 40).0;
        assert!(red > 200 && blue < 50, "{format:?}");
    }
}

#[test]
fn a_crop_fills_the_size_with_the_middle() {
    let bytes = encoded(&photograph(400, 200), ImageFormat::Png);
    let crop = Shape {
        crop: true,
        ..shape(50, 50)
    };
    let (picture, _) = small(&bytes, crop);
    assert_eq!((picture.width(), picture.height()), (50, 50));
    let pixels = picture.to_rgb8();
    assert!(pixels.get_pixel(5, 40).0[0] > 200);
    assert!(pixels.get_pixel(45, 40).0[2] > 200);
}

#[test]
fn nothing_is_made_larger_than_it_is() {
    for (width, height) in [(10, 10), (1, 5000), (5000, 1), (64, 3)] {
        for crop in [true, false] {
            let wanted = Shape {
                crop,
                ..shape(96, 96)
            };
            let (new_width, new_height) = size(width, height, wanted);
            assert!(new_width <= width && new_height <= height);
            assert!(new_width > 0 && new_height > 0);
        }
    }
    let bytes = encoded(&photograph(30, 20), ImageFormat::Jpeg);
    let stays = make(Cursor::new(&bytes), shape(32, 32), MEMORY);
    assert!(matches!(stays, Ok(Picture::Small("image/jpeg"))));
}

#[test]
fn what_shows_through_still_does() {
    let clear = RgbaImage::from_pixel(200, 200, Rgba([255, 0, 0, 0]));
    let solid = RgbaImage::from_pixel(200, 200, Rgba([255, 0, 0, 255]));
    for (picture, kind) in [(clear, "image/png"), (solid, "image/jpeg")] {
        let bytes = encoded(&picture.into(), ImageFormat::Png);
        assert_eq!(small(&bytes, shape(32, 32)).1, kind);
    }
}

/// A JPEG that says that it is to be turned by a quarter to the right.
fn turned(picture: &DynamicImage) -> Vec<u8> {
    let jpeg = encoded(picture, ImageFormat::Jpeg);
    let mut exif =
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let length = (exif.len() as u16 + 2).to_be_bytes();
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend(length);
    bytes.append(&mut exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

#[test]
fn a_photograph_stands_upright() {
    let bytes = turned(&photograph(400, 200));
    let (picture, _) = small(&bytes, shape(100, 100));
    assert_eq!((picture.width(), picture.height()), (50, 100));
    // What was on the left is at the top now.
    let pixels = picture.to_rgb8();
    assert!(pixels.get_pixel(10, 10).0[0] > 200);
    assert!(pixels.get_pixel(10, 90).0[2] > 200);
}

fn film(frames: u32) -> Vec<u8> {
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

#[test]
fn what_moves_goes_on_moving_only_if_that_is_wanted() {
    let bytes = film(5);
    let moving = Shape {
        animated: true,
        ..shape(96, 96)
    };
    let Ok(Picture::Made(made, "image/gif")) = make(Cursor::new(&bytes), moving, MEMORY) else {
        panic!("it does not move");
    };
    let decoder = GifDecoder::new(Cursor::new(&made)).unwrap();
    assert_eq!(decoder.dimensions(), (96, 48));
    let frames = decoder.into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 5);
    assert_eq!(frames[1].delay(), Delay::from_numer_denom_ms(100, 1));
    assert_eq!(small(&bytes, shape(96, 96)).1, "image/jpeg");
    // Small enough as it is, it stands still all the same.
    assert_eq!(small(&bytes, shape(320, 240)).1, "image/jpeg");
    let still = make(Cursor::new(film(1)), moving, MEMORY);
    assert!(matches!(still, Ok(Picture::Made(_, "image/jpeg"))));
}

#[test]
fn too_many_pixels_are_refused_before_they_are_decoded() {
    // A PNG of 60,000 by 60,000 pixels, of which nothing follows.
    let mut bomb = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bomb.extend(60_000_u32.to_be_bytes());
    bomb.extend(60_000_u32.to_be_bytes());
    bomb.extend([8, 6, 0, 0, 0]);
    let checksum = crc32(&bomb[12..]);
    bomb.extend(checksum.to_be_bytes());
    bomb.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    let made = make(Cursor::new(&bomb), shape(32, 32), MEMORY);
    assert_eq!(made.unwrap_err(), Failure::TooLarge);
    for format in FORMATS {
        let bytes = encoded(&photograph(300, 300), format);
        let made = make(Cursor::new(&bytes), shape(32, 32), 300 * 300);
        assert_eq!(made.unwrap_err(), Failure::TooLarge, "{format:?}");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0xedb8_8320
            } else {
                crc >> 1
            }
        })
    })
}

#[test]
fn what_is_no_picture_is_refused() {
    for bytes in [
        &b""[..],
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM",
        b"II*\0",
        b"an encrypted file",
    ] {
        let made = make(Cursor::new(bytes), shape(32, 32), MEMORY);
        assert_eq!(made.unwrap_err(), Failure::NoPicture);
    }
}

/// Wherever a picture ends early, and whatever single bytes in it are, there is an answer.
#[test]
fn broken_and_hostile_pictures_end_in_an_answer() {
    let moving = |wanted: Shape| Shape {
        animated: true,
        ..wanted
    };
    let mut pictures: Vec<_> = FORMATS
        .iter()
        .map(|format| encoded(&photograph(60, 40), *format))
        .collect();
    pictures.push(film(3));
    pictures.push(turned(&photograph(60, 40)));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for bytes in &pictures {
        for _ in 0..60 {
            let length = next() % bytes.len();
            let _ = make(Cursor::new(&bytes[..length]), shape(32, 32), MEMORY);
        }
        for _ in 0..200 {
            let mut broken = bytes.clone();
            for _ in 0..=next() % 4 {
                // The head decides the most.
                let most = if next() % 2 == 0 { 64 } else { bytes.len() };
                let place = next() % most.min(bytes.len());
                broken[place] = next() as u8;
            }
            let _ = make(Cursor::new(&broken), shape(32, 32), MEMORY);
            let _ = make(Cursor::new(&broken), moving(shape(32, 32)), MEMORY);
        }
    }
}
