use std::io::Cursor;

use image::ImageFormat;

use super::{
    FORMATS, MEMORY, ROTATED,
    animations::{animated_gif, animated_png, animated_webp},
    crc32, encoded, photograph, shape, with_exif,
};
use crate::media::picture::{Failure, Picture, Shape, cost::decoder_bytes, info, make};

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

/// The head of a JPEG of three colors, with this kind of frame, and its scans, each of the colors that
/// are named. All of it is gray: every block is one bit that says that nothing changes.
fn gray(kind: u8, (width, height): (u16, u16), scans: &[&[u8]]) -> Vec<u8> {
    fn segment(jpeg: &mut Vec<u8>, marker: u8, content: &[u8]) {
        jpeg.extend([0xff, marker]);
        jpeg.extend((content.len() as u16 + 2).to_be_bytes());
        jpeg.extend(content);
    }
    let mut jpeg = vec![0xff, 0xd8];
    segment(&mut jpeg, 0xdb, &[&[0][..], &[1; 64]].concat());
    let ([height_1, height_0], [width_1, width_0]) = (height.to_be_bytes(), width.to_be_bytes());
    let mut frame = vec![8, height_1, height_0, width_1, width_0, 3];
    for color in 1..=3 {
        frame.extend([color, 0x11, 0]);
    }
    segment(&mut jpeg, kind, &frame);
    // Of both kinds of codes one, `0`, for nothing.
    for table in [0x00, 0x10] {
        segment(&mut jpeg, 0xc4, &[&[table, 1][..], &[0; 15], &[0]].concat());
    }
    let blocks = usize::from(width.div_ceil(8)) * usize::from(height.div_ceil(8));
    for colors in scans {
        let mut scan = vec![colors.len() as u8];
        scan.extend(colors.iter().flat_map(|color| [*color, 0]));
        // A progressive scan has the first coefficient alone.
        scan.extend([0, if kind == 0xc2 { 0 } else { 63 }, 0]);
        segment(&mut jpeg, 0xda, &scan);
        let bits = if kind == 0xc2 { 1 } else { 2 };
        jpeg.resize(jpeg.len() + (blocks * colors.len() * bits).div_ceil(8), 0);
    }
    jpeg.extend([0xff, 0xd9]);
    jpeg
}

#[test]
fn the_memory_of_the_decoder_counts_too() {
    let size = (640, 640);
    let pixels = 640 * 640;
    for (kind, scans, each) in [
        (0xc0, &[&[1, 2, 3][..]][..], 3),
        (0xc0, &[&[1], &[2], &[3]], 11),
        (0xc2, &[&[1, 2, 3]], 11),
    ] {
        let jpeg = gray(kind, size, scans);
        let ask = |memory| make(Cursor::new(&jpeg), shape(32, 32), memory);
        let needed = pixels * each + jpeg.len() as u64;
        assert!(matches!(ask(needed), Ok(Picture::Made(_, "image/jpeg"))));
        assert_eq!(ask(needed - 1).unwrap_err(), Failure::TooLarge);
    }
    for (format, each) in [
        (ImageFormat::Png, 3),
        (ImageFormat::Gif, 8),
        (ImageFormat::WebP, 11),
    ] {
        let bytes = encoded(&photograph(640, 640), format);
        let ask = |memory| make(Cursor::new(&bytes), shape(32, 32), memory);
        let needed = pixels * each;
        let file = bytes.len() as u64;
        assert!(ask(needed + file).is_ok(), "{format:?}");
        assert_eq!(ask(needed - 1).unwrap_err(), Failure::TooLarge);
    }
}

#[test]
fn a_small_picture_in_a_large_file_is_too_large() {
    let mut bytes = encoded(&photograph(60, 40), ImageFormat::Jpeg);
    bytes.resize(bytes.len() + MEMORY as usize, 0);
    let made = make(Cursor::new(&bytes), shape(32, 32), MEMORY);
    assert_eq!(made.unwrap_err(), Failure::TooLarge);
    let info = info(Cursor::new(&bytes), MEMORY);
    assert_eq!(info.unwrap_err(), Failure::TooLarge);
}

/// A lossy WebP whose header says 64 by 64 pixels, with a frame of this size behind `before` other bytes.
fn lying_webp(width: u16, height: u16, before: usize) -> Vec<u8> {
    let mut chunks = b"WEBPVP8X\x0a\0\0\0\0\0\0\0".to_vec();
    chunks.extend([63, 0, 0, 63, 0, 0]);
    chunks.extend(b"XMP ");
    chunks.extend((before as u32).to_le_bytes());
    chunks.resize(chunks.len() + before, 0);
    let mut frame = vec![0x10, 0, 0, 0x9d, 0x01, 0x2a];
    frame.extend(width.to_le_bytes());
    frame.extend(height.to_le_bytes());
    frame.resize(200, 0);
    chunks.extend(b"VP8 ");
    chunks.extend((frame.len() as u32).to_le_bytes());
    chunks.extend(frame);
    let mut webp = b"RIFF".to_vec();
    webp.extend((chunks.len() as u32).to_le_bytes());
    webp.extend(chunks);
    webp
}

#[test]
fn a_frame_that_is_larger_than_its_picture_is_not_decoded() {
    let cost = |width, height, before| {
        let mut file = Cursor::new(lying_webp(width, height, before));
        decoder_bytes(&mut file, ImageFormat::WebP, (64, 64), false)
    };
    assert!(cost(64, 64, 0).is_ok());
    for before in [0, 2, 32_700, 32_710, 32_720, 32_730, 32_740, 100_000] {
        for (width, height) in [(65, 64), (64, 65), (16383, 16383)] {
            let refused = cost(width, height, before);
            assert_eq!(refused, Err(Failure::NoPicture), "{before}");
        }
    }
    let made = make(
        Cursor::new(lying_webp(16383, 16383, 0)),
        shape(32, 32),
        MEMORY,
    );
    assert_eq!(made.unwrap_err(), Failure::NoPicture);
}

#[test]
fn files_that_are_no_pictures_are_refused() {
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

/// Pictures are truncated anywhere, and single bytes replaced.
#[test]
fn broken_and_hostile_pictures_do_not_panic() {
    let animated = |wanted: Shape| Shape {
        animated: true,
        ..wanted
    };
    let mut pictures: Vec<_> = FORMATS
        .iter()
        .map(|format| encoded(&photograph(60, 40), *format))
        .collect();
    pictures.extend([animated_gif(3), animated_webp(3), animated_png(3)]);
    pictures.push(with_exif(&photograph(60, 40), ROTATED));
    pictures.push(gray(0xc2, (60, 40), &[&[1, 2, 3]]));
    pictures.push(gray(0xc0, (60, 40), &[&[1], &[2], &[3]]));
    pictures.push(lying_webp(64, 64, 10));
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for bytes in &pictures {
        for _ in 0..60 {
            let cut = &bytes[..next() % bytes.len()];
            let _ = info(Cursor::new(cut), MEMORY);
            let _ = make(Cursor::new(cut), shape(32, 32), MEMORY);
            let _ = make(Cursor::new(cut), animated(shape(32, 32)), MEMORY);
        }
        for _ in 0..200 {
            let mut broken = bytes.clone();
            for _ in 0..=next() % 4 {
                // Most checks are of the header.
                let limit = if next() % 2 == 0 { 64 } else { bytes.len() };
                let at = next() % limit.min(bytes.len());
                broken[at] = next() as u8;
            }
            let _ = info(Cursor::new(&broken), MEMORY);
            let _ = make(Cursor::new(&broken), shape(32, 32), MEMORY);
            let _ = make(Cursor::new(&broken), animated(shape(32, 32)), MEMORY);
        }
    }
    for length in 0..300 {
        let mut exif: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        if next() % 2 == 0 {
            exif.splice(..length.min(8), b"II*\0\x08\0\0\0".iter().copied());
        }
        // A broken EXIF does not make the picture invalid.
        let photograph = with_exif(&photograph(60, 40), &exif);
        let made = make(Cursor::new(&photograph), shape(32, 32), MEMORY);
        assert!(matches!(made, Ok(Picture::Made(_, "image/jpeg"))));
    }
}
