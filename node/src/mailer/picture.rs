//! A picture becomes small enough for a mail. Whatever a camera sent, what leaves is a JPEG that we made.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageError, ImageReader, Limits};
use thiserror::Error;

/// A JPEG, and how large it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scaled {
    pub jpeg: Vec<u8>,
    /// Pixels.
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Error)]
pub enum PictureError {
    #[error("a picture of {width} x {height} pixels is larger than 40 megapixels")]
    TooLarge { width: u32, height: u32 },
    #[error("this picture takes too much memory")]
    TooMuchMemory,
    #[error("this is no JPEG, PNG or WebP picture, or it is damaged")]
    Unreadable(#[source] ImageError),
}

/// Pixels; as wide as a phone or a mail column shows it.
const MAIL: u32 = 1280;
const THUMBNAIL: u32 = 320;
/// Percent. Halves the size of a camera's own JPEG, and faces stay faces.
const QUALITY: u8 = 80;
/// Pixels: the largest sensors of Raspberry Pi cameras have 12 million, of others up to 40.
const LARGEST: u64 = 40_000_000;
/// Bytes while it is decoded: three for each pixel, and what the decoder needs.
const MEMORY: u64 = 160_000_000;

/// At most 1280 pixels wide and high; a smaller one keeps its size. Takes up to seconds for a large one: not for a task that others wait for.
pub fn for_mail(picture: &[u8]) -> Result<Scaled, PictureError> {
    scaled(picture, MAIL)
}

/// The same, at most 320 pixels wide and high, for lists.
pub fn thumbnail(picture: &[u8]) -> Result<Scaled, PictureError> {
    scaled(picture, THUMBNAIL)
}

fn scaled(picture: &[u8], longest: u32) -> Result<Scaled, PictureError> {
    let mut reader =
        ImageReader::new(Cursor::new(picture)).with_guessed_format().map_err(|error| PictureError::Unreadable(error.into()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MEMORY);
    reader.limits(limits);
    // Reads the head alone.
    let mut decoder = reader.into_decoder().map_err(told)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > LARGEST {
        return Err(PictureError::TooLarge { width, height });
    }
    if decoder.total_bytes() > MEMORY {
        return Err(PictureError::TooMuchMemory);
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(told)?;
    if width > longest || height > longest {
        // Averages areas in place; a finer filter would hold a second picture of floats.
        picture = picture.thumbnail(longest, longest);
    }
    picture.apply_orientation(orientation);
    let picture = picture.into_rgb8();
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&picture).map_err(told)?;
    Ok(Scaled { jpeg, width: picture.width(), height: picture.height() })
}

fn told(error: ImageError) -> PictureError {
    match error {
        ImageError::Limits(_) => PictureError::TooMuchMemory,
        error => PictureError::Unreadable(error),
    }
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, RgbImage};

    use super::*;

    /// Left half red, right half blue.
    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let image = RgbImage::from_fn(width, height, |x, _| image::Rgb(if x < width / 2 { [220, 0, 0] } else { [0, 0, 220] }));
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn colours(scaled: &Scaled) -> [[u8; 3]; 2] {
        let image = image::load_from_memory_with_format(&scaled.jpeg, ImageFormat::Jpeg).unwrap().into_rgb8();
        assert_eq!(image.dimensions(), (scaled.width, scaled.height));
        [image.get_pixel(2, 2).0, image.get_pixel(scaled.width - 3, scaled.height - 3).0]
    }

    #[test]
    fn a_picture_is_made_as_small_as_a_mail_needs_it_and_never_larger() {
        use ImageFormat::{Jpeg, Png, WebP};
        for (size, format, mail, list) in [
            ((1920, 1080), Jpeg, (1280, 720), (320, 180)),
            ((600, 1600), Png, (480, 1280), (120, 320)),
            ((640, 480), WebP, (640, 480), (320, 240)),
            ((64, 48), Jpeg, (64, 48), (64, 48)),
        ] {
            let bytes = picture(size.0, size.1, format);
            for (scaled, (width, height)) in [(for_mail(&bytes).unwrap(), mail), (thumbnail(&bytes).unwrap(), list)] {
                assert_eq!((scaled.width, scaled.height), (width, height), "{size:?} {format:?}");
                let [left, right] = colours(&scaled);
                assert!(left[0] > 180 && left[2] < 60 && right[2] > 180 && right[0] < 60, "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn a_picture_that_claims_to_be_huge_is_refused_before_it_takes_memory() {
        // A PNG whose head says 30000 x 30000, and nothing behind it: 2.7 GB if somebody believed it.
        let mut bomb = picture(8, 8, ImageFormat::Png);
        bomb[16..20].copy_from_slice(&30_000u32.to_be_bytes());
        bomb[20..24].copy_from_slice(&30_000u32.to_be_bytes());
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        let why = for_mail(&bomb).unwrap_err();
        assert!(matches!(why, PictureError::TooLarge { width: 30_000, .. } | PictureError::TooMuchMemory), "{why:?}");
        // 39.9 megapixels of 16 bits and four channels: 319 MB.
        let mut deep = picture(8, 8, ImageFormat::Png);
        deep[16..20].copy_from_slice(&6_300u32.to_be_bytes());
        deep[20..24].copy_from_slice(&6_300u32.to_be_bytes());
        (deep[24], deep[25]) = (16, 6);
        let crc = crc32(&deep[12..29]);
        deep[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(matches!(for_mail(&deep).unwrap_err(), PictureError::TooMuchMemory));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }

    #[test]
    fn what_is_no_picture_or_half_of_one_is_told_and_harms_nobody() {
        let whole = picture(96, 64, ImageFormat::Jpeg);
        for bytes in [&b""[..], b"GIF89a\x01\x00\x01\x00", b"<svg/>", &whole[..40], &[0xff; 400]] {
            let why = for_mail(bytes).unwrap_err();
            assert!(matches!(why, PictureError::Unreadable(_)), "{why:?}");
        }
        // Whatever is damaged on the way: an answer, no panic.
        for at in (0..whole.len()).step_by(7) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _ = for_mail(&damaged);
            let _ = for_mail(&whole[..at]);
        }
    }
}
