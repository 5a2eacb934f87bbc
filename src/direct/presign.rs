//! A plan as the client gets it: the URLs it may use, and exactly what it must send with them.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::SystemTime;

use super::plan::{Door, Links, Plan, part_sizes};
use crate::store::{PresignOptions, Presigned, PutConditions, Result, Store, Upload};

/// The answer to `POST /uploads`.
#[derive(Debug, Serialize)]
pub struct PlanAnswer {
    pub s3_key: String,
    #[serde(flatten)]
    pub door: DoorAnswer,
    /// When the URLs end, RFC 3339. It is the latest: on a 403 before, ask again.
    pub expires_at: String,
    #[serde(flatten)]
    pub links: Links,
}

/// What to send where.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DoorAnswer {
    Put {
        method: &'static str,
        url: String,
        /// Exactly the headers to send. A browser sets Content-Length by itself.
        headers: BTreeMap<String, String>,
    },
    Multipart {
        upload_id: String,
        /// Bytes of every part but the last.
        part_size: u64,
        parts: Vec<PartAnswer>,
    },
}

/// One part to PUT.
#[derive(Debug, Serialize)]
pub struct PartAnswer {
    pub part_number: u32,
    /// Bytes, exactly.
    pub size: u64,
    /// None for a part that has arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
}

/// Signs everything a fresh plan needs.
pub async fn sign(store: &dyn Store, plan: &Plan, options: &PresignOptions, base: Option<&str>) -> Result<PlanAnswer> {
    let (door, expires_at) = match &plan.door {
        Door::Put { sha256 } => sign_put(store, plan, *sha256, options).await?,
        Door::Multipart { upload_id, part_size } => {
            let upload = Upload { name: plan.incoming(), id: upload_id.clone() };
            let (parts, expires_at) = sign_parts(store, plan.size, &upload, *part_size, |_| true, options).await?;
            let door = DoorAnswer::Multipart { upload_id: upload_id.clone(), part_size: *part_size, parts };
            (door, expires_at)
        }
    };
    Ok(PlanAnswer { s3_key: plan.key.to_string(), door, expires_at: rfc3339(expires_at), links: plan.links(base) })
}

async fn sign_put(
    store: &dyn Store,
    plan: &Plan,
    sha256: Option<[u8; 32]>,
    options: &PresignOptions,
) -> Result<(DoorAnswer, SystemTime)> {
    let content_type = plan.format.content_type().to_owned();
    let conditions = PutConditions { size: plan.size, content_type, sha256 };
    let Presigned { url, headers, expires_at } = store.presign_put(&plan.incoming(), &conditions, options).await?;
    Ok((DoorAnswer::Put { method: "PUT", url, headers: headers.into_iter().collect() }, expires_at))
}

/// All parts of an upload, with a URL for those that are `wanted`; and when the first of the URLs ends.
pub async fn sign_parts(
    store: &dyn Store,
    size: u64,
    upload: &Upload,
    part_size: u64,
    wanted: impl Fn(u32) -> bool,
    options: &PresignOptions,
) -> Result<(Vec<PartAnswer>, SystemTime)> {
    let mut parts = Vec::new();
    let mut expires_at = SystemTime::now() + options.ttl;
    for (part_number, size) in (1..).zip(part_sizes(size, part_size)) {
        let mut part = PartAnswer { part_number, size, url: None, headers: None };
        if wanted(part_number) {
            let signed = store.presign_part(upload, part_number, size, options).await?;
            expires_at = expires_at.min(signed.expires_at);
            part.url = Some(signed.url);
            part.headers = Some(signed.headers.into_iter().collect());
        }
        parts.push(part);
    }
    Ok((parts, expires_at))
}

pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
