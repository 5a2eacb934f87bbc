//! Calls in terms of HTTP, for requests that are signed without the SDK.

use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_smithy_runtime_api::http::HttpError;
use percent_encoding::utf8_percent_encode;
use std::borrow::Cow;
use std::collections::HashMap;

use super::{RESERVED, Sse};
use crate::store::{ObjectName, Upload};

/// A call on one object. It must not be logged, because its query may contain an upload ID.
pub(super) struct Call<'a> {
    /// S3's name of the operation.
    pub(super) operation: &'static str,
    pub(super) method: &'static str,
    pub(super) name: &'a ObjectName,
    /// Percent-encoded values.
    pub(super) query: Vec<(&'static str, Cow<'a, str>)>,
    /// With lower-case names.
    pub(super) headers: Vec<(Cow<'static, str>, String)>,
}

impl<'a> Call<'a> {
    fn new(operation: &'static str, method: &'static str, name: &'a ObjectName) -> Self {
        Call { operation, method, name, query: vec![("x-id", Cow::Borrowed(operation))], headers: Vec::new() }
    }

    pub(super) fn get_object(name: &'a ObjectName) -> Self {
        Call::new("GetObject", "GET", name)
    }

    pub(super) fn put_object(
        name: &'a ObjectName,
        content_type: &str,
        size: u64,
        metadata: HashMap<String, String>,
        sse: Option<&Sse>,
    ) -> Self {
        let mut call = Call::new("PutObject", "PUT", name)
            .with("content-type", Some(content_type.to_owned()))
            .with("content-length", Some(size.to_string()))
            .with("x-amz-server-side-encryption", sse.map(|sse| sse.algorithm().to_string()))
            .with("x-amz-server-side-encryption-aws-kms-key-id", sse.and_then(Sse::key_id));
        let metadata = metadata.into_iter();
        call.headers.extend(metadata.map(|(name, value)| (format!("x-amz-meta-{name}").into(), value)));
        call
    }

    /// `size` is `None` if the client may send a part of any size.
    pub(super) fn upload_part(upload: &'a Upload, number: u32, size: Option<u64>) -> Self {
        let mut call = Call::new("UploadPart", "PUT", &upload.name);
        let id = utf8_percent_encode(&upload.id, RESERVED).into();
        call.query.extend([("partNumber", number.to_string().into()), ("uploadId", id)]);
        call.with("content-length", size.map(|size| size.to_string()))
    }

    /// Adds a header if it has a value.
    pub(super) fn with(mut self, name: &'static str, value: Option<String>) -> Self {
        self.headers.extend(value.map(|value| (Cow::Borrowed(name), value)));
        self
    }

    /// Adds the headers to the same call of the SDK, before it is signed.
    pub(super) fn complete<T, E, B>(&self, call: CustomizableOperation<T, E, B>) -> CustomizableOperation<T, E, B> {
        let headers = self.headers.clone();
        call.map_request(move |mut request| {
            for (name, value) in &headers {
                request.headers_mut().try_insert(name.clone(), value.clone())?;
            }
            Ok::<_, HttpError>(request)
        })
    }
}
