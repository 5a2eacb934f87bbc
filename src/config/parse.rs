//! Parsers for the text of one setting. Error messages follow the setting's name and a colon.

use bytesize::ByteSize;
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;
use url::Url;

use crate::format::Format;

/// S3's limit on the lifetime of presigned URLs.
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
/// S3's keys have at most 1,024 bytes. The rest is for the names that the service uses below the prefix.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>
const MAX_PREFIX: usize = 900;
/// AWS's former limit, which existing buckets may still use.
const MAX_BUCKET: usize = 255;
/// A limit that detects mistakes and keeps sums of durations from overflowing.
const MAX_DURATION: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub type Parsed<T> = Result<T, String>;

pub fn number<T: FromStr>(text: &str) -> Parsed<T> {
    text.trim().parse().map_err(|_| format!("'{text}' is not a number in range"))
}

pub fn positive(text: &str) -> Parsed<usize> {
    number(text).and_then(|value| if value > 0 { Ok(value) } else { Err("must be at least 1".to_owned()) })
}

/// A count within `range`.
pub fn count(text: &str, range: RangeInclusive<usize>) -> Parsed<usize> {
    let value = number(text)?;
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{value} must be between {} and {}", range.start(), range.end()))
}

pub fn address(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| format!("'{text}' is not an IP address"))
}

/// A size within `range`, in bytes or with a unit.
pub fn size<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Parsed<T> {
    let size: ByteSize = text.trim().parse().map_err(|_| format!("'{text}' is not a size like 5MiB"))?;
    let within = Some(size.as_u64()).filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
    within.ok_or_else(|| format!("{text} must be between {} and {} bytes", range.start(), range.end()))
}

/// A duration, in seconds or with a unit.
pub fn duration(text: &str) -> Parsed<Duration> {
    let text = text.trim();
    let seconds = text.parse().map(Duration::from_secs);
    let parsed = seconds.or_else(|_| humantime::parse_duration(text));
    let duration = parsed.map_err(|_| format!("'{text}' is not a duration like 30s"))?;
    if duration > MAX_DURATION { Err(format!("'{text}' exceeds the limit of 100 years")) } else { Ok(duration) }
}

/// A duration that is not zero.
pub fn positive_duration(text: &str) -> Parsed<Duration> {
    duration(text).and_then(|time| if time.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(time) })
}

/// The value of one of `choices`, whose names are compared without regard to case.
pub fn one_of<T: Clone>(text: &str, choices: &[(&str, T)]) -> Parsed<T> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| value.clone()).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("'{text}' is invalid; use one of {}", names.join(", "))
    })
}

pub fn boolean(text: &str) -> Parsed<bool> {
    one_of(text, &[("true", true), ("1", true), ("false", false), ("0", false)])
}

/// The values of a comma-separated list.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|value| !value.is_empty())
}

pub fn formats(text: &str) -> Parsed<Vec<Format>> {
    let mut formats = Vec::new();
    for name in list(text) {
        let (format, _) =
            Format::from_extension(name).ok_or_else(|| format!("'{name}' is not a known image format"))?;
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    if formats.is_empty() { Err("contains no format".to_owned()) } else { Ok(formats) }
}

/// A prefix of object keys: empty, or a path that ends in a slash and does not start with one.
pub fn prefix(text: &str) -> Parsed<String> {
    let is_folder = text.is_empty() || (text.ends_with('/') && !text.starts_with('/') && !text.contains("//"));
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.!*'()".contains(&byte));
    if text.len() > MAX_PREFIX {
        return Err(format!("has {} bytes, which exceeds the limit of {MAX_PREFIX} bytes", text.len()));
    }
    if is_folder && plain && !text.split('/').any(|part| part == "." || part == "..") {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' must be empty or like a/b/, with letters, digits and -_.!*'() only"))
}

/// An `http` or `https` URL with a host and optionally a path, normalised and without a trailing slash.
///
/// Credentials are rejected because they would reach logs and clients. A query or a fragment is rejected because it
/// would be lost when a path is appended.
pub fn absolute_url(text: &str) -> Parsed<String> {
    let shown = shown(text);
    let url = web_url(text).ok_or_else(|| format!("{shown} is not a URL like https://example.com"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("{shown} contains credentials; remove them, they are not used"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{shown} has a query or a fragment; remove it"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Parses an `http` or `https` URL, without the repairs of the WHATWG parser, which would hide a mistake.
fn web_url(text: &str) -> Option<Url> {
    let (scheme, rest) = text.split_once("://")?;
    let web = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let plain = rest.chars().all(|char| !char.is_whitespace() && !char.is_control() && char != '\\');
    (web && plain && !rest.starts_with('/')).then(|| Url::parse(text).ok())?
}

/// Returns `text` in quotes, without the parts of a URL that may be secret: credentials, query and fragment.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, _)| text.split_at(scheme.len() + 3));
    let end = rest.find(['?', '#']).map_or(rest.len(), |at| at + 1);
    let (public, private) = rest.split_at(end);
    let public = match public.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        // A password may contain ? or #, and a query may contain @, so this may be either.
        None if private.contains('@') => String::new(),
        None => public.to_owned(),
    };
    let cut = if private.is_empty() { "" } else { "…" };
    format!("'{scheme}{public}{cut}'")
}

/// Comma-separated origins exactly as browsers send them, or a single `*`.
///
/// A browser's `Origin` is the ASCII serialization of RFC 6454, 6.2: scheme and host in lower case, no default port, no
/// path. Any other text never equals it.
pub fn origins(text: &str) -> Parsed<Vec<String>> {
    let names: Vec<&str> = list(text).collect();
    let wrong: Vec<String> = names.iter().filter_map(|name| never_sent(name)).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("; "));
    }
    if names.len() > 1 && names.contains(&"*") {
        return Err("* cannot be combined with other origins".to_owned());
    }
    if names.is_empty() && !text.trim().is_empty() {
        return Err("contains no origin".to_owned());
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

/// Returns why no browser sends `origin`, or `None` if a browser may send it or if it is `*`.
fn never_sent(origin: &str) -> Option<String> {
    let shown = shown(origin);
    if origin == "*" {
        return None;
    }
    if origin == "null" {
        return Some("'null' is sent by all sandboxed and local pages; use * to allow all origins".into());
    }
    let Some(url) = web_url(origin) else {
        return Some(format!("{shown} is not an origin like https://example.com"));
    };
    if origin.contains('*') {
        return Some(format!("{shown} contains a wildcard, which is not supported; list each origin, or use * alone"));
    }
    let sent = url.origin().ascii_serialization();
    (sent != origin).then(|| format!("{shown} never matches; browsers send '{sent}'"))
}

/// A bucket name or the ARN of an access point. Stores have different rules, so only names that no store accepts are
/// rejected. Most stores have AWS's former rules, and Ceph RGW allows a tenant before a colon.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
pub fn bucket(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("is empty; name a bucket, or unset it to use the embedded S3".to_owned());
    }
    let holds = |part: &str, others: &[u8]| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
    };
    let is_name = |text: &str| text.len() <= MAX_BUCKET && holds(text, b"._-");
    let is_arn = text.strip_prefix("arn:").is_some_and(|arn| holds(arn, b"._-:/"));
    if is_arn || is_name(text) || text.split_once(':').is_some_and(|(tenant, name)| is_name(tenant) && is_name(name)) {
        return Ok(text.to_owned());
    }
    // The text is not shown, because it may be a URL with credentials.
    Err(format!(
        "is not a bucket name; use at most {MAX_BUCKET} letters, digits, '.', '_' and '-', or the ARN of an access \
         point (set a prefix in S3_PREFIX and a URL in AWS_ENDPOINT_URL_S3)"
    ))
}

/// The lifetime of a presigned URL: whole seconds, up to S3's limit.
///
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html> (X-Amz-Expires)
pub fn url_ttl(text: &str) -> Parsed<Duration> {
    let ttl = duration(text)?;
    if (Duration::from_secs(1)..=MAX_TTL).contains(&ttl) {
        return Ok(Duration::from_secs(ttl.as_secs()));
    }
    Err(format!("'{text}' must be between 1s and 7 days, which is S3's limit"))
}

/// Comma-separated addresses and networks (CIDR).
pub fn networks(text: Option<&str>) -> Parsed<Vec<IpNet>> {
    list(text.unwrap_or_default()).map(network).collect()
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
    fn networks_accept_addresses_and_cidr() {
        let read = |text| networks(Some(text)).map(|found| found.iter().map(IpNet::to_string).collect::<Vec<_>>());
        assert_eq!(read("10.0.0.0/8, 192.0.2.7,::1").unwrap(), ["10.0.0.0/8", "192.0.2.7/32", "::1/128"]);
        assert_eq!(read("0.0.0.0/0,2001:db8::/32").unwrap(), ["0.0.0.0/0", "2001:db8::/32"]);
        assert_eq!(read(" , ").unwrap(), [""; 0]);
        for wrong in ["10.0.0.0/33", "proxy", "*", "10.0.0", "10.0.0.1:80"] {
            assert!(read(wrong).unwrap_err().starts_with(&format!("'{wrong}'")), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_durations_accept_units() {
        assert_eq!(size("5MiB", 0..=u64::MAX), Ok(5_u64 << 20));
        assert_eq!(size("5 GB", 0..=u64::MAX), Ok(5_000_000_000_u64));
        assert_eq!(size("1024", 0..=u64::MAX), Ok(1024_u64));
        assert!(size::<u64>("1024", 0..=1023).is_err());
        assert!(size::<u64>("much", 0..=u64::MAX).is_err());
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert!(duration("-1s").is_err());
        assert!(positive_duration("0").is_err());
        assert!(duration("18446744073709551615").is_err());
    }

    #[test]
    fn prefix_is_empty_or_ends_with_slash() {
        for good in ["", "a/", "a/b-c_d/"] {
            assert_eq!(prefix(good), Ok(good.to_owned()));
        }
        for bad in ["a", "/", "/a/", "a//b/", "../", "ä/", "a b/"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
        assert!(prefix(&"a/".repeat(450)).is_ok() && prefix(&"a/".repeat(451)).is_err());
    }

    #[test]
    fn origins_must_match_what_browsers_send() {
        let good = "https://a.example, http://localhost:3000,http://[::1]:8080,https://xn--bcher-kva.example";
        assert_eq!(origins(good).unwrap().len(), 4);
        assert_eq!(origins("*"), Ok(vec!["*".to_owned()]));
        assert_eq!(origins(""), Ok(vec![]));
        for (bad, why) in [
            ("a.example", "is not an origin"),
            ("//a.example", "is not an origin"),
            ("ftp://a.example", "is not an origin"),
            ("https:a.example", "is not an origin"),
            ("https://", "is not an origin"),
            ("https://a.example:port", "is not an origin"),
            ("null", "sandboxed"),
            ("https://*.example", "wildcard"),
            ("https://a.example/", "browsers send 'https://a.example'"),
            ("https://a.example/x", "browsers send 'https://a.example'"),
            ("https://a.example?", "browsers send 'https://a.example'"),
            ("https://a.example:443", "browsers send 'https://a.example'"),
            ("http://a.example:80", "browsers send 'http://a.example'"),
            ("http://a.example:", "browsers send 'http://a.example'"),
            ("http://a.example:08080", "browsers send 'http://a.example:8080'"),
            ("HTTPS://a.example", "browsers send 'https://a.example'"),
            ("https://A.example", "browsers send 'https://a.example'"),
            ("https://b\u{fc}cher.example", "browsers send 'https://xn--bcher-kva.example'"),
            ("http://[0:0::1]", "browsers send 'http://[::1]'"),
            ("http://127.1", "browsers send 'http://127.0.0.1'"),
            ("*,https://a.example", "cannot be combined"),
            (" , ", "contains no origin"),
        ] {
            let problem = origins(bad).unwrap_err();
            assert!(problem.contains(why), "{bad}: {problem}");
        }
        let both = origins("https://a.example/,https://b.example,https://C.example").unwrap_err();
        assert!(both.contains("'https://a.example/'") && both.contains("'https://C.example'"), "{both}");
    }

    #[test]
    fn absolute_url_requires_host_and_rejects_query_and_fragment() {
        for (good, normal) in [
            ("https://a.example", "https://a.example"),
            ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
            ("https://A.example/Up/", "https://a.example/Up"),
        ] {
            assert_eq!(absolute_url(good).as_deref(), Ok(normal));
        }
        for bad in [
            "",
            "a.example",
            "ftp://a.example",
            "http://",
            "http:///x",
            "http://a b",
            "http://a.example:99999",
            "https://a.example?x=1",
            "https://a.example#top",
            " https://a.example",
        ] {
            assert!(absolute_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_do_not_show_secrets_of_urls() {
        for bad in [
            "http://user:hunter2@a.example/x",
            "htp://u:hunter2@a",
            "https://a.example?token=hunter2",
            "u:hunter2@a",
            "https://a.example/?token=a@hunter2",
            "https://a.example/#a@hunter2",
            "https://u:hunter2#3@a.example",
        ] {
            let problem = absolute_url(bad).unwrap_err();
            assert!(!problem.contains("hunter2") && problem.contains('a'), "{problem}");
            assert!(!origins(bad).unwrap_err().contains("hunter2"), "{bad}");
        }
        assert!(
            absolute_url("http://user:hunter2@a.example/x")
                .unwrap_err()
                .contains("'http://…@a.example/x' contains credentials")
        );
    }

    #[test]
    fn bucket_rejects_addresses_and_paths() {
        for good in ["photos", "my.bucket_1", "tenant:photos", "arn:aws:s3:eu-north-1:123:accesspoint/photos"] {
            assert_eq!(bucket(good), Ok(good.to_owned()));
        }
        let long = "b".repeat(256);
        for bad in ["", " photos", "photos/a", "s3://photos", "https://photos.s3.amazonaws.com", "a:b:c", "arn:", &long]
        {
            assert!(bucket(bad).is_err(), "{bad}");
        }
        for bad in
            ["user:hunter2@host", "https://user:hunter2@host/photos", "photos?key=hunter2", "user:hunter2/photos"]
        {
            assert!(!bucket(bad).unwrap_err().contains("hunter2"), "{bad}");
        }
    }

    #[test]
    fn url_ttl_is_whole_seconds_within_limits() {
        assert_eq!(url_ttl("1500ms"), Ok(Duration::from_secs(1)));
        assert_eq!(url_ttl("7days"), Ok(MAX_TTL));
        for bad in ["0", "999ms", "7days 1s", "soon"] {
            assert!(url_ttl(bad).is_err(), "{bad}");
        }
    }
}
