//! A form that contains one image.

const IMAGE: &[u8] = include_bytes!("../../tests/fixtures/plain.png");
const BOUNDARY: &str = "a-boundary-of-a-benchmark";

pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// Returns the part of the form before the image.
pub fn head() -> Vec<u8> {
    let disposition = "content-disposition: form-data; name=\"file\"; filename=\"a.png\"";
    format!("--{BOUNDARY}\r\n{disposition}\r\ncontent-type: image/png\r\n\r\n").into_bytes()
}

/// Returns an image of `size` bytes: a small image followed by pseudo-random bytes.
pub fn image(size: usize) -> Vec<u8> {
    let mut bytes = IMAGE.to_vec();
    let mut state = 1_u32;
    bytes.resize_with(size, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes
}

/// Returns the part of the form after the image.
pub fn tail() -> Vec<u8> {
    format!("\r\n--{BOUNDARY}--\r\n").into_bytes()
}
