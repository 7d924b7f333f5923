//! Width and height of an image, from its first bytes.
//!
//! Written here and not taken from a crate: these bytes are hostile, a panic ends the daemon, and seven formats are some
//! lines each when every read is checked.

/// Pixels wide and high; nothing when the bytes are no image of a known format, or do not say it near their beginning.
pub fn size(head: &[u8]) -> Option<(u32, u32)> {
    let found = if head.starts_with(b"\x89PNG\r\n\x1a\n") {
        png(head)
    } else if head.starts_with(b"\xff\xd8\xff") {
        jpeg(head)
    } else if head.starts_with(b"GIF87a") || head.starts_with(b"GIF89a") {
        Some((le16(head, 6)?, le16(head, 8)?))
    } else if head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
        webp(head)
    } else if head.starts_with(b"BM") {
        bmp(head)
    } else if head.starts_with(b"II*\0") {
        tiff(head, le16, le32)
    } else if head.starts_with(b"MM\0*") {
        tiff(head, be16, be32)
    } else {
        None
    };
    found.filter(|(width, height)| *width > 0 && *height > 0)
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..)?.first_chunk::<N>().copied()
}

fn le16(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(|b| u32::from(u16::from_le_bytes(b)))
}

fn be16(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(|b| u32::from(u16::from_be_bytes(b)))
}

fn le32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

fn be32(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_be_bytes)
}

/// The first chunk must be IHDR (PNG specification, 5.6).
fn png(head: &[u8]) -> Option<(u32, u32)> {
    (head.get(12..16)? == b"IHDR").then_some(())?;
    Some((be32(head, 16)?, be32(head, 20)?))
}

/// Walks over the segments to the frame header (ITU T.81, B.2.2).
fn jpeg(head: &[u8]) -> Option<(u32, u32)> {
    let mut at = 2;
    loop {
        // Any number of 0xff may stand before a marker.
        while head.get(at)? == &0xff && head.get(at + 1)? == &0xff {
            at += 1;
        }
        if head.get(at)? != &0xff {
            return None;
        }
        match head.get(at + 1)? {
            // Frame headers; in their row stand DHT, JPG and DAC, which are none.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Some((be16(head, at + 7)?, be16(head, at + 5)?));
            }
            // Markers without a segment.
            0x01 | 0xd0..=0xd8 => at += 2,
            // The scan or the end, before any frame header.
            0xd9 | 0xda => return None,
            _ => {
                let length = be16(head, at + 2)?;
                // The length counts itself.
                if length < 2 {
                    return None;
                }
                at += 2 + length as usize;
            }
        }
    }
}

/// WebP container specification; RFC 6386, 9.1; lossless bitstream specification, 3.
fn webp(head: &[u8]) -> Option<(u32, u32)> {
    match head.get(12..16)? {
        b"VP8X" => {
            let canvas = |at| le32(head, at).map(|number| (number & 0xff_ffff) + 1);
            // The height is the last of the header; the next byte need not be there.
            let height = bytes::<3>(head, 27)?;
            let height = u32::from_le_bytes([height[0], height[1], height[2], 0]) + 1;
            Some((canvas(24)?, height))
        }
        b"VP8 " => {
            (head.get(23..26)? == b"\x9d\x01\x2a").then_some(())?;
            Some((le16(head, 26)? & 0x3fff, le16(head, 28)? & 0x3fff))
        }
        b"VP8L" => {
            (head.get(20)? == &0x2f).then_some(())?;
            let bits = le32(head, 21)?;
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        _ => None,
    }
}

fn bmp(head: &[u8]) -> Option<(u32, u32)> {
    match le32(head, 14)? {
        // The header of OS/2 1.x.
        12 => Some((le16(head, 18)?, le16(head, 20)?)),
        // A negative height says that rows go from top to bottom.
        40..=124 => Some((le32(head, 18)?, le32(head, 22)?.cast_signed().unsigned_abs())),
        _ => None,
    }
}

/// The first directory, where it stands near the beginning (TIFF 6.0, section 2).
fn tiff(
    head: &[u8],
    short: fn(&[u8], usize) -> Option<u32>,
    long: fn(&[u8], usize) -> Option<u32>,
) -> Option<(u32, u32)> {
    let directory = long(head, 4)? as usize;
    let entries = short(head, directory)? as usize;
    let (mut width, mut height) = (None, None);
    for entry in 0..entries {
        let at = directory.checked_add(2 + entry * 12)?;
        let value = || match short(head, at + 2)? {
            3 => short(head, at + 8),
            4 => long(head, at + 8),
            _ => None,
        };
        match short(head, at)? {
            256 => width = value(),
            257 => height = value(),
            // Entries are sorted by tag.
            258.. => break,
            _ => {}
        }
    }
    Some((width?, height?))
}

/// Width and height that an SVG's root element names in pixels, or those of its view box.
pub fn svg_size(head: &[u8]) -> Option<(u32, u32)> {
    // Declarations and comments come before the root; what takes longer is not worth it. Chosen, not measured.
    const PROLOGUE_MAX: usize = 8 * 1024;
    const ELEMENT_MAX: usize = 4 * 1024;
    let text = head[..head.len().min(PROLOGUE_MAX + ELEMENT_MAX)].utf8_chunks().next()?.valid();
    let start = text.find("<svg").filter(|start| *start < PROLOGUE_MAX)?;
    let element = &text[start + 4..];
    let element = &element[..element.find('>')?];
    let whole = |text: &str| {
        let number: f64 = text.trim().trim_end_matches("px").parse().ok()?;
        (1.0..=f64::from(u32::MAX)).contains(&number).then(|| number.round() as u32)
    };
    let named = attribute(element, "width")
        .and_then(whole)
        .zip(attribute(element, "height").and_then(whole));
    named.or_else(|| {
        let mut numbers = attribute(element, "viewBox")?
            .split(|c: char| c == ',' || c.is_ascii_whitespace())
            .filter(|number| !number.is_empty())
            .skip(2);
        Some((whole(numbers.next()?)?, whole(numbers.next()?)?))
    })
}

/// The value of an attribute, in either kind of quotes.
fn attribute<'a>(element: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = element;
    loop {
        let at = rest.find(name)?;
        let before = rest[..at].chars().next_back();
        rest = &rest[at + name.len()..];
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        if before.is_some_and(|c| c.is_ascii_whitespace())
            && let Some(value) = value
            && let Some(quote) = value.chars().next().filter(|c| matches!(c, '"' | '\''))
        {
            return value[1..].split_once(quote).map(|(value, _)| value);
        }
    }
}
