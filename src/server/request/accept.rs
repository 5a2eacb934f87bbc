//! Which media type a client prefers (RFC 9110, 12.5.1).

use http::{HeaderMap, header};

use super::elements;

/// Whether the client prefers an HTML page to JSON. Browsers do when they navigate to the response of a form. Clients that
/// name neither type, or send no `Accept`, get JSON.
pub fn prefers_html(headers: &HeaderMap) -> bool {
    quality(headers, "text", "html") > quality(headers, "application", "json")
}

/// Returns the quality of a media type in thousandths: that of the most specific range that contains it.
fn quality(headers: &HeaderMap, kind: &str, subtype: &str) -> u16 {
    let ranges = elements(headers, &header::ACCEPT);
    let ranges = ranges.iter().filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let (range_kind, range_subtype) = parts.next()?.split_once('/')?;
        let specificity = match (range_kind, range_subtype) {
            ("*", "*") => 1,
            (same, "*") if same.eq_ignore_ascii_case(kind) => 2,
            (same, exact) if same.eq_ignore_ascii_case(kind) && exact.eq_ignore_ascii_case(subtype) => 3,
            _ => return None,
        };
        Some((specificity, parts.find_map(weight).unwrap_or(1_000)))
    });
    ranges.max().map_or(0, |(_, quality)| quality)
}

/// Parses a weight, such as `q=0.8`, to thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    let value: f32 = name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse().ok())??;
    (0.0..=1.0).contains(&value).then_some((value * 1_000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_that_prefer_html_get_it() {
        let prefers = |accept: &str| prefers_html(&[(header::ACCEPT, accept.parse().unwrap())].into_iter().collect());
        for navigation in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/html",
            "Text/HTML; charset=utf-8",
            "text/*, */*;q=0.5",
            "application/json;q=0.5, text/html;q=0.6",
        ] {
            assert!(prefers(navigation), "{navigation}");
        }
        for program in [
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "application/json, text/html",
            "text/html, */*",
            "text/html;q=0",
            "text/html;q=0.5, */*",
            "text/plain",
            "text/html;q=0.4, application/json;q=0.5",
            "",
            "text",
        ] {
            assert!(!prefers(program), "{program}");
        }
        assert!(!prefers_html(&HeaderMap::new()));
    }
}
