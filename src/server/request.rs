//! Facts about a request besides its method, path and body: the client's address, and the URL at which the client
//! reached the service.
//!
//! The socket gives the address of its peer. If the peer is a proxy in `TRUSTED_PROXIES`, the proxy's headers give the
//! address of its client (`Forwarded`, RFC 7239, or `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`). If that client
//! is a trusted proxy too, the same applies to it. These headers are ignored if they come from anyone else.
//!
//! A client that knows the URL at which it reaches the service can send it in `X-Base-URL`. The links in its responses
//! are then correct behind any proxy, without configuration. Like the Host header, this value is used only in responses
//! to the same client.

use axum::extract::Request;
use http::{HeaderMap, HeaderName, Uri, header};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

pub mod accept;
pub mod host;
pub mod started;

use crate::config::TrustedProxies;
use crate::error::{Error, Result};
use crate::policy::Policy;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The URL at which the client reaches the service, for example `https://example.com/images`.
pub const X_BASE_URL: HeaderName = HeaderName::from_static("x-base-url");

/// An extension of every request: the client's address, and the URL that it used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The client's address, or that of the nearest proxy that is not trusted. `None` if it is unknown.
    pub client: Option<IpAddr>,
    pub scheme: Scheme,
    /// The `host[:port]` that the client requested. The client chooses it freely, so it may be used only in responses
    /// to this client.
    pub authority: Option<String>,
    /// The prefix that trusted proxies or an API Gateway have before the path. It is empty, or for example `/images`.
    pub prefix: String,
    /// The client's [`X_BASE_URL`], without a trailing slash.
    pub stated_base: Option<String>,
}

/// The scheme with which the client reached the service or its first trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn parse(text: &str) -> Option<Scheme> {
        [Scheme::Http, Scheme::Https].into_iter().find(|scheme| text.trim().eq_ignore_ascii_case(scheme.name()))
    }
}

impl RequestFacts {
    /// Returns the URL at which the client reaches the service, without a trailing slash: `PUBLIC_URL` if it is set,
    /// otherwise the client's `X-Base-URL` if there is one, otherwise the URL that the client requested.
    pub fn base_url(&self, public_url: Option<&str>) -> Option<String> {
        let requested = || Some(format!("{}://{}{}", self.scheme.name(), self.authority.as_deref()?, self.prefix));
        public_url.or(self.stated_base.as_deref()).map(str::to_owned).or_else(requested)
    }

    /// Returns the host that the client requested, without its port.
    pub fn host(&self) -> Option<&str> {
        self.authority.as_deref().map(|authority| host::split(authority).0)
    }
}

/// A request extension: the peer address of the accepted socket. Requests on Lambda have none.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Whether the peer is on this machine, that is, in the same network namespace. A container counts as a separate
    /// machine.
    pub fn is_loopback(self) -> bool {
        self.0.to_canonical().is_loopback()
    }
}

/// A request extension: the error to respond with, if the transport has rejected the request because of its head.
#[derive(Clone, Debug)]
pub struct Rejected(pub Arc<Error>);

/// A request extension: facts about the Lambda event that contained the request. Other requests have none.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Lambda's id of the invocation, for the log.
    pub request_id: String,
    /// When the request is ended. The rest of the invocation's time is reserved for cleaning up.
    pub ends: Instant,
    /// The largest image that an event can contain, in bytes.
    pub max_stream: u64,
    /// Whether the body arrived as text. API Gateway may then have replaced some of its bytes.
    pub as_text: bool,
}

/// A request extension: the base path and the stage that an API Gateway has before the paths of the service, for example
/// `/prod`. It is empty if there are none.
#[derive(Clone, Debug, Default)]
pub struct BasePath(pub String);

impl Invocation {
    /// Returns the policy for an image in the body: inside a Lambda event the size limit may be smaller.
    pub fn policy(invocation: Option<&Invocation>, policy: &Arc<Policy>) -> Arc<Policy> {
        match invocation {
            Some(invocation) if invocation.max_stream < policy.max_upload_size => {
                Arc::new(Policy { max_upload_size: invocation.max_stream, ..Policy::clone(policy) })
            }
            _ => Arc::clone(policy),
        }
    }

    /// Replaces an error from reading the body by [`Error::MangledBody`] if the body arrived as text, because that is
    /// the likely cause.
    pub fn explain(invocation: Option<&Invocation>, error: Error) -> Error {
        match error {
            Error::MalformedForm(_) | Error::TruncatedBody(_)
                if invocation.is_some_and(|invocation| invocation.as_text) =>
            {
                Error::MangledBody
            }
            error => error,
        }
    }
}

/// Adds the [`RequestFacts`] to the extensions of a request.
pub fn add_facts(mut request: Request, trusted: &TrustedProxies) -> Request {
    let facts = facts(&request, trusted);
    request.extensions_mut().insert(facts);
    request
}

fn facts<B>(request: &http::Request<B>, trusted: &TrustedProxies) -> RequestFacts {
    let headers = request.headers();
    let authority = requested_authority(request.uri(), headers);
    let stated_base = stated_base(headers);
    if request.extensions().get::<Invocation>().is_some() {
        let prefix = request.extensions().get().and_then(|BasePath(base)| path_prefix(base)).unwrap_or_default();
        return RequestFacts { prefix, stated_base, ..lambda_facts(headers, authority) };
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_canonical());
    let facts = RequestFacts { client: peer, scheme: Scheme::Http, authority, prefix: String::new(), stated_base };
    match peer {
        Some(peer) if trusted.contains(peer) => facts.with_hops(hops(headers), trusted),
        _ => facts,
    }
}

/// Returns the facts about a request on Lambda. AWS appends the client's address and the scheme to whatever the client
/// sent in these headers, and adds no host.
fn lambda_facts(headers: &HeaderMap, authority: Option<String>) -> RequestFacts {
    let nearest = x_forwarded(headers).pop().unwrap_or_default();
    let scheme = nearest.scheme.unwrap_or(Scheme::Https);
    RequestFacts { client: nearest.address, scheme, authority, prefix: String::new(), stated_base: None }
}

/// Rejects a body with a Content-Encoding (RFC 9110 8.4): neither the service nor its readers would decode it.
pub fn check_encoding(headers: &HeaderMap) -> Result<()> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.as_bytes().trim_ascii());
    let mut others = codings.filter(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    others.next().map_or(Ok(()), |_| Err(Error::ContentEncoding))
}

/// Returns the path without a grant at its end (`/g/{grant}/`), which a client that was given such an address may send.
pub fn without_grant(path: &str) -> &str {
    let segments = path.trim_end_matches('/').rsplit_once('/').and_then(|(rest, _)| rest.strip_suffix("/g"));
    segments.map_or(path, |rest| if rest.is_empty() { "/" } else { rest })
}

fn stated_base(headers: &HeaderMap) -> Option<String> {
    let uri: Uri = headers.get(X_BASE_URL)?.to_str().ok()?.parse().ok()?;
    let (scheme, authority) = (Scheme::parse(uri.scheme_str()?)?, uri.authority()?.as_str());
    let is_base = host::is_valid(authority) && uri.query().is_none();
    is_base
        .then(|| Some(format!("{}://{authority}{}", scheme.name(), path_prefix(without_grant(uri.path()))?)))
        .flatten()
}

/// Returns a path without its trailing slashes. `None` if a URL cannot contain it unchanged.
fn path_prefix(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    let is_path = text.starts_with('/') && !text.starts_with("//") && text.bytes().all(plain);
    is_path.then(|| text.trim_end_matches('/').to_owned())
}

/// Returns the authority of the request target if it has one, otherwise the Host header (RFC 9112 3.2.2).
fn requested_authority(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = || headers.get(header::HOST)?.to_str().ok();
    let authority = uri.authority().map(http::uri::Authority::as_str).or_else(host)?;
    host::is_valid(authority).then(|| authority.to_owned())
}

/// What a proxy reports about its client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
    authority: Option<String>,
    prefix: Option<String>,
}

impl RequestFacts {
    /// Applies the hops from the nearest one up to the first one that is not a trusted proxy.
    fn with_hops(mut self, hops: Vec<Hop>, trusted: &TrustedProxies) -> Self {
        for hop in hops.into_iter().rev() {
            self.client = hop.address.or(self.client);
            self.scheme = hop.scheme.unwrap_or(self.scheme);
            self.authority = hop.authority.or(self.authority);
            self.prefix.insert_str(0, hop.prefix.as_deref().unwrap_or_default());
            if !hop.address.is_some_and(|address| trusted.contains(address)) {
                break;
            }
        }
        self
    }
}

/// Returns all hops, the nearest last.
///
/// Most proxies set `X-Forwarded-*` and pass on the client's own `Forwarded` header unchanged. `Forwarded` is therefore
/// used only if there is no `X-Forwarded-*` header.
fn hops(headers: &HeaderMap) -> Vec<Hop> {
    let hops = x_forwarded(headers);
    if hops.is_empty() { forwarded(headers) } else { hops }
}

/// Returns the hops in the `X-Forwarded-*` headers. The elements of these lists belong together by their index from the
/// right. If a list is shorter than the others, its first element applies to all earlier hops. This does not apply to
/// prefixes, because each prefix was removed only once.
fn x_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let [addresses, schemes, hosts, prefixes] =
        [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PREFIX].map(|name| elements(headers, &name));
    let lengths = [&schemes, &hosts, &prefixes].map(Vec::len);
    let length = if addresses.is_empty() { lengths.into_iter().max().unwrap_or(0).min(1) } else { addresses.len() };
    let from_right = |list: &[String], index: usize| {
        let index = index.min(list.len().checked_sub(1)?);
        list.get(list.len() - 1 - index).cloned()
    };
    (0..length)
        .rev()
        .map(|index| Hop {
            address: from_right(&addresses, index).and_then(|text| parse_address(&text)),
            scheme: from_right(&schemes, index).and_then(|text| Scheme::parse(&text)),
            authority: from_right(&hosts, index).filter(|text| host::is_valid(text)),
            prefix: prefixes.iter().rev().nth(index).and_then(|text| path_prefix(text)),
        })
        .collect()
}

/// Returns the hops in the `Forwarded` headers (RFC 7239).
fn forwarded(headers: &HeaderMap) -> Vec<Hop> {
    elements(headers, &header::FORWARDED).iter().map(|element| forwarded_hop(element)).collect()
}

fn forwarded_hop(element: &str) -> Hop {
    let mut hop = Hop::default();
    for pair in split_unquoted(element, ';') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let value = unquoted(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "for" => hop.address = parse_address(&value),
            "proto" => hop.scheme = Scheme::parse(&value),
            "host" => hop.authority = Some(value).filter(|text| host::is_valid(text)),
            _ => {}
        }
    }
    hop
}

/// Returns the elements of a list header, from all of its header lines.
fn elements(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let elements = lines.flat_map(|line| split_unquoted(line, ',')).map(str::trim);
    elements.filter(|element| !element.is_empty()).map(str::to_owned).collect()
}

/// Splits `text` at each `separator` that is not in a quoted string.
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_separator = |character: char| {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            other => return other == separator && !quoted,
        }
        false
    };
    text.split(is_separator).collect()
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut characters = inner.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

/// Parses an address with an optional port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse().ok();
    let with_port = || {
        let host = host::split(text).0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
    };
    bare().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the client's address and the base URL of a request from `peer`.
    fn of(peer: &str, headers: &[(&str, &str)]) -> (String, String) {
        let trusted = TrustedProxies::new(&["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        let head = headers.iter().fold(Request::get("/"), |head, (name, value)| head.header(*name, *value));
        let mut request = head.header("host", "inner:8080").body(()).unwrap();
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        let facts = facts(&request, &trusted);
        (facts.client.unwrap().to_string(), facts.base_url(None).unwrap())
    }

    fn is(client: &str, base: &str) -> (String, String) {
        (client.to_owned(), base.to_owned())
    }

    const SAID: [(&str, &str); 3] =
        [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "images.example")];

    #[test]
    fn grant_in_the_stated_base_is_removed() {
        for (stated, base) in [
            ("https://a.example/g/x.y.z/", "https://a.example"),
            ("https://a.example/up/g/x.y.z", "https://a.example/up"),
            ("https://a.example/up/", "https://a.example/up"),
            ("https://a.example/", "https://a.example"),
        ] {
            let request = Request::get("/").header("host", "b").header(X_BASE_URL, stated).body(()).unwrap();
            let facts = facts(&request, &TrustedProxies::default());
            assert_eq!(facts.base_url(None).as_deref(), Some(base), "{stated}");
        }
    }

    #[test]
    fn only_trusted_proxies_may_set_forwarded_headers() {
        assert_eq!(of("10.1.2.3", &SAID), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("::ffff:10.1.2.3", &SAID), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("11.1.2.3", &SAID), is("11.1.2.3", "http://inner:8080"));
        let said = [("forwarded", "for=192.0.2.7;proto=https;host=images.example")];
        assert_eq!(of("2001:db8::1", &said), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("2001:db9::1", &said), is("2001:db9::1", "http://inner:8080"));
    }

    #[test]
    fn hops_before_the_first_untrusted_address_are_ignored() {
        let chain =
            [("x-forwarded-for", "198.51.100.1, 192.0.2.7, 10.0.0.2"), ("x-forwarded-proto", "http, https, http")];
        assert_eq!(of("10.1.2.3", &chain), is("192.0.2.7", "https://inner:8080"));
        let chain = [
            ("forwarded", "for=198.51.100.1;host=evil.example"),
            ("forwarded", "for=192.0.2.7;host=images.example, for=10.0.0.2;proto=https;host=inner2"),
        ];
        assert_eq!(of("10.1.2.3", &chain), is("192.0.2.7", "https://images.example"));
        let unknown = [("forwarded", "for=192.0.2.7, for=unknown;proto=https")];
        assert_eq!(of("10.1.2.3", &unknown), is("10.1.2.3", "https://inner:8080"));
    }

    #[test]
    fn forwarded_is_ignored_if_x_forwarded_is_present() {
        let both = [SAID[0], SAID[1], ("forwarded", "for=198.51.100.1;proto=http;host=evil.example")];
        assert_eq!(of("10.1.2.3", &both), is("192.0.2.7", "https://inner:8080"));
    }

    #[test]
    fn forwarded_addresses_and_hosts_in_every_syntax() {
        for (value, client) in [
            ("For=\"192.0.2.7:4711\"", "192.0.2.7"),
            ("for=\"[2001:db9::7]:4711\" ; by=x", "2001:db9::7"),
            ("for=\"[2001:db9::7]\"", "2001:db9::7"),
            ("secret=\"a;b,c\\\"d\";for=192.0.2.7", "192.0.2.7"),
            ("for=_hidden", "10.1.2.3"),
            ("for=", "10.1.2.3"),
        ] {
            assert_eq!(of("10.1.2.3", &[("forwarded", value)]).0, client, "{value}");
        }
        for (value, client) in [("192.0.2.7:80", "192.0.2.7"), ("2001:db9::7", "2001:db9::7"), ("x", "10.1.2.3")] {
            assert_eq!(of("10.1.2.3", &[("x-forwarded-for", value)]).0, client, "{value}");
        }
        for bad in ["", "a b", "user@a", "a/b", "a, b c"] {
            assert_eq!(of("10.1.2.3", &[("x-forwarded-host", bad)]).1, "http://inner:8080", "{bad}");
        }
        assert_eq!(of("10.1.2.3", &[("x-forwarded-proto", "gopher")]).1, "http://inner:8080");
        assert_eq!(of("10.1.2.3", &[("x-forwarded-host", "[::1]:80")]).1, "http://[::1]:80");
    }

    #[test]
    fn trusted_proxies_report_removed_prefixes() {
        let prefixed = |prefix| of("10.1.2.3", &[SAID[0], SAID[1], SAID[2], ("x-forwarded-prefix", prefix)]).1;
        assert_eq!(prefixed("/up/"), "https://images.example/up");
        assert_eq!(prefixed("/"), "https://images.example");
        for bad in ["up", "//evil.example", "/a b", "/a\"b", "/a?b"] {
            assert_eq!(prefixed(bad), "https://images.example", "{bad}");
        }
        let alone = [("x-forwarded-prefix", "/up")];
        assert_eq!(of("10.1.2.3", &alone).1, "http://inner:8080/up");
        assert_eq!(of("11.1.2.3", &alone).1, "http://inner:8080");
        let two = |prefixes| [("x-forwarded-for", "192.0.2.7, 10.0.0.2"), ("x-forwarded-prefix", prefixes)];
        assert_eq!(of("10.1.2.3", &two("/outer, /inner")).1, "http://inner:8080/outer/inner");
        assert_eq!(of("10.1.2.3", &two("/once")).1, "http://inner:8080/once");
        let claimed = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-prefix", "/the-clients-own, /up")];
        assert_eq!(of("10.1.2.3", &claimed).1, "http://inner:8080/up");
    }

    #[test]
    fn x_base_url_sets_the_base_url_unless_public_url_is_set() {
        for (stated, base) in [
            ("https://images.example/up/", "https://images.example/up"),
            ("HTTPS://images.example:8443", "https://images.example:8443"),
            ("http://[::1]:80/", "http://[::1]:80"),
            ("ftp://images.example", "http://inner:8080"),
            ("images.example", "http://inner:8080"),
            ("/up", "http://inner:8080"),
            ("https://user@images.example", "http://inner:8080"),
            ("https://images.example/?a=b", "http://inner:8080"),
            ("https://images.example/a\"b", "http://inner:8080"),
        ] {
            assert_eq!(of("11.1.2.3", &[("x-base-url", stated)]).1, base, "{stated}");
        }
        let facts = facts(
            &Request::get("/").header("x-base-url", "https://a.example").body(()).unwrap(),
            &TrustedProxies::default(),
        );
        assert_eq!(facts.base_url(Some("https://images.example")).as_deref(), Some("https://images.example"));
    }

    #[test]
    fn base_url_precedence_is_public_url_target_host_header() {
        let request = Request::get("http://one.example:81/x").header("host", "two.example").body(()).unwrap();
        let facts = facts(&request, &TrustedProxies::default());
        assert_eq!(facts.base_url(None).as_deref(), Some("http://one.example:81"));
        assert_eq!(facts.host(), Some("one.example"));
        assert_eq!(facts.base_url(Some("https://images.example/a")).as_deref(), Some("https://images.example/a"));
        assert_eq!(facts.client, None);
    }

    #[test]
    fn lambda_uses_only_the_values_that_aws_appends() {
        let mut request = Request::get("/")
            .header("host", "x.lambda-url.example")
            .header("x-forwarded-for", "198.51.100.1, 192.0.2.7")
            .header("x-forwarded-host", "evil.example")
            .body(())
            .unwrap();
        let (request_id, ends) = (String::new(), Instant::now());
        request.extensions_mut().insert(Invocation { request_id, ends, max_stream: 0, as_text: false });
        request.extensions_mut().insert(BasePath("/prod".to_owned()));
        let facts = facts(&request, &TrustedProxies::default());
        assert_eq!(facts.base_url(None).as_deref(), Some("https://x.lambda-url.example/prod"));
        assert_eq!(facts.client, "192.0.2.7".parse().ok());
    }
}
