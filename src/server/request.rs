//! What is known of a request beside its method, path and body: who sent it, and as what the client addressed the service.
//!
//! The socket says who is on its other end. Where that is a proxy in `TRUSTED_PROXIES`, the proxy says who its client was
//! (`Forwarded`, RFC 7239, or `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`); where that one is a trusted proxy too, the
//! same holds for what it said. What anybody else writes into these headers is not even looked at.
//!
//! A client that knows under which address it calls the service says so in `X-Base-URL`: then its answers' links are right
//! behind any proxy, without settings. Like Host, it is good for what that client gets back only.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, Uri, header};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::Instant;

pub mod host;
pub mod started;

use crate::config::TrustedProxies;
use crate::error::Error;
use crate::policy::Policy;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
/// The address under which the client calls the service: `https://example.com/images`.
pub const X_BASE_URL: HeaderName = HeaderName::from_static("x-base-url");

/// In every request's extensions: who sent it, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The client's address, as far as it is known. The other end of the socket may be a proxy.
    pub client: Option<IpAddr>,
    pub scheme: Scheme,
    /// `host[:port]` that the client addressed. It is what the client says, and good for what that client gets back only.
    pub authority: Option<String>,
    /// What trusted proxies have removed from the start of the path: empty, or `/images`.
    pub prefix: String,
    /// The client's [`X_BASE_URL`], without a trailing slash.
    pub stated_base: Option<String>,
}

/// How the client reached the service, or the proxy before it.
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
    /// Where the client reaches the service, without a trailing slash: `PUBLIC_URL`, else where the client says that it does,
    /// else what it addressed.
    pub fn base_url(&self, public_url: Option<&str>) -> Option<String> {
        let addressed = || Some(format!("{}://{}{}", self.scheme.name(), self.authority.as_deref()?, self.prefix));
        public_url.or(self.stated_base.as_deref()).map(str::to_owned).or_else(addressed)
    }

    /// The host the client addressed, without its port.
    pub fn host(&self) -> Option<&str> {
        self.authority.as_deref().map(|authority| host::split(authority).0)
    }
}

/// In a request's extensions: the other end of its connection, as the accepted socket has it. None on Lambda.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// Whether it is on this machine: in the same network namespace, that is, so that a container is a machine of its own.
    pub fn is_loopback(self) -> bool {
        self.0.to_canonical().is_loopback()
    }
}

/// In the extensions of a request whose head is not to be looked at any further: what it is answered.
#[derive(Clone, Debug)]
pub struct Rejected(pub Arc<Error>);

/// In a request's extensions where it came as a Lambda event: what the event says that a plain HTTP request does not.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Lambda's own id of the invocation, for the log.
    pub request_id: String,
    /// What is not answered by then is undone: the rest of the invocation's time is for that.
    pub ends: Instant,
    /// The largest image such an event can carry, in bytes.
    pub max_stream: u64,
    /// The body came as text, so whatever carried it may have replaced bytes.
    pub as_text: bool,
}

impl Invocation {
    /// The policy for an image inside such an event.
    pub fn policy(invocation: Option<&Invocation>, policy: &Arc<Policy>) -> Arc<Policy> {
        match invocation {
            Some(invocation) if invocation.max_stream < policy.max_upload_size => {
                Arc::new(Policy { max_upload_size: invocation.max_stream, ..Policy::clone(policy) })
            }
            _ => Arc::clone(policy),
        }
    }

    /// What an error reading the body really means.
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

/// Puts the [`RequestFacts`] into every request's extensions.
pub async fn add_facts(State(trusted): State<TrustedProxies>, mut request: Request, next: Next) -> Response {
    let facts = facts(&request, &trusted);
    request.extensions_mut().insert(facts);
    next.run(request).await
}

fn facts<B>(request: &http::Request<B>, trusted: &TrustedProxies) -> RequestFacts {
    let headers = request.headers();
    let authority = addressed(request.uri(), headers);
    let stated_base = stated_base(headers);
    if request.extensions().get::<Invocation>().is_some() {
        return RequestFacts { stated_base, ..lambda_facts(headers, authority) };
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.to_canonical());
    let facts = RequestFacts { client: peer, scheme: Scheme::Http, authority, prefix: String::new(), stated_base };
    match peer {
        Some(peer) if trusted.contains(peer) => facts.before(hops(headers), trusted),
        _ => facts,
    }
}

/// AWS itself adds the client's address and the scheme behind whatever the client wrote there, and no host.
fn lambda_facts(headers: &HeaderMap, authority: Option<String>) -> RequestFacts {
    let nearest = x_forwarded(headers).pop().unwrap_or_default();
    let scheme = nearest.scheme.unwrap_or(Scheme::Https);
    RequestFacts { client: nearest.address, scheme, authority, prefix: String::new(), stated_base: None }
}

fn stated_base(headers: &HeaderMap) -> Option<String> {
    let uri: Uri = headers.get(X_BASE_URL)?.to_str().ok()?.parse().ok()?;
    let (scheme, authority) = (Scheme::parse(uri.scheme_str()?)?, uri.authority()?.as_str());
    let is_base = host::is_valid(authority) && uri.query().is_none();
    is_base.then(|| Some(format!("{}://{authority}{}", scheme.name(), path_prefix(uri.path())?))).flatten()
}

/// A path without its trailing slashes. None if it is not one that can stand in a URL as it is.
fn path_prefix(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte);
    let is_path = text.starts_with('/') && !text.starts_with("//") && text.bytes().all(plain);
    is_path.then(|| text.trim_end_matches('/').to_owned())
}

/// The target's own authority goes before the Host header (RFC 9112 3.2.2).
fn addressed(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = || headers.get(header::HOST)?.to_str().ok();
    let addressed = uri.authority().map(http::uri::Authority::as_str).or_else(host)?;
    host::is_valid(addressed).then(|| addressed.to_owned())
}

/// What a proxy says of the one that connected to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
    authority: Option<String>,
    prefix: Option<String>,
}

impl RequestFacts {
    /// What the hops say, from the nearest to the first one that no trusted proxy is.
    fn before(mut self, hops: Vec<Hop>, trusted: &TrustedProxies) -> Self {
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

/// All hops, the nearest last.
///
/// Most proxies write `X-Forwarded-*` and pass a client's own `Forwarded` on as it is, so that counts only by itself.
fn hops(headers: &HeaderMap) -> Vec<Hop> {
    let hops = x_forwarded(headers);
    if hops.is_empty() { forwarded(headers) } else { hops }
}

/// The elements of these lists belong together by their places from the right; a shorter one's first is that of all before,
/// except of prefixes: each was removed once.
fn x_forwarded(headers: &HeaderMap) -> Vec<Hop> {
    let [addresses, schemes, hosts, prefixes] =
        [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, X_FORWARDED_PREFIX].map(|name| elements(headers, &name));
    let lengths = [&schemes, &hosts, &prefixes].map(Vec::len);
    let length = if addresses.is_empty() { lengths.into_iter().max().unwrap_or(0).min(1) } else { addresses.len() };
    let from_right = |list: &[String], place: usize| {
        let place = place.min(list.len().checked_sub(1)?);
        list.get(list.len() - 1 - place).cloned()
    };
    (0..length)
        .rev()
        .map(|place| Hop {
            address: from_right(&addresses, place).and_then(|text| parse_address(&text)),
            scheme: from_right(&schemes, place).and_then(|text| Scheme::parse(&text)),
            authority: from_right(&hosts, place).filter(|text| host::is_valid(text)),
            prefix: prefixes.iter().rev().nth(place).and_then(|text| path_prefix(text)),
        })
        .collect()
}

/// RFC 7239.
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

/// A list's elements, over all headers of that name.
fn elements(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let elements = lines.flat_map(|line| split_unquoted(line, ',')).map(str::trim);
    elements.filter(|element| !element.is_empty()).map(str::to_owned).collect()
}

/// Splits where `separator` stands outside quoted strings.
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

/// An address, with a port or without: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse().ok();
    let within = || {
        let host = host::split(text).0;
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
    };
    bare().or_else(within).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(of("10.1.2.3", &SAID), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("::ffff:10.1.2.3", &SAID), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("11.1.2.3", &SAID), is("11.1.2.3", "http://inner:8080"));
        let said = [("forwarded", "for=192.0.2.7;proto=https;host=images.example")];
        assert_eq!(of("2001:db8::1", &said), is("192.0.2.7", "https://images.example"));
        assert_eq!(of("2001:db9::1", &said), is("2001:db9::1", "http://inner:8080"));
    }

    #[test]
    fn what_comes_before_the_first_untrusted_address_is_the_clients_own_word() {
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
    fn a_clients_forwarded_does_not_count_beside_what_the_proxy_says_otherwise() {
        let both = [SAID[0], SAID[1], ("forwarded", "for=198.51.100.1;proto=http;host=evil.example")];
        assert_eq!(of("10.1.2.3", &both), is("192.0.2.7", "https://inner:8080"));
    }

    #[test]
    fn addresses_and_hosts_are_read_in_every_spelling() {
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
    fn trusted_proxies_say_which_prefixes_they_removed() {
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
    fn a_client_may_say_under_which_address_it_calls() {
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
    fn the_target_s_authority_goes_before_the_host_and_public_url_before_both() {
        let request = Request::get("http://one.example:81/x").header("host", "two.example").body(()).unwrap();
        let facts = facts(&request, &TrustedProxies::default());
        assert_eq!(facts.base_url(None).as_deref(), Some("http://one.example:81"));
        assert_eq!(facts.host(), Some("one.example"));
        assert_eq!(facts.base_url(Some("https://images.example/a")).as_deref(), Some("https://images.example/a"));
        assert_eq!(facts.client, None);
    }

    #[test]
    fn on_lambda_only_what_aws_adds_counts() {
        let mut request = Request::get("/")
            .header("host", "x.lambda-url.example")
            .header("x-forwarded-for", "198.51.100.1, 192.0.2.7")
            .header("x-forwarded-host", "evil.example")
            .body(())
            .unwrap();
        let (request_id, ends) = (String::new(), Instant::now());
        request.extensions_mut().insert(Invocation { request_id, ends, max_stream: 0, as_text: false });
        let facts = facts(&request, &TrustedProxies::default());
        assert_eq!(facts.base_url(None).as_deref(), Some("https://x.lambda-url.example"));
        assert_eq!(facts.client, "192.0.2.7".parse().ok());
    }
}
