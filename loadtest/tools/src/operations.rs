//! The operations of S3 on names and sizes.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use super::connection::Request;
use super::state::{Contents, Object, State, Upload};

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn text(status: u16, content_type: &str, text: String) -> Self {
        Answer { status, headers: vec![("content-type".into(), content_type.to_owned())], body: text.into_bytes() }
    }

    fn xml(name: &str, inside: &str) -> Self {
        let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{name}>{inside}</{name}>");
        Answer::text(200, "application/xml", text)
    }

    pub fn error(status: u16, code: &str) -> Self {
        let text = format!("<Code>{code}</Code><Message>Error of the null S3</Message>");
        Answer { status, ..Answer::xml("Error", &text) }
    }

    fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub fn reason(&self) -> &'static str {
        match self.status {
            200..300 => "OK",
            _ => "Error",
        }
    }
}

const CHECKSUM: &str = "x-amz-checksum-crc64nvme";

pub fn answer(request: &Request, state: &State) -> Answer {
    let key = request.path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
    let has = |name| request.query(name).is_some();
    let (operation, answer): (_, fn(&Request, &str, &State) -> Answer) = match request.method.as_str() {
        "PUT" if key.is_empty() => ("CreateBucket", |_, _, _| Answer::new(200)),
        "PUT" if has("uploadId") => ("UploadPart", upload_part),
        "PUT" if request.header("x-amz-copy-source").is_some() => ("CopyObject", copy),
        "PUT" => ("PutObject", put),
        "POST" if has("uploads") => ("CreateMultipartUpload", create),
        "POST" if has("uploadId") => ("CompleteMultipartUpload", complete),
        "DELETE" if has("uploadId") => ("AbortMultipartUpload", abort),
        "DELETE" => ("DeleteObject", delete),
        "HEAD" if key.is_empty() => ("HeadBucket", |_, _, _| Answer::new(200)),
        "HEAD" => ("HeadObject", get),
        "GET" if has("uploads") => ("ListMultipartUploads", list_uploads),
        "GET" if has("uploadId") => ("ListParts", list_parts),
        "GET" if key.is_empty() => ("ListObjectsV2", list_objects),
        "GET" => ("GetObject", get),
        _ => return Answer::error(405, "MethodNotAllowed"),
    };
    state.count(operation, request);
    answer(request, key, state)
}

/// Returns the object from a request's body.
fn object(request: &Request, state: &State) -> Object {
    let size = request.header("x-amz-decoded-content-length").and_then(|size| size.parse().ok());
    Object {
        size: size.unwrap_or(request.length),
        etag: format!("\"{:032x}\"", state.next_number()),
        first: request.body.clone(),
        headers: kept_headers(request),
        since: SystemTime::now(),
    }
}

fn kept_headers(request: &Request) -> Vec<(String, String)> {
    let kept = |name: &str| name == "content-type" || name == CHECKSUM || name.starts_with("x-amz-meta-");
    request.headers().iter().filter(|(name, _)| kept(name)).cloned().collect()
}

fn stored(object: &Object) -> Answer {
    let answer = Answer::new(200).with("etag", &object.etag);
    match object.headers.iter().find(|(name, _)| name == CHECKSUM) {
        Some((_, sum)) => answer.with(CHECKSUM, sum),
        None => answer,
    }
}

/// Whether the request has `If-None-Match: *` and the object exists.
fn exists_already(request: &Request, contents: &Contents, key: &str) -> bool {
    request.header("if-none-match") == Some("*") && contents.objects.contains_key(key)
}

fn put(request: &Request, key: &str, state: &State) -> Answer {
    let object = object(request, state);
    let mut contents = state.contents();
    if exists_already(request, &contents, key) {
        return Answer::error(412, "PreconditionFailed");
    }
    let answer = stored(&object);
    contents.objects.insert(key.to_owned(), object);
    answer
}

fn create(request: &Request, key: &str, state: &State) -> Answer {
    let id = format!("upload-{}", state.next_number());
    let text = format!("<Bucket>null</Bucket><Key>{key}</Key><UploadId>{id}</UploadId>");
    let headers = kept_headers(request);
    let upload = Upload { key: key.to_owned(), headers, parts: Default::default(), since: SystemTime::now() };
    state.contents().uploads.insert(id, upload);
    Answer::xml("InitiateMultipartUploadResult", &text)
}

fn upload_part(request: &Request, _: &str, state: &State) -> Answer {
    let Some(number) = request.query("partNumber").and_then(|number| number.parse().ok()) else {
        return Answer::error(400, "InvalidArgument");
    };
    let part = object(request, state);
    let answer = stored(&part);
    match state.contents().uploads.get_mut(request.query("uploadId").unwrap_or_default()) {
        Some(upload) => {
            upload.parts.insert(number, part);
            answer
        }
        None => Answer::error(404, "NoSuchUpload"),
    }
}

fn complete(request: &Request, key: &str, state: &State) -> Answer {
    let mut contents = state.contents();
    if exists_already(request, &contents, key) {
        return Answer::error(412, "PreconditionFailed");
    }
    let Some(upload) = contents.uploads.remove(request.query("uploadId").unwrap_or_default()) else {
        return Answer::error(404, "NoSuchUpload");
    };
    let mut headers = upload.headers;
    headers.extend(request.header(CHECKSUM).map(|sum| (CHECKSUM.to_owned(), sum.to_owned())));
    let object = Object {
        size: upload.parts.values().map(|part| part.size).sum(),
        etag: format!("\"{:032x}-{}\"", state.next_number(), upload.parts.len()),
        first: upload.parts.get(&1).map(|part| part.first.clone()).unwrap_or_default(),
        headers,
        since: SystemTime::now(),
    };
    let text = format!("<Bucket>null</Bucket><Key>{key}</Key><ETag>{}</ETag>", object.etag.replace('"', "&quot;"));
    contents.objects.insert(upload.key, object);
    Answer::xml("CompleteMultipartUploadResult", &text)
}

fn abort(request: &Request, _: &str, state: &State) -> Answer {
    match state.contents().uploads.remove(request.query("uploadId").unwrap_or_default()) {
        Some(_) => Answer::new(204),
        None => Answer::error(404, "NoSuchUpload"),
    }
}

fn delete(_: &Request, key: &str, state: &State) -> Answer {
    state.contents().objects.remove(key);
    Answer::new(204)
}

fn copy(request: &Request, key: &str, state: &State) -> Answer {
    let mut contents = state.contents();
    let source = request.header("x-amz-copy-source").unwrap_or_default().trim_start_matches('/');
    let source = source.split_once('/').map_or("", |(_, key)| key);
    let Some(mut object) = contents.objects.get(source).cloned() else {
        return Answer::error(404, "NoSuchKey");
    };
    let expected = request.header("x-amz-copy-source-if-match");
    let differs = expected.is_some_and(|etag| etag.trim_matches('"') != object.etag.trim_matches('"'));
    if differs || exists_already(request, &contents, key) {
        return Answer::error(412, "PreconditionFailed");
    }
    if request.header("x-amz-metadata-directive") == Some("REPLACE") {
        object.headers = kept_headers(request);
    }
    let text = format!("<ETag>{}</ETag>", object.etag.replace('"', "&quot;"));
    contents.objects.insert(key.to_owned(), object);
    Answer::xml("CopyObjectResult", &text)
}

/// GetObject and HeadObject.
fn get(request: &Request, key: &str, state: &State) -> Answer {
    let Some(object) = state.contents().objects.get(key).cloned() else {
        return Answer::error(404, "NoSuchKey");
    };
    let (from, end) =
        request.header("range").and_then(|range| parse_range(range, object.size)).unwrap_or((0, object.size));
    let mut answer = stored(&object).with("content-length", end - from);
    if (from, end) != (0, object.size) {
        answer.status = 206;
        answer = answer.with("content-range", format!("bytes {from}-{}/{}", end - 1, object.size));
    }
    for (name, value) in object.headers.iter().filter(|(name, _)| name != CHECKSUM) {
        answer = answer.with(name.clone(), value);
    }
    if request.method != "HEAD" {
        let mut first = object.first;
        first.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
        answer.body = first.split_off(usize::try_from(from).unwrap_or(usize::MAX));
    }
    answer
}

/// Parses `bytes=a-b`. Returns the start and the end (exclusive).
fn parse_range(range: &str, size: u64) -> Option<(u64, u64)> {
    let (from, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let end = last.parse().map_or(size, |last: u64| size.min(last + 1));
    (from < end).then_some((from, end))
}

fn list_uploads(_: &Request, _: &str, state: &State) -> Answer {
    let mut text = "<Bucket>null</Bucket><IsTruncated>false</IsTruncated>".to_owned();
    for (id, upload) in &state.contents().uploads {
        let since = humantime::format_rfc3339_seconds(upload.since);
        let key = &upload.key;
        let _ =
            write!(text, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{since}</Initiated></Upload>");
    }
    Answer::xml("ListMultipartUploadsResult", &text)
}

fn list_parts(request: &Request, _: &str, state: &State) -> Answer {
    let contents = state.contents();
    let Some(upload) = contents.uploads.get(request.query("uploadId").unwrap_or_default()) else {
        return Answer::error(404, "NoSuchUpload");
    };
    let mut text = "<IsTruncated>false</IsTruncated>".to_owned();
    for (number, part) in &upload.parts {
        let (etag, size) = (part.etag.replace('"', "&quot;"), part.size);
        let _ = write!(text, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{size}</Size></Part>");
    }
    Answer::xml("ListPartsResult", &text)
}

fn list_objects(request: &Request, _: &str, state: &State) -> Answer {
    let prefix = request.query("prefix").unwrap_or_default();
    let mut text = "<Name>null</Name><IsTruncated>false</IsTruncated>".to_owned();
    for (key, object) in state.contents().objects.range(prefix.to_owned()..) {
        if !key.starts_with(prefix) {
            break;
        }
        let (since, size) = (humantime::format_rfc3339_seconds(object.since), object.size);
        let _ = write!(
            text,
            "<Contents><Key>{key}</Key><LastModified>{since}</LastModified><Size>{size}</Size></Contents>"
        );
    }
    Answer::xml("ListBucketResult", &text)
}
