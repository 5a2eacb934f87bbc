//! `image-store grant`: signs a grant with an API key, without contacting the service.

use clap::Args;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::Outcome;
use crate::auth::MIN_GRANTING_KEY;
use crate::auth::grants::{Claims, sign_offline};
use crate::config;

/// The claims of the grant, and the API key that signs it.
#[derive(Args, Clone, Debug)]
pub struct GrantOptions {
    /// API key of the service that signs the grant; it must have the scope upload
    #[arg(id = "granting_api_key", long = "api-key", env = "IMAGE_STORE_API_KEY", value_name = "KEY", required = true)]
    #[arg(hide_env_values = true)]
    api_key: String,
    /// Name of that key in the service's configuration (unset: the service tries all of its keys)
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// URL of the service; prints the link to its upload page with the grant, instead of the grant alone
    #[arg(id = "grant_url", long = "url", value_name = "BASE", value_parser = config::absolute_url)]
    url: Option<String>,
    /// Time until the grant expires, at most 24h (a duration)
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = config::duration)]
    expires_in: Duration,
    /// Time until the grant becomes valid (a duration)
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    not_before: Option<Duration>,
    /// Maximum size of an image (a size)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Allowed image formats, comma-separated
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    formats: Option<Vec<String>>,
    /// s3_key of the only image that the grant allows: a UUID, a dot and an extension
    #[arg(long, value_name = "S3_KEY")]
    key: Option<String>,
    /// Metadata that is stored with the images; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Issuer of the grant (claim iss); the service ignores it
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Subject of the grant (claim sub); the service ignores it
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// ID of the grant (claim jti)
    #[arg(long, value_name = "TEXT")]
    jti: Option<String>,
}

fn size(text: &str) -> Result<u64, String> {
    config::size(text, 1..=u64::MAX)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("'{text}' does not have the form name=value"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Prints the grant, or the link to the upload page with it.
///
/// # Errors
/// Returns an error if the service would reject the grant.
pub fn grant(options: &GrantOptions) -> Outcome {
    if options.api_key.chars().count() < MIN_GRANTING_KEY {
        return Err(format!("--api-key: a key of fewer than {MIN_GRANTING_KEY} characters cannot sign grants").into());
    }
    let token = sign_offline(&options.claims(), &options.api_key, options.kid.as_deref());
    let token = token.map_err(|error| -> Box<dyn Error> { error })?;
    match &options.url {
        Some(url) => println!("{url}/g/{token}/"),
        None => println!("{token}"),
    }
    Ok(ExitCode::SUCCESS)
}

impl GrantOptions {
    fn claims(&self) -> Claims {
        let claims = Claims::lasting(self.expires_in);
        Claims {
            max_size: self.max_size,
            formats: self.formats.clone(),
            key: self.key.clone(),
            metadata: self.metadata.iter().cloned().collect(),
            nbf: self.not_before.map(|wait| (SystemTime::now() + wait).into()),
            iss: self.issuer.clone(),
            sub: self.subject.clone(),
            jti: self.jti.clone().or(claims.jti),
            ..claims
        }
    }
}
