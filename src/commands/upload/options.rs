//! The flags of `image-store upload`.

use clap::Args;
use reqwest::Url;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// The files to upload, and how to upload them.
#[derive(Args, Clone, Debug)]
pub struct UploadOptions {
    /// Images to upload, one after the other; - reads an image from the standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Base URL of the service
    // Parsed later, because the parser's errors would show a password in the URL.
    #[arg(long, env = "IMAGE_STORE_URL", value_name = "BASE", default_value = "http://127.0.0.1:8080")]
    #[arg(hide_env_values = true)]
    pub url: String,
    /// API key or grant for the service; it is never sent to S3
    #[arg(id = "client_api_key", long = "api-key", env = "IMAGE_STORE_API_KEY", value_name = "KEY")]
    #[arg(hide_env_values = true)]
    pub api_key: Option<String>,
    /// Send the files through the service, regardless of their size
    #[arg(long, conflicts_with_all = ["direct", "resume"])]
    pub stream: bool,
    /// Send the files through the service with resumable uploads (tus), which continue after an interruption
    #[arg(long, conflicts_with_all = ["stream", "direct", "resume"])]
    pub resumable: bool,
    /// Send the files directly to S3 with presigned URLs, regardless of their size
    #[arg(long)]
    pub direct: bool,
    /// Number of parts of one file that are sent at once
    #[arg(long, value_name = "COUNT", default_value = "4")]
    pub parallel: NonZeroUsize,
    /// Resume the direct upload with this status_url, or the resumable upload at this address: send what is missing of
    /// the one FILE, unless it has changed, and complete the upload
    #[arg(long, value_name = "STATUS_URL")]
    pub resume: Option<String>,
    /// Maximum number of retries of a request after a temporary error
    #[arg(long, value_name = "COUNT", default_value = "5")]
    pub retries: u32,
    /// Time without any data after which a connection is closed; an answer may take ten times as long (duration)
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = positive_duration)]
    pub stall_timeout: Duration,
    /// Print one line of JSON per file, as is done if the output is not a terminal
    #[arg(long)]
    pub json: bool,
}

/// Parses the base URL and adds a trailing slash, so that its path is kept when routes are appended.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    let mut url: Url = text.parse().map_err(|error| format!("{error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must start with http:// or https://".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or a fragment".to_owned());
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let time = crate::config::duration(text)?;
    if time.is_zero() { Err("must be longer than 0s".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn base_url_keeps_its_path() {
        let joined = |base| base_url(base).unwrap().join("limits").unwrap().to_string();
        assert_eq!(joined("http://localhost:8080"), "http://localhost:8080/limits");
        assert_eq!(joined("https://example.com/images"), "https://example.com/images/limits");
        assert_eq!(joined("https://example.com/images/"), "https://example.com/images/limits");
    }

    #[test]
    fn base_url_must_be_http_without_query() {
        for wrong in ["localhost:8080", "ftp://example.com", "/images", "", "http://h/?a=b", "http://h/#a"] {
            assert!(base_url(wrong).is_err(), "{wrong}");
        }
    }
}
