//! A form with one image in it.

const IMAGE: &[u8] = include_bytes!("../../tests/fixtures/plain.png");
const BOUNDARY: &str = "a-boundary-of-a-benchmark";

pub fn content_type() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

/// What stands before the image.
pub fn head() -> Vec<u8> {
    let disposition = "content-disposition: form-data; name=\"file\"; filename=\"a.png\"";
    format!("--{BOUNDARY}\r\n{disposition}\r\ncontent-type: image/png\r\n\r\n").into_bytes()
}

/// An image of `size` bytes: a small one with a long tail, as mixed as an image's bytes are.
pub fn image(size: usize) -> Vec<u8> {
    let mut bytes = IMAGE.to_vec();
    let mut state = 1_u32;
    bytes.resize_with(size, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    bytes
}

/// What stands behind it.
pub fn tail() -> Vec<u8> {
    format!("\r\n--{BOUNDARY}--\r\n").into_bytes()
}
