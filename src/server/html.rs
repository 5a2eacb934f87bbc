//! HTML pages without a script, for browsers that send a plain form.

use axum::response::{IntoResponse, Response};
use http::header;

use super::response::ErrorBody;
use crate::error::Error;

pub const HTML: &str = "text/html; charset=utf-8";

/// Allows the page's own style sheet and icon only.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const FRAME: &str = include_str!("../../web/frame.html");
const REFUSED: &str = include_str!("../../web/refused.html");

/// Returns a page with this title. `{{name}}` in the template of its content stands for the value of that name, as text.
pub fn page(title: &str, template: &str, values: &[(&str, &str)]) -> Response {
    let html = FRAME.replace("{{title}}", title).replace("{{content}}", &filled(template, values));
    ([(header::CONTENT_TYPE, HTML), (header::CONTENT_SECURITY_POLICY, POLICY)], html).into_response()
}

fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut html = String::new();
    let mut pieces = template.split("{{");
    html.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (name, rest) = piece.split_once("}}").unwrap_or(("", piece));
        let value = values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value);
        html.push_str(&escaped(value));
        html.push_str(rest);
    }
    html
}

/// Returns the page for an error. It has the status 200.
pub fn error_page(error: &Error) -> Response {
    let body = ErrorBody::from(error);
    let accepted = body.accepted.map(|formats| format!("Accepted formats: {}.", formats.join(", ")));
    let hint = [body.hint, accepted].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let status = error.status();
    page(
        "Upload failed",
        REFUSED,
        &[("detail", &body.detail), ("hint", &hint), ("code", body.code), ("status", &status.as_u16().to_string())],
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_text() {
        let html = filled("<p title=\"{{a}}\">{{b}}{{none}}</p>", &[("a", "\"'>"), ("b", "<b>&{{a}}")]);
        assert_eq!(html, "<p title=\"&quot;&#39;&gt;\">&lt;b&gt;&amp;{{a}}</p>");
    }
}
