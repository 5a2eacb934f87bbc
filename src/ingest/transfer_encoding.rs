//! Decodes a part's Content-Transfer-Encoding (RFC 2045, 6) while the part streams.
//!
//! The header is deprecated (RFC 7578, 4.7) and browsers never send it, but MIME libraries, Ansible and curl's
//! `encoder` do.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use hex::FromHex;
use http::{HeaderMap, HeaderName};

use crate::error::{Error, Result};

const CONTENT_TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// Encoders differ in how they set the unused bits of the last character.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Decodes one part, chunk by chunk.
#[derive(Debug, Default)]
pub(super) enum Decoder {
    /// `binary`, `8bit` and `7bit`: the bytes are not encoded.
    #[default]
    Identity,
    Base64(Base64),
    QuotedPrintable(QuotedPrintable),
}

impl Decoder {
    /// Returns the decoder for a part with these headers.
    ///
    /// # Errors
    /// Returns [`Error::ContentTransferEncoding`] for any encoding that RFC 2045 does not define.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self> {
        let Some(encoding) = headers.get(CONTENT_TRANSFER_ENCODING) else { return Ok(Decoder::Identity) };
        match encoding.as_bytes().trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"binary" | b"8bit" | b"7bit" => Ok(Decoder::Identity),
            b"base64" => Ok(Decoder::Base64(Base64::default())),
            b"quoted-printable" => Ok(Decoder::QuotedPrintable(QuotedPrintable::default())),
            _ => Err(Error::ContentTransferEncoding),
        }
    }

    /// Decodes `chunk`. The result may be empty, because an incomplete group of characters is kept for the next chunk.
    ///
    /// # Errors
    /// Returns [`Error::MalformedForm`] if the chunk is not valid in the part's encoding.
    pub(super) fn decode(&mut self, chunk: Bytes) -> Result<Bytes> {
        match self {
            Decoder::Identity => Ok(chunk),
            Decoder::Base64(base64) => base64.decode(&chunk).map(Bytes::from),
            Decoder::QuotedPrintable(quoted) => quoted.decode(&chunk).map(Bytes::from),
        }
    }

    /// Checks that the part is complete.
    ///
    /// # Errors
    /// Returns [`Error::MalformedForm`] if the part ends within an encoded group of characters.
    pub(super) fn finish(&self) -> Result<()> {
        match self {
            Decoder::Identity => Ok(()),
            Decoder::Base64(base64) => base64.finish(),
            Decoder::QuotedPrintable(quoted) => quoted.finish(),
        }
    }
}

/// Decoder for base64 (RFC 2045, 6.8). Line breaks and spaces are skipped.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    /// Characters of an incomplete group of four.
    carry: Vec<u8>,
    /// Whether the padding was read. No further characters may follow it.
    padded: bool,
}

impl Base64 {
    fn decode(&mut self, chunk: &[u8]) -> Result<Vec<u8>> {
        let mut text = std::mem::take(&mut self.carry);
        text.extend(chunk.iter().filter(|byte| !byte.is_ascii_whitespace()));
        if self.padded && !text.is_empty() {
            return Err(invalid_base64());
        }
        self.carry = text.split_off(text.len() / 4 * 4);
        self.padded |= text.ends_with(b"=");
        BASE64.decode(text).map_err(|_| invalid_base64())
    }

    fn finish(&self) -> Result<()> {
        if self.carry.is_empty() { Ok(()) } else { Err(invalid_base64()) }
    }
}

fn invalid_base64() -> Error {
    Error::MalformedForm("the file's Content-Transfer-Encoding is base64, but its data is not valid base64".to_owned())
}

/// Decoder for quoted-printable (RFC 2045, 6.7).
#[derive(Debug, Default)]
pub(super) struct QuotedPrintable {
    /// An incomplete escape sequence, which begins with `=`.
    escape: Vec<u8>,
}

impl QuotedPrintable {
    fn decode(&mut self, chunk: &[u8]) -> Result<Vec<u8>> {
        let mut decoded = Vec::with_capacity(chunk.len());
        for byte in chunk {
            if self.escape.is_empty() && *byte != b'=' {
                decoded.push(*byte);
                continue;
            }
            self.escape.push(*byte);
            match self.escape.as_slice() {
                [b'='] | [b'=', b'\r'] => continue,
                // A soft line break.
                [b'=', b'\n'] | [b'=', b'\r', b'\n'] => {}
                [b'=', high] if high.is_ascii_hexdigit() => continue,
                [b'=', digits @ ..] => {
                    decoded.extend(<[u8; 1]>::from_hex(digits).map_err(|_| invalid_quoted_printable())?);
                }
                _ => return Err(invalid_quoted_printable()),
            }
            self.escape.clear();
        }
        Ok(decoded)
    }

    /// The last line may end with a soft line break, whose CRLF is part of the delimiter.
    fn finish(&self) -> Result<()> {
        if matches!(self.escape.as_slice(), [] | [b'=']) { Ok(()) } else { Err(invalid_quoted_printable()) }
    }
}

fn invalid_quoted_printable() -> Error {
    let reason = "the file's Content-Transfer-Encoding is quoted-printable, but its data is not valid quoted-printable";
    Error::MalformedForm(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(encoding: &str) -> Result<Decoder> {
        Decoder::of(&HeaderMap::from_iter([(CONTENT_TRANSFER_ENCODING, encoding.parse().unwrap())]))
    }

    fn decoded(encoding: &str, text: &[u8], size: usize) -> Result<Vec<u8>> {
        let mut decoder = of(encoding).unwrap();
        let mut bytes = Vec::new();
        for chunk in text.chunks(size) {
            bytes.extend(decoder.decode(Bytes::copy_from_slice(chunk))?);
        }
        decoder.finish().map(|()| bytes)
    }

    /// Encodes in lines of 76 characters, as MIME libraries do.
    fn base64(bytes: &[u8]) -> Vec<u8> {
        let text = BASE64.encode(bytes);
        text.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).collect()
    }

    fn quoted(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().enumerate().fold(Vec::new(), |mut text, (at, byte)| {
            match byte {
                b'!'..=b'<' | b'>'..=b'~' => text.push(*byte),
                other => text.extend(format!("={other:02X}").bytes()),
            }
            if at % 20 == 19 {
                text.extend(b"=\r\n");
            }
            text
        })
    }

    #[test]
    fn encodings_by_name() {
        for name in ["binary", "8bit", "7BIT", " Binary "] {
            assert!(matches!(of(name), Ok(Decoder::Identity)), "{name}");
        }
        assert!(matches!(Decoder::of(&HeaderMap::new()), Ok(Decoder::Identity)));
        assert!(matches!(of("BASE64"), Ok(Decoder::Base64(_))));
        assert!(matches!(of("Quoted-Printable"), Ok(Decoder::QuotedPrintable(_))));
        for name in ["x-uuencode", "gzip", "base65"] {
            assert!(matches!(of(name), Err(Error::ContentTransferEncoding)), "{name}");
        }
    }

    #[test]
    fn invalid_encodings_are_malformed() {
        let malformed = |encoding: &str, text: &[u8]| {
            for size in [1, 2, 3, 5, 100] {
                let read = decoded(encoding, text, size);
                assert!(matches!(read, Err(Error::MalformedForm(_))), "{text:?} by {size}: {read:?}");
            }
        };
        for text in [&b"AAA"[..], b"AA=A", b"A===", b"AA==AAAA", b"AAA=\r\nA", b"AA*A", b"A", b"=", b"AAAA\xff"] {
            malformed("base64", text);
        }
        for text in [&b"=4"[..], b"=4x", b"=x4", b"a=\r", b"==41", b"=\rx"] {
            malformed("quoted-printable", text);
        }
    }

    #[test]
    fn line_breaks_and_spaces_are_skipped() {
        assert_eq!(decoded("quoted-printable", b"a=\r\nb=\nc=3d=3D\r\nd=", 1).unwrap(), b"abc==\r\nd");
        assert_eq!(decoded("base64", b" YQ\t= \n = \r\n", 1).unwrap(), b"a");
        assert_eq!(decoded("base64", b"", 1).unwrap(), b"");
    }

    proptest! {
        #[test]
        fn decoding_reverses_encoding_for_any_chunk_size(
            bytes in prop::collection::vec(any::<u8>(), 0..500),
            size in 1..90_usize,
        ) {
            prop_assert_eq!(&decoded("base64", &base64(&bytes), size).unwrap(), &bytes);
            prop_assert_eq!(&decoded("quoted-printable", &quoted(&bytes), size).unwrap(), &bytes);
            prop_assert_eq!(&decoded("binary", &bytes, size).unwrap(), &bytes);
        }
    }
}
