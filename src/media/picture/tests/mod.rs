mod animations;
mod hostile;

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

use super::{Picture, Shape, make, resize::scaled_size};

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
fn a_picture_of_every_format_is_scaled_and_keeps_its_aspect_ratio() {
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
fn a_crop_fills_the_size_with_the_center() {
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
fn no_picture_is_enlarged() {
    for (width, height) in [(10, 10), (1, 5000), (5000, 1), (64, 3)] {
        for crop in [true, false] {
            let wanted = Shape {
                crop,
                ..shape(96, 96)
            };
            let (new_width, new_height) = scaled_size(width, height, wanted);
            assert!(new_width <= width && new_height <= height);
            assert!(new_width > 0 && new_height > 0);
        }
    }
    let bytes = encoded(&photograph(30, 20), ImageFormat::Jpeg);
    let stays = make(Cursor::new(&bytes), shape(32, 32), MEMORY);
    assert!(matches!(stays, Ok(Picture::Small("image/jpeg"))));
}

#[test]
fn a_transparent_picture_stays_transparent() {
    let clear = RgbaImage::from_pixel(200, 200, Rgba([255, 0, 0, 0]));
    let solid = RgbaImage::from_pixel(200, 200, Rgba([255, 0, 0, 255]));
    for (picture, kind) in [(clear, "image/png"), (solid, "image/jpeg")] {
        let bytes = encoded(&picture.into(), ImageFormat::Png);
        assert_eq!(small(&bytes, shape(32, 32)).1, kind);
    }
}

/// EXIF with the orientation "rotate by 90 degrees clockwise".
const ROTATED: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";

/// A JPEG with this as its EXIF.
fn with_exif(picture: &DynamicImage, exif: &[u8]) -> Vec<u8> {
    let jpeg = encoded(picture, ImageFormat::Jpeg);
    let length = (exif.len() as u16 + 8).to_be_bytes();
    let before = [&jpeg[..2], &[0xff, 0xe1], &length, b"Exif\0\0"].concat();
    [&before, exif, &jpeg[2..]].concat()
}

#[test]
fn the_orientation_of_exif_is_applied() {
    let bytes = with_exif(&photograph(400, 200), ROTATED);
    let (picture, _) = small(&bytes, shape(100, 100));
    assert_eq!((picture.width(), picture.height()), (50, 100));
    // The left side is at the top now.
    let pixels = picture.to_rgb8();
    assert!(pixels.get_pixel(10, 10).0[0] > 200);
    assert!(pixels.get_pixel(10, 90).0[2] > 200);
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
