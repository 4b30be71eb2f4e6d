//! A small picture of a picture, made from whatever a camera sent: nothing of it may cost us our memory, and what leaves is a JPEG that we
//! made.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read as _, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, anyhow, ensure};
use image::codecs::jpeg::JpegEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};

/// What a picture is made to fit; a smaller one keeps its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Of 100.
    pub quality: u8,
}

/// For lists. A picture that is all height is no thumbnail.
pub const THUMBNAIL: Bounds = Bounds { width: 320, height: 640, quality: 75 };
/// As wide as a phone or the column of a mail shows it, in a quality that halves a camera's own JPEG and leaves faces faces.
pub const MAIL: Bounds = Bounds { width: 1280, height: 1280, quality: 80 };
/// For the list of a mail.
pub const MAIL_LIST: Bounds = Bounds { width: 320, height: 320, quality: 80 };

/// A picture that was made small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Small {
    pub jpeg: Vec<u8>,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

/// In all; of a JPEG its memory allows 27 millions.
const MOST_PIXELS: u64 = 40_000_000;
/// Bytes that reading a picture may take.
const MOST_MEMORY: u64 = 256 << 20;
/// Bytes of memory for what is in a picture besides its pixels.
const ASIDE: u64 = 8 << 20;
/// The size of a picture stands in its first bytes; one whose head is longer is told without.
const HEAD: u64 = 512 * 1024;
/// Bytes of the file; a JPEG is read into memory whole.
const LONGEST: u64 = 32 << 20;

/// Makes a picture (JPEG, PNG, WebP) small. An error says why it cannot be made, also after a panic of the decoder.
///
/// Blocks, for seconds where the picture is great: the caller runs it apart and waits only so long. It cannot be stopped, but what it reads
/// and holds is bounded.
pub fn small(file: File, bounds: Bounds) -> anyhow::Result<Small> {
    let made = catch_unwind(AssertUnwindSafe(|| made_small(file, bounds)));
    made.unwrap_or_else(|_| Err(anyhow!("it cannot be read: its decoder failed")))
}

/// Width and height of a picture (JPEG, PNG, WebP), from its first bytes; an error says why not.
pub fn size_of_picture(file: &mut File) -> anyhow::Result<(u32, u32)> {
    file.seek(SeekFrom::Start(0)).context("cannot read it from its beginning")?;
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).context("cannot read it")?;
    size_of_head(&head)
}

/// The same of the first bytes of a picture.
pub fn size_of_head(head: &[u8]) -> anyhow::Result<(u32, u32)> {
    ensure!(!head.is_empty(), "it is empty");
    reader(&mut Cursor::new(head))?.into_dimensions().context("it is no whole picture")
}

/// One kind for files and for memory: for each of two, every decoder would be in the program again.
trait Source: BufRead + Seek {}

impl<T: BufRead + Seek> Source for T {}

/// A reader of a picture (JPEG, PNG, WebP) that spends little memory on what is in it besides: half a megabyte of a PNG's colour profile
/// may unpack to five hundred.
fn reader(from: &mut dyn Source) -> anyhow::Result<ImageReader<&mut dyn Source>> {
    let mut reader = ImageReader::new(from).with_guessed_format().context("cannot read it")?;
    let known = matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP));
    ensure!(known, "it is neither JPEG nor PNG nor WebP");
    let mut limits = Limits::default();
    limits.max_alloc = Some(ASIDE);
    reader.limits(limits);
    Ok(reader)
}

fn made_small(file: File, bounds: Bounds) -> anyhow::Result<Small> {
    let length = file.metadata().context("cannot read it")?.len();
    ensure!(length > 0, "it is empty");
    ensure!(length <= LONGEST, "it has {length} bytes, more than {LONGEST}");
    let mut file = BufReader::new(file);
    let reader = reader(&mut file)?;
    let format = reader.format();
    let mut decoder = reader.into_decoder().context("it is no whole picture")?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    ensure!(pixels > 0, "it has no pixels");
    ensure!(pixels <= MOST_PIXELS, "it has {width} x {height} pixels, more than {MOST_PIXELS} in all");
    let memory = match format {
        // One of several scans keeps two bytes of coefficients for each byte of the picture until the end.
        Some(ImageFormat::Jpeg) => decoder.total_bytes().saturating_mul(3),
        // Decoded into planes or into four colours first.
        Some(ImageFormat::WebP) => pixels.saturating_mul(4).saturating_add(decoder.total_bytes()),
        _ => decoder.total_bytes(),
    };
    ensure!(
        memory.saturating_add(length).saturating_add(ASIDE) <= MOST_MEMORY,
        "it needs {memory} bytes of memory, more than {MOST_MEMORY}"
    );
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder).context("it is no whole picture")?;
    let (width, height) = if is_turned(orientation) {
        let turned = Bounds { width: bounds.height, height: bounds.width, ..bounds };
        fitting(width, height, turned)
    } else {
        fitting(width, height, bounds)
    };
    let mut small = if (width, height) == (picture.width(), picture.height()) { picture } else { picture.thumbnail_exact(width, height) };
    small.apply_orientation(orientation);
    let (small, mut jpeg) = (small.into_rgb8(), Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, bounds.quality);
    small.write_with_encoder(encoder).context("the small picture cannot be written")?;
    Ok(Small { jpeg, width: small.width(), height: small.height() })
}

/// The greatest size of this shape within the bounds, never greater than it is.
fn fitting(width: u32, height: u32, bounds: Bounds) -> (u32, u32) {
    let (w, h) = (u64::from(width), u64::from(height));
    let (most_w, most_h) = (u64::from(bounds.width), u64::from(bounds.height));
    let scaled = if w <= most_w && h <= most_h {
        (w, h)
    } else if w * most_h >= h * most_w {
        (most_w, h * most_w / w)
    } else {
        (w * most_h / h, most_h)
    };
    let pixels = |side: u64| u32::try_from(side.max(1)).unwrap_or(1);
    (pixels(scaled.0), pixels(scaled.1))
}

/// Whether width and height change places when it is shown.
fn is_turned(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use image::{GrayImage, ImageFormat, Rgb, RgbImage};

    use super::*;
    use crate::store::media::Media;

    const FORMATS: [ImageFormat; 3] = [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP];

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file
    }

    fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([(x % 256) as u8, (y % 256) as u8, (x / 7 % 256) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn size_of(thumbnail: &[u8]) -> (u32, u32) {
        assert_eq!(image::guess_format(thumbnail).unwrap(), ImageFormat::Jpeg);
        let picture = image::load_from_memory(thumbnail).unwrap();
        (picture.width(), picture.height())
    }

    fn thumbnail_of(file: File) -> anyhow::Result<Vec<u8>> {
        Ok(made_small(file, THUMBNAIL)?.jpeg)
    }

    fn why_not(bytes: &[u8]) -> String {
        format!("{:#}", thumbnail_of(file_of(bytes)).unwrap_err())
    }

    /// A chunk of a PNG (www.w3.org/TR/png, section 5.3).
    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(data.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(kind);
        bytes.extend(data);
        let mut table = [0_u32; 256];
        for (entry, at) in table.iter_mut().zip(0_u32..) {
            *entry = (0..8).fold(at, |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 });
        }
        let crc = bytes[4..].iter().fold(!0_u32, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8));
        bytes.extend((!crc).to_be_bytes());
        bytes
    }

    fn header(side: u32, depth: u8, colour: u8) -> Vec<u8> {
        let side = side.to_be_bytes();
        let data = [&side[..], &side, &[depth, colour, 0, 0, 0]].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &data)].concat()
    }

    /// A zlib stream of at least `length` zeros, a thousandth of that in size, written block by block (RFC 1951, section 3.2.6): one zero,
    /// then the same zero 258 times more, and so on.
    fn zeros(length: u64) -> Vec<u8> {
        const REPEATS: u32 = 4000;
        let (mut block, mut bits) = (Vec::new(), 0);
        let mut put = |value: u32, count: u32| {
            for nth in (0..count).rev() {
                if bits % 8 == 0 {
                    block.push(0_u8);
                }
                *block.last_mut().unwrap() |= ((value >> nth & 1) as u8) << (bits % 8);
                bits += 1;
            }
        };
        put(0b0_10, 3); // not the last one; fixed codes (their number stands lowest bit first)
        put(0b0011_0000, 8);
        for _ in 0..REPEATS {
            put(0b1100_0101, 8); // 258 bytes
            put(0, 5); // from one byte back
        }
        put(0, 7); // end of the block
        put(0, 3); // then an empty one that ends on a byte
        block.extend([0, 0, 0xff, 0xff]);
        let times = length / (1 + 258 * u64::from(REPEATS)) + 1;
        [vec![0x78, 0x01], block.repeat(usize::try_from(times).unwrap())].concat()
    }

    /// Greatest number of bytes that this process ever held.
    fn peak() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    #[test]
    fn the_size_of_a_picture_is_read_and_of_what_is_none_it_is_said_why() {
        let picture = RgbImage::new(64, 48);
        for format in FORMATS {
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, format).unwrap();
            let bytes = bytes.into_inner();
            assert_eq!(size_of_picture(&mut file_of(&bytes)).unwrap(), (64, 48), "{format:?}");
            assert!(size_of_picture(&mut file_of(&bytes[..12])).is_err(), "{format:?}, cut off");
        }
        for (what, bytes) in [("empty", &b""[..]), ("neither", b"GIF89a----"), ("neither", b"hello"), ("neither", &[0; 1000])] {
            let why = format!("{:#}", size_of_picture(&mut file_of(bytes)).unwrap_err());
            assert!(why.contains(what), "{why}");
        }
    }

    #[test]
    fn a_thumbnail_has_the_shape_of_its_picture() {
        for (width, height, small) in [
            (640, 480, (320, 240)),
            (360, 640, (320, 568)),
            (200, 100, (200, 100)),
            (2000, 1, (320, 1)),
            (1, 2000, (1, 640)),
            (320, 2000, (102, 640)),
        ] {
            let thumbnail = thumbnail_of(file_of(&picture(width, height, ImageFormat::Jpeg))).unwrap();
            assert_eq!(size_of(&thumbnail), small, "{width} x {height}");
        }
        for format in FORMATS {
            assert_eq!(size_of(&thumbnail_of(file_of(&picture(400, 300, format))).unwrap()), (320, 240), "{format:?}");
        }
        let mut gray = Cursor::new(Vec::new());
        GrayImage::new(640, 480).write_to(&mut gray, ImageFormat::Png).unwrap();
        assert_eq!(size_of(&thumbnail_of(file_of(gray.get_ref())).unwrap()), (320, 240));
    }

    #[test]
    fn a_picture_that_was_taken_upright_is_shown_upright() {
        // Exif with the one entry "orientation: turn by 90 degrees" (CIPA DC-008, 4.6.4), put behind the first marker.
        let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut bytes = picture(640, 480, ImageFormat::Jpeg);
        bytes.splice(2..2, exif.iter().copied());
        assert_eq!(size_of(&thumbnail_of(file_of(&bytes)).unwrap()), (320, 426));
    }

    #[test]
    fn a_picture_is_made_as_small_as_a_mail_needs_it_and_never_larger() {
        for (size, format, mail, list) in [
            ((1920, 1080), ImageFormat::Jpeg, (1280, 720), (320, 180)),
            ((600, 1600), ImageFormat::Png, (480, 1280), (120, 320)),
            ((640, 480), ImageFormat::WebP, (640, 480), (320, 240)),
            ((64, 48), ImageFormat::Jpeg, (64, 48), (64, 48)),
        ] {
            let image = RgbImage::from_fn(size.0, size.1, |x, _| Rgb(if x < size.0 / 2 { [220, 0, 0] } else { [0, 0, 220] }));
            let mut bytes = Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).unwrap();
            for (bounds, size) in [(MAIL, mail), (MAIL_LIST, list)] {
                let small = small(file_of(bytes.get_ref()), bounds).unwrap();
                assert_eq!((small.width, small.height), size, "{format:?}");
                let shown = image::load_from_memory_with_format(&small.jpeg, ImageFormat::Jpeg).unwrap().into_rgb8();
                assert_eq!(shown.dimensions(), size);
                let [left, right] = [shown.get_pixel(2, 2).0, shown.get_pixel(size.0 - 3, size.1 - 3).0];
                assert!(left[0] > 180 && left[2] < 60 && right[2] > 180 && right[0] < 60, "{left:?} {right:?}");
            }
        }
    }

    #[test]
    fn a_thumbnail_lies_beside_its_picture_and_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let media = Media::open(dir.path()).unwrap();
        let hash = media.keep(&mut file_of(&picture(640, 480, ImageFormat::Jpeg)), 1 << 20).unwrap().hash;
        media.make_thumbnail(&hash).unwrap();
        media.make_thumbnail(&hash).unwrap();
        let mut bytes = Vec::new();
        media.thumbnail(&hash).unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(size_of(&bytes), (320, 240));
        assert_eq!(media.list().unwrap(), [hash]);
        media.remove(&hash).unwrap();
        assert!(media.thumbnail(&hash).is_err());
        // One that was being made meanwhile is not left behind; one that a crash left behind is found.
        assert!(media.keep_thumbnail(&hash, &bytes).is_err());
        assert!(media.list().unwrap().is_empty());
        std::fs::write(media.path(&hash).with_extension("thumb"), &bytes).unwrap();
        assert_eq!(media.list().unwrap(), [hash]);
        media.remove(&hash).unwrap();
        assert!(media.list().unwrap().is_empty() && media.make_thumbnail(&hash).is_err());
    }

    #[test]
    fn a_picture_that_would_fill_our_memory_is_refused_before_it_does() {
        let before = peak();
        // A colour profile of 75 MB in a picture of one pixel, of which a camera wants to know the size only.
        let profile = chunk(b"iCCP", &[&b"x\0\0"[..], &zeros(75 << 20)].concat());
        let _ = size_of_head(&[header(1, 8, 0), profile, chunk(b"IDAT", &zeros(2))].concat());
        assert!(peak() - before < 32 << 20, "{} MB", (peak() - before) >> 20);
        // 2.5 GB of zeros in a file of 16 MB.
        let great = [header(50_000, 8, 0), chunk(b"IDAT", &zeros(50_001 * 50_000)), chunk(b"IEND", b"")].concat();
        assert!(why_not(&great).contains("50000 x 50000 pixels"), "{}", why_not(&great));
        drop(great);
        // Few enough pixels, but of eight bytes each.
        let deep = [header(6_300, 16, 6), chunk(b"IDAT", &zeros(1000)), chunk(b"IEND", b"")].concat();
        assert!(why_not(&deep).contains("bytes of memory"), "{}", why_not(&deep));
        // A colour profile of 1 GB in a picture of one pixel.
        let profile = chunk(b"iCCP", &[&b"x\0\0"[..], &zeros(1 << 30)].concat());
        let heavy = [header(1, 8, 0), profile, chunk(b"IDAT", &zeros(2)), chunk(b"IEND", b"")].concat();
        // With a thumbnail or without.
        let _ = thumbnail_of(file_of(&heavy));
        drop(heavy);
        let mut jpeg = picture(64, 64, ImageFormat::Jpeg);
        let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].fill(0xff);
        assert!(why_not(&jpeg).contains("65535 x 65535 pixels"), "{}", why_not(&jpeg));
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0x17, 0x70, 0x17, 0x70]);
        assert!(why_not(&jpeg).contains("bytes of memory"), "one of 6000 x 6000: {}", why_not(&jpeg));
        let file = tempfile::tempfile().unwrap();
        file.set_len(LONGEST + 1).unwrap();
        assert!(format!("{:#}", thumbnail_of(file).unwrap_err()).contains("more than"));
        // The bombs themselves, which this test holds, and what tests beside it do, are far less than what they would have taken.
        assert!(peak() - before < 128 << 20, "{} MB", (peak() - before) >> 20);
    }

    #[test]
    fn what_is_no_picture_is_refused_in_words() {
        for (bytes, why) in [
            (&b""[..], "it is empty"),
            (b"GIF89a\x01\0\x01\0\0\0\0;", "neither JPEG nor PNG nor WebP"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "neither JPEG nor PNG nor WebP"),
            (&[0; 5000], "neither JPEG nor PNG nor WebP"),
            (b"\xff\xd8\xff", "no whole picture"),
            (b"\x89PNG\r\n\x1a\n", "no whole picture"),
            (b"RIFF\xff\xff\xff\xffWEBPVP8 ", "no whole picture"),
        ] {
            assert!(why_not(bytes).contains(why), "{}", why_not(bytes));
        }
    }

    #[test]
    fn a_damaged_picture_makes_no_decoder_fail() {
        for format in FORMATS {
            let good = picture(16, 8, format);
            for length in (0..good.len()).step_by(3) {
                // A part of a JPEG may still be a picture.
                let _ = thumbnail_of(file_of(&good[..length]));
            }
            for at in 0..good.len() {
                for flip in [0x01, 0xff] {
                    let mut bad = good.clone();
                    bad[at] ^= flip;
                    let _ = thumbnail_of(file_of(&bad));
                }
            }
        }
    }
}
