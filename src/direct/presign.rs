//! The answer to `POST /uploads`: the presigned URLs of a plan, and the exact headers to send with them.

use serde::Serialize;
use std::collections::BTreeMap;
use std::time::SystemTime;
use utoipa::ToSchema;

use super::plan::{Plan, UploadLinks, UploadMethod, part_sizes};
use crate::store::{CustomMetadata, PresignOptions, Presigned, PutConditions, Result, Store, Upload};

/// The answer to `POST /uploads`: a single PUT, or one PUT per part.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = UploadPlan, discriminator(property_name = "kind", mapping(
    ("put" = "#/components/schemas/PutPlan"),
    ("multipart" = "#/components/schemas/MultipartPlan"),
)))]
pub enum UploadPlan {
    Put(PutPlan),
    Multipart(MultipartPlan),
}

/// The plan of an upload with a single PUT.
#[derive(Debug, Serialize, ToSchema)]
pub struct PutPlan {
    #[schema(inline)]
    pub kind: PutKind,
    #[schema(value_type = crate::store::ImageKey)]
    pub s3_key: String,
    /// Always `PUT`.
    #[schema(examples("PUT"))]
    pub method: &'static str,
    /// The presigned URL, valid until `expires_at`.
    #[schema(
        format = "uri",
        examples("https://s3.example/photos/incoming/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?X-Amz-Signature=8f1e")
    )]
    pub url: String,
    /// The exact headers to send. Browsers set Content-Length automatically.
    #[schema(schema_with = exact_headers)]
    pub headers: BTreeMap<String, String>,
    /// When the URL expires (RFC 3339). It may expire earlier: if S3 answers 403, request a new plan.
    #[schema(format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: String,
    #[serde(flatten)]
    pub links: UploadLinks,
}

/// The plan of an upload in parts: one PUT per part, in any order and concurrently.
#[derive(Debug, Serialize, ToSchema)]
pub struct MultipartPlan {
    #[schema(inline)]
    pub kind: MultipartKind,
    #[schema(value_type = crate::store::ImageKey)]
    pub s3_key: String,
    /// The ID of the multipart upload in S3.
    #[schema(examples("VXBsb2FkIElE"))]
    pub upload_id: String,
    /// Size in bytes of every part except the last.
    #[schema(examples(5_242_880))]
    pub part_size: u64,
    /// All parts.
    pub parts: Vec<UploadPart>,
    /// When the URLs expire (RFC 3339). They may expire earlier: if S3 answers 403, request new ones from `status_url`.
    #[schema(format = DateTime, examples("2026-11-22T12:15:00Z"))]
    pub expires_at: String,
    #[serde(flatten)]
    pub links: UploadLinks,
}

/// Always `put`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PutKind {
    Put,
}

/// Always `multipart`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MultipartKind {
    Multipart,
}

/// A part to upload with PUT.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadPart)]
pub struct UploadPart {
    /// Part numbers start at 1.
    #[schema(examples(1))]
    pub part_number: u32,
    /// Exact size in bytes.
    #[schema(examples(5_242_880))]
    pub size: u64,
    /// The presigned URL for the PUT. Omitted if the part was already received.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        format = "uri",
        examples(
            "https://s3.example/photos/incoming/0c6f1c1e-5d0b-4f6e-9d3a-1f2e3d4c5b6a.png?partNumber=1&X-Amz-Signature=8f1e"
        )
    )]
    pub url: Option<String>,
    /// The exact headers to send with the PUT.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = exact_headers)]
    pub headers: Option<BTreeMap<String, String>>,
    /// The ETag of a received part: the MD5 of its bytes in hexadecimal, in quotes. Omitted if `S3_SSE` is `aws:kms`,
    /// because the ETag is not an MD5 then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, examples("\"9a0364b9e99bb480dd25e1f0284c8555\""))]
    pub etag: Option<String>,
}

/// Returns the schema of headers by name.
fn exact_headers() -> utoipa::openapi::Object {
    let value = utoipa::openapi::ObjectBuilder::new().schema_type(utoipa::openapi::schema::Type::String);
    utoipa::openapi::ObjectBuilder::new()
        .description(Some("The exact headers to send, by name. Browsers set Content-Length automatically."))
        .additional_properties(Some(value))
        .examples([
            serde_json::json!({ "content-length": "482113", "content-type": "image/png", "if-none-match": "*" }),
        ])
        .build()
}

/// Signs everything a fresh plan needs, and adds its links. Of a plan of one PUT `custom` is signed into it.
pub async fn sign(
    store: &dyn Store,
    plan: &Plan,
    custom: CustomMetadata,
    options: &PresignOptions,
    links: UploadLinks,
) -> Result<UploadPlan> {
    let s3_key = plan.key.to_string();
    match &plan.method {
        UploadMethod::Put { sha256 } => {
            let content_type = plan.format.content_type().to_owned();
            let conditions = PutConditions { size: plan.size, content_type, sha256: *sha256, custom, origin: plan.id };
            let signed = store.presign_put(&plan.incoming(), &conditions, options).await?;
            let Presigned { url, headers, expires_at } = signed;
            let (headers, expires_at) = (headers.into_iter().collect(), rfc3339(expires_at));
            let kind = PutKind::Put;
            Ok(UploadPlan::Put(PutPlan { kind, s3_key, method: "PUT", url, headers, expires_at, links }))
        }
        UploadMethod::Multipart { upload_id, part_size } => {
            let upload = Upload { name: plan.incoming(), id: upload_id.clone() };
            let (parts, expires_at) = sign_parts(store, plan.size, &upload, *part_size, |_| true, options).await?;
            let (upload_id, part_size, expires_at) = (upload.id, *part_size, rfc3339(expires_at));
            let kind = MultipartKind::Multipart;
            Ok(UploadPlan::Multipart(MultipartPlan { kind, s3_key, upload_id, part_size, parts, expires_at, links }))
        }
    }
}

/// Returns all parts of an upload, with URLs for those that are `wanted`, and when the first of these URLs expires.
pub async fn sign_parts(
    store: &dyn Store,
    size: u64,
    upload: &Upload,
    part_size: u64,
    wanted: impl Fn(u32) -> bool,
    options: &PresignOptions,
) -> Result<(Vec<UploadPart>, SystemTime)> {
    let mut parts = Vec::new();
    let mut expires_at = SystemTime::now() + options.ttl;
    for (part_number, size) in (1..).zip(part_sizes(size, part_size)) {
        let mut part = UploadPart { part_number, size, url: None, headers: None, etag: None };
        if wanted(part_number) {
            let signed = store.presign_part(upload, part_number, Some(size), options).await?;
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
