//! How the text of one setting becomes its value; the errors go after the setting's name.

use bytesize::ByteSize;
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::format::Format;

pub type Parsed<T> = Result<T, String>;

pub fn number<T: FromStr>(text: &str) -> Parsed<T> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a number in range"))
}

pub fn positive(text: &str) -> Parsed<usize> {
    number(text).and_then(|value| if value > 0 { Ok(value) } else { Err("must be at least 1".to_owned()) })
}

/// Bytes, bare or with a unit, within `range`.
pub fn size(text: &str, range: RangeInclusive<u64>) -> Parsed<u64> {
    let size: ByteSize = text.trim().parse().map_err(|_| format!("'{text}' is not a size like 5MiB"))?;
    if range.contains(&size.as_u64()) {
        return Ok(size.as_u64());
    }
    Err(format!("{text} is not between {} and {} bytes", range.start(), range.end()))
}

/// Bare: seconds.
pub fn duration(text: &str) -> Parsed<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| format!("'{text}' is not a duration like 30s"))
}

/// A duration that is not zero.
pub fn some_time(text: &str) -> Parsed<Duration> {
    duration(text).and_then(|time| if time.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(time) })
}

pub fn choice<T: Clone>(text: &str, choices: &[(&str, T)]) -> Parsed<T> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("'{text}' is none of {}", names.join(", "))
    })
}

pub fn switch(text: &str) -> Parsed<bool> {
    choice(text, &[("true", true), ("1", true), ("false", false), ("0", false)])
}

pub fn formats(text: &str) -> Parsed<Vec<Format>> {
    let mut formats = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let (format, _) =
            Format::from_extension(name).ok_or_else(|| format!("'{name}' is not a known image format"))?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() { Err("names no format".to_owned()) } else { Ok(formats) }
}

/// Empty, or ending in a slash and not starting with one.
pub fn prefix(text: &str) -> Parsed<String> {
    let whole = text.is_empty() || (text.ends_with('/') && !text.starts_with('/') && !text.contains("//"));
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.!*'()".contains(&byte));
    if whole && plain && !text.split('/').any(|part| part == "." || part == "..") {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' must be empty or like a/b/, of letters, digits and -_.!*'()"))
}

/// An http(s) URL without query, its trailing slash taken off.
pub fn absolute_url(text: Option<&str>) -> Parsed<Option<String>> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let uri: http::Uri = text.parse().map_err(|_| format!("'{text}' is not a URL"))?;
    let web = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty());
    if web && uri.query().is_none() {
        return Ok(Some(text.trim_end_matches('/').to_owned()));
    }
    Err(format!("'{text}' is not an http:// or https:// URL without a query"))
}

/// Origins as browsers send them (scheme, host, port, no slash), or `*` alone.
pub fn origins(text: Option<&str>) -> Parsed<Vec<String>> {
    let mut origins = Vec::new();
    for origin in text.unwrap_or_default().split(',').map(str::trim).filter(|origin| !origin.is_empty()) {
        if origin != "*" && absolute_url(Some(origin))?.is_none_or(|url| url != origin || url.matches('/').count() != 2)
        {
            return Err(format!("'{origin}' is not an origin like https://example.com"));
        }
        origins.push(origin.to_owned());
    }
    if origins.len() > 1 && origins.iter().any(|origin| origin == "*") {
        return Err("* stands alone".to_owned());
    }
    Ok(origins)
}

/// Addresses and networks (CIDR), comma-separated.
pub fn networks(text: Option<&str>) -> Parsed<Vec<IpNet>> {
    let names = text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(network).collect()
}

fn network(text: &str) -> Parsed<IpNet> {
    let address = || text.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical()));
    text.parse()
        .ok()
        .or_else(address)
        .ok_or_else(|| format!("'{text}' is neither an IP address nor a network like 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_with_or_without_a_length() {
        let read = |text| networks(Some(text)).map(|found| found.iter().map(IpNet::to_string).collect::<Vec<_>>());
        assert_eq!(read("10.0.0.0/8, 192.0.2.7,::1").unwrap(), ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
        assert_eq!(read("0.0.0.0/0,2001:db8::/32").unwrap(), ["0.0.0.0/0", "2001:db8::/32"]);
        assert_eq!(read(" , ").unwrap(), [""; 0]);
        for wrong in ["10.0.0.0/33", "proxy", "*", "10.0.0", "10.0.0.1:80"] {
            assert!(read(wrong).unwrap_err().starts_with(&format!("'{wrong}'")), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(size("5MiB", 0..=u64::MAX), Ok(5 << 20));
        assert_eq!(size("5 GB", 0..=u64::MAX), Ok(5_000_000_000));
        assert_eq!(size("1024", 0..=u64::MAX), Ok(1024));
        assert!(size("1024", 0..=1023).is_err());
        assert!(size("much", 0..=u64::MAX).is_err());
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("-1s").is_err());
        assert!(some_time("0").is_err());
    }

    #[test]
    fn prefixes_are_folders() {
        for good in ["", "a/", "a/b-c_d/"] {
            assert_eq!(prefix(good), Ok(good.to_owned()));
        }
        for bad in ["a", "/", "/a/", "a//b/", "../", "ä/", "a b/"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_exact() {
        let two = vec!["https://a.example".to_owned(), "http://localhost:3000".to_owned()];
        assert_eq!(origins(Some("https://a.example, http://localhost:3000")), Ok(two));
        assert_eq!(origins(Some("*")), Ok(vec!["*".to_owned()]));
        assert_eq!(origins(None), Ok(vec![]));
        for bad in ["a.example", "https://a.example/", "https://a.example/x", "*,https://a.example"] {
            assert!(origins(Some(bad)).is_err(), "{bad}");
        }
    }
}
