//! Parses the `; name=value` parameters of a header (RFC 9110 5.6.6). The parser is lenient, because clients differ.

/// Returns the parameters of `header` in order: names in lower case, values without quotes and escapes.
///
/// The text before the first `;` is skipped, and so is a parameter without `=`.
pub(super) fn parse(header: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = after_semicolon(header);
    while let Some(parameter) = rest {
        let end = parameter.find(['=', ';']).unwrap_or(parameter.len());
        let (name, tail) = parameter.split_at(end);
        let Some(value) = tail.strip_prefix('=') else {
            rest = after_semicolon(tail);
            continue;
        };
        let (value, tail) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => token(value),
        };
        found.push((name.trim().to_ascii_lowercase(), value));
        rest = after_semicolon(tail);
    }
    found
}

/// Returns the first parameter named `name`, which must be in lower case.
pub(super) fn get<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn after_semicolon(text: &str) -> Option<&str> {
    text.split_once(';').map(|(_, rest)| rest)
}

fn token(text: &str) -> (String, &str) {
    let (value, tail) = text.split_at(text.find(';').unwrap_or(text.len()));
    (value.trim().to_owned(), tail)
}

/// Reads up to the closing quote. If there is none, the value extends to the end.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => value.extend(chars.next()),
            c => value.push(c),
        }
    }
    (value, chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::parse;

    fn pairs(header: &str) -> Vec<(String, String)> {
        parse(header)
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn quoted_and_bare_values() {
        assert_eq!(pairs("form-data; name=a; FileName = \"b;c\" "), owned(&[("name", "a"), ("filename", "b;c")]));
        assert_eq!(pairs("a/b;boundary=--=_x=1;q"), owned(&[("boundary", "--=_x=1")]));
        assert_eq!(pairs(r#"x; a="q\"r\\s"; b=t"#), owned(&[("a", r#"q"r\s"#), ("b", "t")]));
    }

    #[test]
    fn name_inside_quotes_is_not_a_parameter() {
        assert_eq!(
            pairs(r#"form-data; filename="x; name=evil"; name=file"#),
            owned(&[("filename", "x; name=evil"), ("name", "file")])
        );
    }

    #[test]
    fn malformed_headers_are_parsed_as_far_as_possible() {
        assert_eq!(pairs(""), owned(&[]));
        assert_eq!(pairs(";;;="), owned(&[("", "")]));
        assert_eq!(pairs("x; a=\"open"), owned(&[("a", "open")]));
        assert_eq!(pairs("x; a=\"end\\"), owned(&[("a", "end")]));
    }
}
