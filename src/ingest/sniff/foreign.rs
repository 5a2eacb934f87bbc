//! Detects file types that are not accepted, so that the error can name them.

use imagesize::ImageType;

/// Number of leading bytes that are examined. An SVG's root element can be preceded by a long prolog.
pub(super) const WINDOW: usize = 512;

/// Returns the name of the file type that `head` looks like. `head` does not start with the mark of a known format.
pub(super) fn name(head: &[u8]) -> Option<&'static str> {
    let head = head.get(..WINDOW).unwrap_or(head);
    match head {
        [b'%', b'P', b'D', b'F', b'-', ..] => Some("pdf"),
        [b'P', b'K', 3, 4, ..] => Some("zip"),
        [0x1f, 0x8b, ..] => Some("gzip"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("mp4"),
        _ => other_image(head).or_else(|| text(head)),
    }
}

fn other_image(head: &[u8]) -> Option<&'static str> {
    match imagesize::image_type(head).ok()? {
        ImageType::Ico => Some("ico"),
        ImageType::Jxl => Some("jxl"),
        ImageType::Psd => Some("psd"),
        _ => None,
    }
}

fn text(head: &[u8]) -> Option<&'static str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        // The window may end inside a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(head.get(..error.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    let text = text.trim_start_matches('\u{feff}').trim_start().to_ascii_lowercase();
    match text.as_str() {
        markup if markup.starts_with('<') && markup.contains("<svg") => Some("svg"),
        markup if markup.starts_with("<!doctype html") || markup.starts_with("<html") => Some("html"),
        markup if markup.starts_with("<?xml") => Some("xml"),
        _ => Some("text"),
    }
}
