//! Parses `host[:port]`, the value of a Host header (RFC 9110 7.2, RFC 3986 3.2.2).

use std::net::Ipv6Addr;

/// Whether `text` is a host with an optional port, without user information. The host is not resolved.
pub fn is_valid(text: &str) -> bool {
    let (host, port) = split(text);
    port.is_none_or(is_port) && is_host(host)
}

/// Splits `text` into the host, which includes the brackets of an IPv6 address, and the port after the colon.
pub fn split(text: &str) -> (&str, Option<&str>) {
    let after_literal = text.rfind(']').map_or(0, |end| end + 1);
    match text[after_literal..].find(':') {
        Some(colon) => (&text[..after_literal + colon], Some(&text[after_literal + colon + 1..])),
        None => (text, None),
    }
}

/// `port = *DIGIT`, at most 65535.
fn is_port(port: &str) -> bool {
    port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && is_reg_name(host.as_bytes()),
    }
}

/// `reg-name = *( unreserved / pct-encoded / sub-delims )`
fn is_reg_name(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    let is_escape = |bytes: &mut std::slice::Iter<'_, u8>| {
        bytes.next().is_some_and(u8::is_ascii_hexdigit) && bytes.next().is_some_and(u8::is_ascii_hexdigit)
    };
    while let Some(byte) = bytes.next() {
        let valid = match byte {
            b'%' => is_escape(&mut bytes),
            other => other.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(other),
        };
        if !valid {
            return false;
        }
    }
    true
}
