//! Parses the Content-Disposition of a form's part (RFC 7578 4.2, with the `filename*` of RFC 6266 and RFC 5987).
//!
//! multer's own parser finds `name=` inside a quoted file name, and finds no name if `filename*` comes first.

use http::HeaderMap;
use http::header::CONTENT_DISPOSITION;
use percent_encoding::percent_decode_str;

use super::params;

/// The name of the field that contains the image.
pub(super) const FILE: &str = "file";

/// The field that may contain a grant.
const GRANT: &str = "grant";

/// The name and the file name of a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Disposition {
    pub name: Option<String>,
    /// `None` also if the client sent an empty one.
    pub file_name: Option<String>,
}

impl Disposition {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let header = headers.get(CONTENT_DISPOSITION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        header.map(|header| Disposition::parse(&header)).unwrap_or_default()
    }

    /// Whether the part has the name of the field that contains the image.
    pub(super) fn is_file(&self) -> bool {
        self.name.as_deref() == Some(FILE)
    }

    /// Whether the part has the name of the field that may hold a grant.
    pub(super) fn is_grant(&self) -> bool {
        self.name.as_deref() == Some(GRANT)
    }

    fn parse(header: &str) -> Self {
        let parameters = params::parse(header);
        let extended = params::get(&parameters, "filename*").and_then(decode_extended);
        // Browsers encode a quote inside a name as %22 (WHATWG HTML, multipart/form-data encoding).
        let plain = || params::get(&parameters, "filename").map(|name| name.replace("%22", "\""));
        Disposition {
            name: params::get(&parameters, "name").map(str::to_owned),
            file_name: extended.or_else(plain).filter(|name| !name.is_empty()),
        }
    }
}

/// Decodes `charset'language'percent-encoded` (RFC 5987 3.2). `None` if the charset is neither of the required ones.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let bytes = percent_decode_str(encoded);
    match charset.to_ascii_lowercase().as_str() {
        "utf-8" => bytes.decode_utf8().ok().map(Into::into),
        "iso-8859-1" => Some(bytes.map(char::from).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str) -> (Option<String>, Option<String>) {
        let found = Disposition::parse(header);
        (found.name, found.file_name)
    }

    fn both(name: &str, file_name: &str) -> (Option<String>, Option<String>) {
        (Some(name.to_owned()), Some(file_name.to_owned()))
    }

    #[test]
    fn extended_file_name_takes_precedence() {
        for header in [
            "form-data; name=\"file\"; filename=\"a.txt\"; filename*=UTF-8''%e2%82%ac.png",
            "form-data; filename*=utf-8'en'%e2%82%ac.png; filename=\"a.txt\"; name=\"file\"",
        ] {
            assert_eq!(parse(header), both("file", "€.png"));
        }
        assert_eq!(parse("form-data; name=file; FILENAME*=iso-8859-1''%a3.gif"), both("file", "£.gif"));
    }

    #[test]
    fn invalid_extended_file_name_is_ignored() {
        for broken in ["x.png", "utf-8'x.png", "koi8-r''x.png", "utf-8''%ff.png"] {
            assert_eq!(parse(&format!("form-data; name=f; filename*={broken}; filename=a.bmp")), both("f", "a.bmp"));
        }
    }

    #[test]
    fn quoted_names() {
        assert_eq!(parse(r#"form-data; name="file"; filename="a; name=b.png""#), both("file", "a; name=b.png"));
        assert_eq!(parse(r#"form-data; filename="name=\"x\".gif"; name="file""#), both("file", "name=\"x\".gif"));
        assert_eq!(parse(r#"form-data; name="file"; filename="a%22b.jpg""#), both("file", "a\"b.jpg"));
        assert_eq!(parse("form-data; NAME=file; filename=\"héllo.jpg\""), both("file", "héllo.jpg"));
    }

    #[test]
    fn missing_names_are_none() {
        assert_eq!(parse("form-data"), (None, None));
        assert_eq!(parse("form-data; name=\"file\"; filename=\"\""), (Some("file".to_owned()), None));
        assert_eq!(Disposition::of(&HeaderMap::new()), Disposition::default());
    }
}
