use std::{
    io::{BufReader, Cursor, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, ImageDecoder, ImageFormat, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::{
    cost,
    decode::{self, content_type, format, limits, may_be_animated},
    failure::Failure,
};

const JPEG_QUALITY: u8 = 80;
/// Of an animated thumbnail. Beyond these limits the thumbnail is the first frame.
const MAX_FRAMES: u64 = 300;
const MAX_PIXELS_OF_FRAMES: u64 = 40_000_000;

/// The size of a thumbnail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// In pixels; never 0.
    pub width: u32,
    /// In pixels; never 0.
    pub height: u32,
    /// Whether the thumbnail fills this size exactly; otherwise the whole picture fits into it.
    pub crop: bool,
    /// Whether an animation stays animated.
    pub animated: bool,
}

#[derive(Debug)]
pub enum Picture {
    /// The picture is no larger than the thumbnail; its content type.
    Small(&'static str),
    /// The thumbnail and its content type.
    Made(Vec<u8>, &'static str),
}

/// Makes a thumbnail of the picture in `file`, within `max_bytes` of max_bytes.
pub fn make(file: impl Read + Seek, shape: Shape, max_bytes: u64) -> Result<Picture, Failure> {
    let made = catch_unwind(AssertUnwindSafe(|| {
        make_unguarded(BufReader::new(file), shape, max_bytes)
    }));
    made.unwrap_or(Err(Failure::NoPicture))
}

fn make_unguarded(
    mut file: BufReader<impl Read + Seek>,
    shape: Shape,
    max_bytes: u64,
) -> Result<Picture, Failure> {
    let format = format(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let content_type = content_type(format).ok_or(Failure::NoPicture)?;
    if shape.animated
        && let Some(animation) = animated(&mut file, format, shape, max_bytes)
    {
        return Ok(animation);
    }
    file.seek(SeekFrom::Start(0))?;
    let is_animated = may_be_animated(&mut file, format, max_bytes);
    let may_stay = shape.animated || !is_animated;
    let mut decoder = decode::decoder(&mut file, format, max_bytes)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let ((width, height), bytes) = (decoder.dimensions(), decoder.total_bytes());
    let shape = if is_rotated(orientation) {
        Shape {
            width: shape.height,
            height: shape.width,
            ..shape
        }
    } else {
        shape
    };
    let is_small = width <= shape.width && height <= shape.height;
    if is_small && may_stay {
        return Ok(Picture::Small(content_type));
    }
    drop(decoder);
    // A picture that keeps its size is copied when it is encoded.
    let copy = if is_small { bytes } else { 0 };
    let decoder_bytes = cost::decoder_bytes(&mut file, format, (width, height), is_animated)?;
    if bytes.saturating_add(copy).saturating_add(decoder_bytes) > max_bytes {
        return Err(Failure::TooLarge);
    }
    let picture = DynamicImage::from_decoder(decode::decoder(&mut file, format, max_bytes)?)?;
    let mut small = shrink(picture, shape);
    small.apply_orientation(orientation);
    encode(&small)
}

/// Whether width and height are swapped.
fn is_rotated(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// The size to which a picture is scaled before it is cropped.
pub(super) fn scaled_size(width: u32, height: u32, shape: Shape) -> (u32, u32) {
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (wanted_width, wanted_height) = (u64::from(shape.width), u64::from(shape.height));
    let is_wide = width * wanted_height > height * wanted_width;
    // For a crop the other side decides.
    let by_width = is_wide != shape.crop;
    let (new_width, new_height) = if by_width {
        (wanted_width, (height * wanted_width).div_ceil(width))
    } else {
        ((width * wanted_height).div_ceil(height), wanted_height)
    };
    if new_width >= width || new_height >= height {
        // Never enlarge.
        return (width as u32, height as u32);
    }
    (new_width.max(1) as u32, new_height.max(1) as u32)
}

fn shrink(picture: DynamicImage, shape: Shape) -> DynamicImage {
    let (width, height) = scaled_size(picture.width(), picture.height(), shape);
    let small = if (width, height) == (picture.width(), picture.height()) {
        picture
    } else {
        picture.thumbnail_exact(width, height)
    };
    if !shape.crop {
        return small;
    }
    let (width, height) = (
        small.width().min(shape.width),
        small.height().min(shape.height),
    );
    let left = (small.width() - width) / 2;
    let top = (small.height() - height) / 2;
    small.crop_imm(left, top, width, height)
}

/// PNG if the picture is transparent somewhere, else JPEG, which is a fraction of the size for photographs.
fn encode(picture: &DynamicImage) -> Result<Picture, Failure> {
    let mut bytes = Vec::new();
    if picture.color().has_alpha() {
        let pixels = picture.to_rgba8();
        if pixels.pixels().any(|pixel| pixel.0[3] < 255) {
            pixels.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)?;
            return Ok(Picture::Made(bytes, "image/png"));
        }
    }
    let pixels = picture.to_rgb8();
    pixels.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY))?;
    Ok(Picture::Made(bytes, "image/jpeg"))
}

/// An animated thumbnail; `None` if the picture is not animated, or beyond the limits.
fn animated(
    file: &mut BufReader<impl Read + Seek>,
    format: ImageFormat,
    shape: Shape,
    max_bytes: u64,
) -> Option<Picture> {
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file).ok()?;
            decoder.set_limits(limits(max_bytes)).ok()?;
            let size = decoder.dimensions();
            frames(decoder.into_frames(), size, shape, max_bytes)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file).ok()?;
            if !decoder.has_animation() {
                return None;
            }
            let size = decoder.dimensions();
            frames(decoder.into_frames(), size, shape, max_bytes)
        }
        _ => None,
    }
}

fn frames(
    frames: image::Frames<'_>,
    (width, height): (u32, u32),
    shape: Shape,
    max_bytes: u64,
) -> Option<Picture> {
    if width <= shape.width && height <= shape.height {
        // It is small enough as it is.
        return None;
    }
    let pixels = u64::from(width) * u64::from(height);
    // One frame, the canvas, and the copy of the decoder.
    let max_bytes = max_bytes.checked_sub(pixels.checked_mul(12)?)?;
    let (small_width, small_height) = scaled_size(width, height, shape);
    // GIF codes have at most 12 bits, and each frame has a palette.
    let small = u64::from(small_width) * u64::from(small_height) * 3 / 2 + 1024;
    let mut bytes = Vec::new();
    let mut count = 0;
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        for frame in frames {
            let frame = frame.ok()?;
            count += 1;
            if count > MAX_FRAMES
                || pixels * count > MAX_PIXELS_OF_FRAMES
                || small * count > max_bytes
            {
                return None;
            }
            encoder.encode_frame(smaller(frame, shape)).ok()?;
        }
    }
    (count > 1).then_some(Picture::Made(bytes, "image/gif"))
}

fn smaller(frame: Frame, shape: Shape) -> Frame {
    let delay: Delay = frame.delay();
    let picture = DynamicImage::from(frame.into_buffer());
    let small: RgbaImage = shrink(picture, shape).into_rgba8();
    Frame::from_parts(small, 0, 0, delay)
}
