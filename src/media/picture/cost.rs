//! What decoding a picture takes up beside its pixels, told from its head before anything is decoded.
//! What is odd counts as what costs the most.

use std::io::{BufRead, Read, Seek, SeekFrom};

use image::ImageFormat;
use memchr::memmem;

use super::Failure;

/// How much of a file is looked through at once, in bytes.
const BLOCK: usize = 32 * 1024;
/// What stands at the beginning of a lossy WebP frame: the head of its chunk, a tag of 3 bytes, a mark of
/// 3 bytes, width and height (RFC 6386, 9.1).
const FRAME: usize = 18;

/// How many bytes the decoder of the picture in `file` takes up beside the decoded picture, which has
/// this size and perhaps moves.
///
/// # Errors
/// [`Failure::NoPicture`] if it holds a larger picture than it says.
pub(super) fn beside(
    file: &mut (impl BufRead + Seek),
    format: ImageFormat,
    (width, height): (u32, u32),
    moves: bool,
) -> Result<u64, Failure> {
    let pixels = u64::from(width) * u64::from(height);
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(match format {
        // The whole file, and the coefficients of what does not come block by block.
        ImageFormat::Jpeg if keeps_coefficients(file).unwrap_or(true) => length + pixels * 8,
        ImageFormat::Jpeg => length,
        // A frame that is laid on a canvas.
        ImageFormat::Gif => pixels * 4,
        ImageFormat::WebP if has_larger_frame(file, (width, height))? => {
            return Err(Failure::NoPicture);
        }
        // The file, planes of colors, what shows through; a frame and a canvas.
        ImageFormat::WebP => length + pixels * if moves { 16 } else { 8 },
        _ => 0,
    })
}

/// Whether a JPEG is progressive, or its colors come one after the other. None if it is odd.
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
            // A frame, of which there is one: of the kinds with Huffman codes that are decoded, only the
            // third is progressive.
            0xc0..=0xc2 if colors.is_none() => {
                let [.., count] = bytes::<6>(&mut segment)?;
                colors = Some(count);
                if marker == 0xc2 {
                    return Some(true);
                }
            }
            // A scan.
            0xda => return Some(bytes::<1>(&mut segment)?[0] < colors?),
            // Tables, applications' own, a comment.
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

/// Whether there is a lossy frame in a WebP file, wherever, that is larger than the picture: the decoder
/// looks at that only when it has decoded it.
fn has_larger_frame(file: &mut impl Read, (width, height): (u32, u32)) -> Result<bool, Failure> {
    let chunk = memmem::Finder::new(b"VP8 ");
    let mut block = Vec::with_capacity(BLOCK + FRAME);
    loop {
        let kept = block.len();
        let more = (BLOCK - kept) as u64;
        file.by_ref().take(more).read_to_end(&mut block)?;
        if block.len() == kept {
            return Ok(false);
        }
        for place in chunk.find_iter(&block) {
            let Some(&[.., w0, w1, h0, h1]) = block.get(place..place + FRAME) else {
                continue;
            };
            let size = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            if size(w0, w1) > width || size(h0, h1) > height {
                return Ok(true);
            }
        }
        // A frame may begin at the end of this block.
        block.drain(..block.len().saturating_sub(FRAME - 1));
    }
}
