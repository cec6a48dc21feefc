use std::{
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
};

use image::{
    ImageDecoder, ImageFormat, ImageReader, Limits,
    codecs::{png::PngDecoder, webp::WebPDecoder},
};

use super::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureInfo {
    pub content_type: &'static str,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// Reads the header of the picture in `file`. Decoding may take `max_bytes` of memory.
pub fn info(file: impl Read + Seek, max_bytes: u64) -> Result<PictureInfo, Failure> {
    let mut file = BufReader::new(file);
    let format = format(&mut file)?;
    let content_type = content_type(format).ok_or(Failure::NoPicture)?;
    let dimensions = catch_unwind(AssertUnwindSafe(|| {
        Ok(decoder(&mut file, format, max_bytes)?.dimensions())
    }));
    let (width, height) = dimensions.unwrap_or(Err(Failure::NoPicture))?;
    Ok(PictureInfo {
        content_type,
        width,
        height,
    })
}

/// Reads the header only.
pub(super) fn decoder<'f>(
    file: &'f mut (impl BufRead + Seek),
    format: ImageFormat,
    max_bytes: u64,
) -> Result<Box<dyn ImageDecoder + 'f>, Failure> {
    let length = file.seek(SeekFrom::End(0))?;
    if format == ImageFormat::Jpeg && length > max_bytes {
        // The decoder reads the whole file for the header.
        return Err(Failure::TooLarge);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut reader = ImageReader::with_format(file, format);
    reader.limits(limits(max_bytes));
    Ok(Box::new(reader.into_decoder()?))
}

pub(super) fn format(file: &mut impl Read) -> Result<ImageFormat, Failure> {
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

/// The content type of a supported format.
pub(super) fn content_type(format: ImageFormat) -> Option<&'static str> {
    match format {
        ImageFormat::Jpeg => Some("image/jpeg"),
        ImageFormat::Png => Some("image/png"),
        ImageFormat::Gif => Some("image/gif"),
        ImageFormat::WebP => Some("image/webp"),
        _ => None,
    }
}

/// For what decoders allocate beside the pixels, such as a color profile. A buffer that grows is allocated
/// twice for a short time.
pub(super) fn limits(max_bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_bytes / 2);
    limits
}

pub(super) fn may_be_animated(
    file: &mut (impl BufRead + Seek),
    format: ImageFormat,
    max_bytes: u64,
) -> bool {
    match format {
        ImageFormat::Gif => true,
        ImageFormat::WebP => WebPDecoder::new(file).is_ok_and(|decoder| decoder.has_animation()),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(file, limits(max_bytes));
            decoder.is_ok_and(|decoder| decoder.is_apng().unwrap_or(true))
        }
        _ => false,
    }
}
