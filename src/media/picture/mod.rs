//! Making a small picture of a large one. Pure: from the bytes of a file to those of another.
//!
//! Whoever uploaded the file may mean harm: how many pixels it claims to have, and what decoding them
//! takes up, is looked at before anything is decoded, and what the decoders make of it is caught.

mod cost;

use std::{
    io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, ImageDecoder, ImageError, ImageFormat,
    ImageReader, Limits, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::JpegEncoder,
        png::PngDecoder,
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

/// How good a JPEG is, of 100.
const QUALITY: u8 = 80;
/// How many frames, and how many pixels of them in all, become an animation; of what is more, only the
/// first frame is shown.
const FRAMES: u64 = 300;
const FRAME_PIXELS: u64 = 40_000_000;

/// How a picture is to be made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The width, in pixels; never 0.
    pub width: u32,
    /// The height, in pixels; never 0.
    pub height: u32,
    /// Whether exactly this size is filled, or all of the picture fits into it.
    pub crop: bool,
    /// Whether it may move.
    pub animated: bool,
}

/// What became of it.
#[derive(Debug)]
pub enum Picture {
    /// It is no larger than was wanted, so it may be shown as it is; this is its type.
    Small(&'static str),
    /// A smaller one, of this type.
    Made(Vec<u8>, &'static str),
}

/// Why no smaller picture can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is no picture, of no kind that is known here, or broken.
    NoPicture,
    /// It has too many pixels.
    TooLarge,
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Limits(_) => Self::TooLarge,
            _ => Self::NoPicture,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(_: std::io::Error) -> Self {
        Self::NoPicture
    }
}

/// Makes a picture of this shape of the one in `file`, for which `memory` bytes may be taken up.
pub fn make(file: impl Read + Seek, shape: Shape, memory: u64) -> Result<Picture, Failure> {
    let made = catch_unwind(AssertUnwindSafe(|| {
        make_unguarded(BufReader::new(file), shape, memory)
    }));
    made.unwrap_or(Err(Failure::NoPicture))
}

fn make_unguarded(
    mut file: BufReader<impl Read + Seek>,
    shape: Shape,
    memory: u64,
) -> Result<Picture, Failure> {
    let format = format(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    let kind = kind(format).ok_or(Failure::NoPicture)?;
    if shape.animated
        && let Some(moving) = animated(&mut file, format, shape, memory)
    {
        return Ok(moving);
    }
    file.seek(SeekFrom::Start(0))?;
    let moves = may_move(&mut file, format, memory);
    let may_stay = shape.animated || !moves;
    let mut decoder = decoder(&mut file, format, memory)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let ((width, height), bytes) = (decoder.dimensions(), decoder.total_bytes());
    let shape = if is_turned(orientation) {
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
        return Ok(Picture::Small(kind));
    }
    drop(decoder);
    // What does not become smaller is there twice when it is written.
    let again = if is_small { bytes } else { 0 };
    let beside = cost::beside(&mut file, format, (width, height), moves)?;
    if bytes.saturating_add(again).saturating_add(beside) > memory {
        return Err(Failure::TooLarge);
    }
    let picture = DynamicImage::from_decoder(self::decoder(&mut file, format, memory)?)?;
    let mut small = shrink(picture, shape);
    small.apply_orientation(orientation);
    encode(&small)
}

/// What decodes the picture in `file`, from its head.
fn decoder<'f>(
    file: &'f mut (impl BufRead + Seek),
    format: ImageFormat,
    memory: u64,
) -> Result<Box<dyn ImageDecoder + 'f>, Failure> {
    let length = file.seek(SeekFrom::End(0))?;
    if format == ImageFormat::Jpeg && length > memory {
        // It reads all of the file for its head.
        return Err(Failure::TooLarge);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut reader = ImageReader::with_format(file, format);
    reader.limits(limits(memory));
    Ok(Box::new(reader.into_decoder()?))
}

/// What a picture looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureInfo {
    /// Its type.
    pub kind: &'static str,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// Looks at the picture in `file`, for which `memory` bytes may be taken up.
pub fn look(file: impl Read + Seek, memory: u64) -> Result<PictureInfo, Failure> {
    let mut file = BufReader::new(file);
    let format = format(&mut file)?;
    let kind = kind(format).ok_or(Failure::NoPicture)?;
    let looked = catch_unwind(AssertUnwindSafe(|| {
        Ok(decoder(&mut file, format, memory)?.dimensions())
    }));
    let (width, height) = looked.unwrap_or(Err(Failure::NoPicture))?;
    Ok(PictureInfo {
        kind,
        width,
        height,
    })
}

fn format(file: &mut impl Read) -> Result<ImageFormat, Failure> {
    let mut start = [0; 32];
    let mut length = 0;
    while length < start.len() {
        match file.read(&mut start[length..])? {
            0 => break,
            more => length += more,
        }
    }
    Ok(image::guess_format(&start[..length])?)
}

/// The type of what can be read here.
fn kind(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("image/jpeg"),
        ImageFormat::Png => Some("image/png"),
        ImageFormat::Gif => Some("image/gif"),
        ImageFormat::WebP => Some("image/webp"),
        _ => None,
    }
}

/// For what decoders keep beside the pixels, a profile of colors, say. What grows is there twice for a
/// moment.
fn limits(memory: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(memory / 2);
    limits
}

/// Whether the picture in `file` may be one that moves.
fn may_move(file: &mut (impl BufRead + Seek), format: ImageFormat, memory: u64) -> bool {
    match format {
        ImageFormat::Gif => true,
        ImageFormat::WebP => WebPDecoder::new(file).is_ok_and(|decoder| decoder.has_animation()),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, limits(memory));
            decoder.is_ok_and(|decoder| decoder.is_apng().unwrap_or(true))
        }
        _ => false,
    }
}

/// Whether width and height change places.
fn is_turned(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    )
}

/// How large a picture of this size becomes before it is cropped.
fn size(width: u32, height: u32, shape: Shape) -> (u32, u32) {
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let (wanted_width, wanted_height) = (u64::from(shape.width), u64::from(shape.height));
    let is_wide = width * wanted_height > height * wanted_width;
    // Cropped, the other side is what counts.
    let by_width = is_wide != shape.crop;
    let (new_width, new_height) = if by_width {
        (wanted_width, (height * wanted_width).div_ceil(width))
    } else {
        ((width * wanted_height).div_ceil(height), wanted_height)
    };
    if new_width >= width || new_height >= height {
        // Never larger than it is.
        return (width as u32, height as u32);
    }
    (new_width.max(1) as u32, new_height.max(1) as u32)
}

fn shrink(picture: DynamicImage, shape: Shape) -> DynamicImage {
    let (width, height) = size(picture.width(), picture.height(), shape);
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

/// PNG where something shows through, else JPEG, which for a photograph is a fraction of that.
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
    pixels.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))?;
    Ok(Picture::Made(bytes, "image/jpeg"))
}

/// A smaller picture that moves, if this one does.
fn animated(
    file: &mut BufReader<impl Read + Seek>,
    format: ImageFormat,
    shape: Shape,
    memory: u64,
) -> Option<Picture> {
    match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(file).ok()?;
            decoder.set_limits(limits(memory)).ok()?;
            let size = decoder.dimensions();
            frames(decoder.into_frames(), size, shape, memory)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file).ok()?;
            if !decoder.has_animation() {
                return None;
            }
            let size = decoder.dimensions();
            frames(decoder.into_frames(), size, shape, memory)
        }
        _ => None,
    }
}

fn frames(
    frames: image::Frames<'_>,
    (width, height): (u32, u32),
    shape: Shape,
    memory: u64,
) -> Option<Picture> {
    if width <= shape.width && height <= shape.height {
        // As it is; what does not move looks the same.
        return None;
    }
    let pixels = u64::from(width) * u64::from(height);
    // One frame, the canvas that it is laid on, and what the decoder keeps of it.
    let memory = memory.checked_sub(pixels.checked_mul(12)?)?;
    let (small_width, small_height) = size(width, height, shape);
    // A GIF has codes of 12 bits at the most, and a palette for each frame.
    let small = u64::from(small_width) * u64::from(small_height) * 3 / 2 + 1024;
    let mut bytes = Vec::new();
    let mut count = 0;
    {
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        encoder.set_repeat(Repeat::Infinite).ok()?;
        for frame in frames {
            let frame = frame.ok()?;
            count += 1;
            if count > FRAMES || pixels * count > FRAME_PIXELS || small * count > memory {
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

#[cfg(test)]
mod tests;
