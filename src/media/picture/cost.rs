//! The memory that a decoder takes beside the decoded pixels, estimated from the header. Unusual headers count
//! as the most expensive case.

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::ImageFormat;
use memchr::memmem;

use super::failure::Failure;

/// What of a file is searched at once.
const BLOCK_BYTES: usize = 32 * 1024;
/// The header of a lossy WebP frame: the chunk header, a tag of 3 bytes, a start code of 3 bytes, width and height
/// (RFC 6386, 9.1).
const FRAME_HEADER_BYTES: usize = 18;

/// # Errors
/// [`Failure::NoPicture`] if the file has a larger picture than its header says.
pub(super) fn decoder_bytes(
    file: &mut (impl BufRead + Seek),
    format: ImageFormat,
    (width, height): (u32, u32),
    is_animated: bool,
) -> Result<u64, Failure> {
    let pixels = u64::from(width) * u64::from(height);
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match format {
        // The file, and the coefficients unless the picture is decoded block by block.
        ImageFormat::Jpeg if keeps_coefficients(file).unwrap_or(true) => length + pixels * 8,
        ImageFormat::Jpeg => length,
        // A frame beside the canvas.
        ImageFormat::Gif => pixels * 4,
        ImageFormat::WebP if has_larger_frame(file, (width, height))? => {
            return Err(Failure::NoPicture);
        }
        // The file, the color planes and the alpha plane; for an animation a frame and the canvas.
        ImageFormat::WebP => length + pixels * if is_animated { 16 } else { 8 },
        _ => 0,
    })
}

/// Whether a JPEG is progressive or has one scan per color. `None` if its header is unusual.
fn keeps_coefficients(file: &mut impl BufRead) -> Option<bool> {
    let mut colors = None;
    if bytes::<2>(file)? != [0xff, 0xd8] {
        return None;
    }
    loop {
        let [0xff, marker] = bytes(file)? else {
            return None;
        };
        let length = u64::from(u16::from_be_bytes(bytes(file)?)).checked_sub(2)?;
        let mut segment = file.by_ref().take(length);
        match marker {
            // The start of the frame (SOF0 to SOF2; SOF2 is progressive).
            0xc0..=0xc2 if colors.is_none() => {
                let [.., count] = bytes::<6>(&mut segment)?;
                colors = Some(count);
                if marker == 0xc2 {
                    return Some(true);
                }
            }
            // The start of a scan.
            0xda => return Some(bytes::<1>(&mut segment)?[0] < colors?),
            // Tables, application data, comments.
            0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe => {}
            _ => return None,
        }
        std::io::copy(&mut segment, &mut std::io::sink()).ok()?;
    }
}

fn bytes<const N: usize>(file: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Whether a WebP file has a lossy frame, anywhere, that is larger than the picture. The decoder checks that
/// only after decoding.
fn has_larger_frame(file: &mut impl Read, (width, height): (u32, u32)) -> Result<bool, Failure> {
    let chunk = memmem::Finder::new(b"VP8 ");
    let mut block = Vec::with_capacity(BLOCK_BYTES + FRAME_HEADER_BYTES);
    loop {
        let kept = block.len();
        let more = (BLOCK_BYTES - kept) as u64;
        file.by_ref().take(more).read_to_end(&mut block)?;
        if block.len() == kept {
            return Ok(false);
        }
        for at in chunk.find_iter(&block) {
            let Some(&[.., w0, w1, h0, h1]) = block.get(at..at + FRAME_HEADER_BYTES) else {
                continue;
            };
            let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            if size(w0, w1) > width || size(h0, h1) > height {
                return Ok(true);
            }
        }
        // A frame header may cross the end of the block.
        block.drain(..block.len().saturating_sub(FRAME_HEADER_BYTES - 1));
    }
}
