//! `image-store grant`: signs a grant with an API key, without asking the service.

use clap::Args;
use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::Outcome;
use crate::auth::MIN_GRANTING_KEY;
use crate::auth::grants::{Claims, sign_offline};
use crate::config;

/// What the grant is to be good for, and who signs it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Grant")]
pub struct GrantOptions {
    /// Key that signs the grant, one of the service's that has the scope upload
    #[arg(id = "granting_api_key", long = "api-key", env = "IMAGE_STORE_API_KEY", value_name = "KEY", required = true)]
    #[arg(hide_env_values = true)]
    api_key: String,
    /// Name of that key at the service (unset: it tries all of its keys)
    #[arg(long, value_name = "NAME")]
    kid: Option<String>,
    /// Where the service is: prints the link of its upload page with the grant, and not the grant alone
    #[arg(id = "grant_url", long = "url", value_name = "BASE", value_parser = config::absolute_url)]
    url: Option<String>,
    /// How long it lives, at most 24h (a duration)
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = config::duration)]
    expires_in: Duration,
    /// It is not valid before this has passed (a duration)
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    not_before: Option<Duration>,
    /// The largest image (size)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    max_size: Option<u64>,
    /// Formats of images, comma-separated
    #[arg(long, value_name = "FORMATS", value_delimiter = ',')]
    formats: Option<Vec<String>>,
    /// The s3_key of the one image that it is for: a UUID, a dot and an extension
    #[arg(long, value_name = "S3_KEY")]
    key: Option<String>,
    /// What is kept with the images; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Who issues it; the service does not look at it
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Whom it is for; the service does not look at it
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// An id of the grant's own
    #[arg(long, value_name = "TEXT")]
    jti: Option<String>,
}

fn size(text: &str) -> Result<u64, String> {
    config::size(text, 1..=u64::MAX)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("'{text}' is not like name=value"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Prints the grant, or the link with it.
///
/// # Errors
/// If the service would not accept it.
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
