use super::sniff::tests::{FIXTURES, jpeg_with_long_metadata};
use super::*;
use futures::{FutureExt, StreamExt};
use http::HeaderValue;
use http_body::Frame;
use http_body_util::StreamBody;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

mod forms;
mod properties;

const JPEG: &[u8] = FIXTURES[0].0;
const PNG: &[u8] = FIXTURES[2].0;
const MIB: usize = 1 << 20;

pub(crate) fn policy() -> Policy {
    let formats = vec![Format::Jpeg, Format::Png, Format::Gif, Format::Bmp, Format::Webp];
    Policy { formats, key_format: None, max_upload_size: 200_000, max_pixels: 1 << 28, header_scan_limit: 1 << 20 }
}

/// The image that was read from a request: its bytes, info and extension.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    bytes: Vec<u8>,
    info: ImageInfo,
    extension: &'static str,
}

type Chunks = Vec<Result<Bytes, BoxError>>;

type TestBody = StreamBody<futures::stream::BoxStream<'static, Result<Frame<Bytes>, BoxError>>>;

/// A body of these chunks. It is pending at every third poll, and counts the bytes that were read from it.
fn body(chunks: Chunks, taken: Arc<AtomicUsize>) -> TestBody {
    let mut chunks = chunks.into_iter();
    let mut calls = 0_usize;
    let frames = futures::stream::poll_fn(move |cx| {
        calls += 1;
        if calls % 3 == 1 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = chunks.next();
        taken.fetch_add(next.as_ref().and_then(|next| next.as_ref().ok()).map_or(0, Bytes::len), Ordering::Relaxed);
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    });
    StreamBody::new(frames.boxed())
}

/// A body that is never pending: a reader that polls it until it is pending reads all of it.
fn ready_body(chunks: Chunks, taken: Arc<AtomicUsize>) -> TestBody {
    let frames = futures::stream::iter(chunks).map(move |chunk| {
        taken.fetch_add(chunk.as_ref().map_or(0, Bytes::len), Ordering::Relaxed);
        chunk.map(Frame::data)
    });
    StreamBody::new(frames.boxed())
}

async fn read_chunks(content_type: &str, chunks: Chunks, policy: Policy) -> (Result<Read>, usize) {
    let taken = Arc::new(AtomicUsize::new(0));
    let body = body(chunks, taken.clone());
    (read_body(content_type, body, policy).await, taken.load(Ordering::Relaxed))
}

/// A buffer of the size of a part.
#[derive(Default)]
struct Part(Vec<u8>);

impl PrefixBuffer for Part {
    async fn push(&mut self, chunk: &mut Bytes) -> Result<()> {
        let room = 2 * MIB - self.0.len();
        self.0.extend_from_slice(&chunk.split_to(chunk.len().min(room)));
        Ok(())
    }

    async fn prefix(&self, limit: usize) -> Result<impl AsRef<[u8]> + Send> {
        Ok(&self.0[..self.0.len().min(limit)])
    }
}

async fn read_body(content_type: &str, body: TestBody, policy: Policy) -> Result<Read> {
    let header = HeaderValue::from_bytes(content_type.as_bytes()).unwrap();
    let kind = BodyKind::of(Some(&header), &policy)?;
    read_incoming(IncomingBody::new(kind, body), policy).await
}

async fn read_incoming(incoming: IncomingBody, policy: Policy) -> Result<Read> {
    let mut head = Part::default();
    let mut image = IncomingImage::open(incoming, Arc::new(policy), &mut head).await?;
    loop {
        let mut bytes = head.0;
        while let Some(chunk) = image.next_chunk().await? {
            assert!(!chunk.is_empty());
            bytes.extend_from_slice(&chunk);
        }
        if !image.is_replaced() {
            return Ok(Read { bytes, info: image.info(), extension: image.extension() });
        }
        head = Part::default();
        image = image.replacement(&mut head).await?;
    }
}

fn cut(bytes: &[u8], size: usize) -> Chunks {
    bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}

async fn read(content_type: &str, body: &[u8]) -> Result<Read> {
    read_chunks(content_type, cut(body, 8192), policy()).await.0
}

const FORM: &str = "multipart/form-data; boundary=XX";

fn form_kind() -> BodyKind {
    BodyKind::Form { boundary: "XX".to_owned() }
}

/// A part's headers, given its Content-Disposition, and its content.
fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--XX\r\nContent-Disposition: {disposition}\r\nContent-Type: image/any\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn file(content: &[u8]) -> Vec<u8> {
    part("form-data; name=\"file\"; filename=\"photo.jpg\"", content)
}

fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], b"--XX--\r\n"].concat()
}

#[track_caller]
fn assert_jpeg(read: Result<Read>, extension: &str) {
    let read = read.unwrap();
    assert_eq!(read.bytes, JPEG);
    assert_eq!(read.info, ImageInfo { format: Format::Jpeg, width: 16, height: 12 });
    assert_eq!(read.extension, extension);
}

#[track_caller]
fn assert_malformed(read: Result<Read>, reason: &str) {
    let Err(Error::MalformedForm(found)) = read else { panic!("{read:?}") };
    assert!(found.contains(reason), "{found}");
}

#[tokio::test]
async fn every_format_in_forms_and_raw_bodies() {
    let policy = Policy { formats: Format::ALL.to_vec(), ..policy() };
    for (bytes, format, width, height) in FIXTURES {
        let part = part("form-data; name=file", bytes);
        for size in [1, 7, 1 << 20] {
            for (content_type, body) in [(FORM, form(std::slice::from_ref(&part))), ("image/x-any", bytes.to_vec())] {
                let read = read_chunks(content_type, cut(&body, size), policy.clone()).await.0.unwrap();
                assert_eq!(read.info, ImageInfo { format, width, height });
                assert_eq!((read.bytes.as_slice(), read.extension), (bytes, format.extensions()[0]));
            }
        }
    }
}

#[tokio::test]
async fn file_among_other_fields() {
    let small = |name: &str| part(&format!("form-data; name={name}"), b"some text");
    for parts in [
        vec![small("a"), file(JPEG)],
        vec![file(JPEG), small("b")],
        vec![small("a"), part("form-data; name=\"empty\"", b""), file(JPEG), small("b"), small("files")],
        vec![part("form-data", b"a field of no name"), file(JPEG)],
    ] {
        assert_jpeg(read(FORM, &form(&parts)).await, "jpg");
    }
}

#[tokio::test]
async fn boundary_may_be_quoted_and_is_required() {
    assert_jpeg(read("Multipart/form-data; Boundary=\"XX\"", &form(&[file(JPEG)])).await, "jpg");
    assert_malformed(read("multipart/form-data", &form(&[file(JPEG)])).await, "boundary");
}

#[tokio::test]
async fn field_and_file_names_in_every_syntax() {
    for disposition in [
        "form-data; name=\"file\"; filename=\"a.jpeg\"; filename*=UTF-8''%E2%82%AC.jpeg",
        "form-data; filename*=UTF-8''%E2%82%AC.jpeg; filename=\"a.txt\"; name=\"file\"",
        "form-data; name=\"file\"; filename=\"Grüße €.JPEG\"",
        "form-data; filename=\"name=other; name=x.jpeg\"; name=\"file\"",
        "form-data; name=file; filename=C:\\temp\\x.jpeg",
    ] {
        assert_jpeg(read(FORM, &form(&[part(disposition, JPEG)])).await, "jpeg");
    }
    let decoy = part("form-data; filename=\"name=file.txt\"; name=\"other\"", b"text");
    assert_jpeg(read(FORM, &form(&[decoy, file(JPEG)])).await, "jpg");
}

#[tokio::test]
async fn file_name_and_extension_are_optional() {
    for disposition in
        ["form-data; name=file", "form-data; name=\"file\"; filename=\"\"", "form-data; name=file; filename=x"]
    {
        assert_jpeg(read(FORM, &form(&[part(disposition, JPEG)])).await, "jpg");
    }
}

#[tokio::test]
async fn extension_follows_the_detected_format() {
    let named = part("form-data; name=file; filename=\"a.png\"", JPEG);
    assert_jpeg(read(FORM, &form(&[named])).await, "jpg");
    assert_jpeg(read("image/png", JPEG).await, "jpg");
}

#[tokio::test]
async fn part_header_names_are_case_insensitive() {
    let body = [b"--XX\r\nCONTENT-DISPOSITION: form-data; NAME=\"file\"\r\n\r\n", JPEG, b"\r\n--XX--"].concat();
    assert_jpeg(read(FORM, &body).await, "jpg");
}

#[tokio::test]
async fn preamble_and_epilogue_are_ignored() {
    let body = [&b"This is for readers that know no MIME.\r\n"[..], &form(&[file(JPEG)]), b"and so on"].concat();
    for size in [1, 10, 8192] {
        assert_jpeg(read_chunks(FORM, cut(&body, size), policy()).await.0, "jpg");
    }
    let preamble = [vec![b'-'; 10_000], b"\r\n".to_vec(), form(&[file(JPEG)])].concat();
    assert_jpeg(read(FORM, &preamble).await, "jpg");
}

#[tokio::test]
async fn long_epilogue_is_not_read_to_its_end() {
    let body = [form(&[file(JPEG)]), vec![0; MIB]].concat();
    let (read, taken) = read_chunks(FORM, cut(&body, 4096), policy()).await;
    assert_jpeg(read, "jpg");
    assert!(taken < 80 * 1024, "{taken}");
}

#[tokio::test]
async fn missing_or_empty_file_is_no_file() {
    let empty_name = part("form-data; name=\"file\"; filename=\"\"", b"");
    for parts in [vec![], vec![empty_name], vec![file(b"")], vec![part("form-data; name=other", JPEG)]] {
        assert!(matches!(read(FORM, &form(&parts)).await, Err(Error::NoFile { .. })));
    }
    assert!(matches!(read("image/jpeg", b"").await, Err(Error::NoFile { .. })));
}

#[tokio::test]
async fn second_file_is_rejected_after_the_first() {
    let parts = [file(JPEG), part("form-data; name=other", b"1"), file(JPEG)];
    for size in [1, 8192] {
        let body = body(cut(&form(&parts), size), Arc::default());
        let mut head = Part::default();
        let mut image =
            IncomingImage::open(IncomingBody::new(form_kind(), body), Arc::new(policy()), &mut head).await.unwrap();
        let mut bytes = head.0;
        let error = loop {
            match image.next_chunk().await {
                Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
                Ok(None) => panic!("the image was complete"),
                Err(error) => break error,
            }
        };
        assert_eq!(bytes, JPEG);
        assert_malformed(Err(error), "more than one file");
        assert!(image.next_chunk().await.is_err(), "an error is final");
    }
}

#[tokio::test]
async fn disallowed_types_are_rejected() {
    let rejected = [
        part("form-data; name=file; filename=a.svg", JPEG),
        part("form-data; name=file; filename=a.heic", JPEG),
        part("form-data; name=file; filename=\"a.jpg\"; filename*=utf-8''a.exe", JPEG),
        part("form-data; name=file; filename=a.jpg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        part("form-data; name=file", FIXTURES[11].0),
    ];
    for part in rejected {
        assert!(matches!(read(FORM, &form(&[part])).await, Err(Error::InvalidFileType { .. })));
    }
    assert!(matches!(read("image/tiff", JPEG).await, Err(Error::InvalidFileType { .. })));
    assert!(matches!(read("text/plain", JPEG).await, Err(Error::UnsupportedMediaType)));
    assert_jpeg(read("application/octet-stream", JPEG).await, "jpg");
}

#[tokio::test]
async fn file_name_is_checked_before_the_bytes_are_read() {
    let body = form(&[part("form-data; name=file; filename=a.exe", &vec![0; 150_000])]);
    let (read, taken) = read_chunks(FORM, cut(&body, 1024), policy()).await;
    assert!(matches!(read, Err(Error::InvalidFileType { detected: None, .. })));
    assert!(taken <= 1024, "{taken}");
}

#[tokio::test]
async fn size_limit_is_exact() {
    let limit = 1000;
    for (extra, fits) in [(0, true), (1, false), (5000, false)] {
        let image = [JPEG, &vec![0; limit - JPEG.len() + extra]].concat();
        for (content_type, body) in [("image/jpeg", image.clone()), (FORM, form(&[file(&image)]))] {
            let policy = Policy { max_upload_size: limit as u64, ..policy() };
            let (read, _) = read_chunks(content_type, cut(&body, 100), policy).await;
            match read {
                Ok(read) => assert!(fits && read.bytes == image),
                Err(error) => assert!(!fits && matches!(error, Error::StreamTooLarge { limit: 1000 }), "{error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn endless_file_is_too_large() {
    let body = [&file(JPEG)[..file(JPEG).len() - 2], &vec![7; 20 * MIB]].concat();
    let (read, taken) = read_chunks(FORM, cut(&body, 8192), policy()).await;
    assert!(matches!(read, Err(Error::StreamTooLarge { .. })));
    assert!(taken < 220_000, "{taken}");
}

#[tokio::test]
async fn endless_field_is_rejected() {
    let body = part("form-data; name=other", &vec![7; 20 * MIB]);
    for body in [body.clone(), [file(JPEG), body].concat()] {
        let (read, taken) = read_chunks(FORM, cut(&body, 8192), policy()).await;
        assert_malformed(read, "besides the file");
        assert!(taken < MIB + 20_000, "{taken}");
    }
}

#[tokio::test]
async fn too_many_fields_are_rejected() {
    let other = part("form-data; name=other", b"");
    let up_to = |count| [vec![other.clone(); count], vec![file(JPEG)]].concat();
    assert_jpeg(read(FORM, &form(&up_to(64))).await, "jpg");
    assert_malformed(read(FORM, &form(&up_to(65))).await, "more than 64 fields");
}

#[tokio::test]
async fn form_without_its_end_is_malformed() {
    let body = form(&[part("form-data; name=other", b"text"), file(JPEG)]);
    for end in 0..body.len() - 4 {
        for size in [1, 64, 8192] {
            let (read, _) = read_chunks(FORM, cut(&body[..end], size), policy()).await;
            assert_malformed(read, "no closing boundary");
        }
    }
    assert_jpeg(read(FORM, &body[..body.len() - 2]).await, "jpg");
}

#[tokio::test]
async fn body_errors_are_passed_on_unchanged() {
    let body = form(&[file(JPEG)]);
    // The error occurs before the headers, among them, in the file and in the epilogue.
    for end in [0, 20, 300, body.len() - 20, body.len()] {
        let chunks = |error: BoxError| vec![Ok(Bytes::copy_from_slice(&body[..end])), Err(error)];
        let slow = Box::new(axum::Error::new(Error::ClientTooSlow { seconds: 9 }));
        let (read, _) = read_chunks(FORM, chunks(slow), policy()).await;
        assert!(matches!(read, Err(Error::ClientTooSlow { seconds: 9 })), "{end}: {read:?}");
        let (read, _) = read_chunks(FORM, chunks("reset".into()), policy()).await;
        assert!(matches!(read, Err(Error::TruncatedBody(Some(_)))), "{end}: {read:?}");
    }
    let chunks = vec![Ok(Bytes::from_static(JPEG)), Err("reset".into())];
    let (read, _) = read_chunks("image/jpeg", chunks, policy()).await;
    assert!(matches!(read, Err(Error::TruncatedBody(Some(_)))));
}

#[tokio::test]
async fn boundary_line_with_extra_characters_is_malformed() {
    let body = [&b"--XXtra\r\nContent-Disposition: form-data; name=file\r\n\r\n"[..], JPEG, b"\r\n--XX--"].concat();
    assert_malformed(read(FORM, &body).await, "boundary");
}

#[tokio::test]
async fn incomplete_boundaries_are_data() {
    let image = [JPEG, b"\r\n--X\r\n--\r\n\r\r\n--Y--\r", PNG].concat();
    for size in 1..40 {
        let (read, _) = read_chunks(FORM, cut(&form(&[file(&image)]), size), policy()).await;
        assert_eq!(read.unwrap().bytes, image);
    }
}

/// The bodies have no end of a part's headers. Each must be rejected before much of it was read.
#[tokio::test]
async fn endless_headers_are_rejected_early() {
    let open = b"--XX\r\nContent-Disposition: form-data; name=file\r\n";
    let bodies = [
        [&open[..], b"X-Long: ", &vec![b'a'; 10 * MIB]].concat(),
        [&open[..], b"X-Many: 1\r\n".repeat(100_000).as_slice()].concat(),
        vec![b'-'; 50 * MIB],
        [&b"--XX"[..], &vec![b' '; 10 * MIB]].concat(),
        [file(b"")[..4].to_vec(), b"\r\n".to_vec(), vec![b'\r'; MIB]].concat(),
    ];
    for body in bodies {
        // One of the bodies contains no boundary.
        let reason = if body.starts_with(b"--XX") { "headers" } else { "boundary" };
        for size in [512, 8192, body.len()] {
            let taken = Arc::new(AtomicUsize::new(0));
            assert_malformed(read_body(FORM, ready_body(cut(&body, size), taken.clone()), policy()).await, reason);
            let taken = taken.load(Ordering::Relaxed);
            assert!(taken <= form::head::HEAD_LIMIT + size, "{taken} in chunks of {size}");
        }
    }
}

#[tokio::test]
async fn header_size_and_count_are_limited() {
    let with_header = |length: usize| {
        let head = format!("--XX\r\nContent-Disposition: form-data; name=file\r\nX: {}\r\n\r\n", "a".repeat(length));
        [head.as_bytes(), JPEG, b"\r\n--XX--\r\n"].concat()
    };
    for size in [100, 8192, 1 << 20] {
        assert_jpeg(read_chunks(FORM, cut(&with_header(16_000), size), policy()).await.0, "jpg");
        assert_malformed(read_chunks(FORM, cut(&with_header(16_400), size), policy()).await.0, "headers");
    }
    let many = |count| {
        let extra = (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
        let head = format!("--XX\r\n{extra}Content-Disposition: form-data; name=file\r\n\r\n");
        [head.as_bytes(), JPEG, b"\r\n--XX--\r\n"].concat()
    };
    assert_jpeg(read(FORM, &many(31)).await, "jpg");
    assert_malformed(read(FORM, &many(32)).await, "headers");
}

#[tokio::test]
async fn long_image_header_in_small_chunks() {
    let image = jpeg_with_long_metadata();
    let (read, _) = read_chunks(FORM, cut(&form(&[file(&image)]), 3), policy()).await;
    let read = read.unwrap();
    assert!(read.bytes == image);
    assert_eq!(read.info, ImageInfo { format: Format::Jpeg, width: 16, height: 12 });
}

#[tokio::test]
async fn image_headers_are_read_up_to_the_scan_limit() {
    let policy = Policy { header_scan_limit: 5000, ..policy() };
    let image = jpeg_with_long_metadata();
    for (content_type, body) in [("image/jpeg", image.clone()), (FORM, form(&[file(&image)]))] {
        let (read, taken) = read_chunks(content_type, cut(&body, 100), policy.clone()).await;
        assert!(matches!(read, Err(Error::InvalidFileType { detected: Some("jpeg"), limit: Some(_), .. })));
        assert!(taken <= 5300, "{taken}");
    }
}

#[tokio::test]
async fn too_many_pixels_are_rejected() {
    let policy = Policy { max_pixels: 16 * 12 - 1, ..policy() };
    let (read, _) = read_chunks("image/png", cut(PNG, 10), policy).await;
    assert!(matches!(read, Err(Error::TooManyPixels { width: 16, height: 12, .. })));
}

#[test]
fn incoming_image_and_its_futures_are_send() {
    fn sendable<T: Send>(_: T) {}
    let mut head = Part::default();
    sendable(IncomingImage::open(
        IncomingBody::new(form_kind(), body(vec![], Arc::default())),
        Arc::new(policy()),
        &mut head,
    ));
    sendable(|mut image: IncomingImage| sendable(async move { image.next_chunk().await }));
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn dropped_next_chunk_future_loses_no_data() {
    let parts = [part("form-data; name=a", b"text"), file(JPEG), part("form-data; name=b", b"more text")];
    let whole = form(&parts);
    let mut head = Part::default();
    let mut image = block_on(async {
        let body = body(cut(&whole, 5), Arc::default());
        IncomingImage::open(IncomingBody::new(form_kind(), body), Arc::new(policy()), &mut head).await.unwrap()
    });
    let (mut bytes, mut dropped) = (head.0, 0);
    loop {
        match image.next_chunk().now_or_never() {
            Some(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            Some(end) => break assert!(matches!(end, Ok(None)), "{end:?}"),
            None => dropped += 1,
        }
    }
    assert!(bytes == JPEG, "{} bytes", bytes.len());
    assert!(dropped > 10, "{dropped}");
}

/// Opens the image in a body whose length is known, which arrives in pieces of 8 KiB.
async fn open_sized(content_type: &str, body: Vec<u8>) -> IncomingImage {
    let policy = Policy { max_upload_size: 100 << 20, ..policy() };
    let kind = BodyKind::of(Some(&HeaderValue::from_str(content_type).unwrap()), &policy).unwrap();
    let length = body.len() as u64;
    let pieces = StreamBody::new(futures::stream::iter(cut(&body, 8192)).map(|piece| piece.map(Frame::data)));
    let incoming = IncomingBody::new(kind, SizedBody { length, pieces });
    IncomingImage::open(incoming, Arc::new(policy), &mut Part::default()).await.unwrap()
}

/// A body with a Content-Length.
struct SizedBody<B> {
    length: u64,
    pieces: B,
}

impl<B: Body<Data = Bytes> + Unpin> Body for SizedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        std::pin::Pin::new(&mut self.pieces).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.length)
    }
}

#[tokio::test]
async fn min_size_is_at_most_the_size_and_follows_from_the_length() {
    let image = [JPEG, &vec![7; 6 * MIB]].concat();
    let size = image.len() as u64;
    let allowance = content_type::FORM_ALLOWANCE;
    let long_field = part("form-data; name=note", &vec![b'x'; MIB - 1]);
    let unnamed = part("form-data; name=file", &image);
    let encoded = "--XX\r\nContent-Transfer-Encoding: base64\r\n\
                   Content-Disposition: form-data; name=\"file\"; filename=\"a.jpg\"\r\n\r\n";
    let encoded = [encoded.as_bytes(), &forms::base64(&image)].concat();
    for (content_type, body, expected) in [
        ("image/jpeg", image.clone(), size..=size),
        (FORM, form(&[file(&image)]), size - allowance..=size - allowance + 200),
        (FORM, form(&[long_field.clone(), file(&image)]), size - allowance..=size - allowance + 200),
        (FORM, form(&[file(&image), long_field.clone()]), size - allowance..=size),
        (FORM, form(&[file(JPEG), long_field]), JPEG.len() as u64..=JPEG.len() as u64),
        (FORM, form(&[unnamed]), 0..=0),
        (FORM, form(&[encoded]), 1..=8192),
    ] {
        let image = open_sized(content_type, body).await;
        assert!(expected.contains(&image.min_size()), "{} is not in {expected:?}", image.min_size());
    }
}

#[tokio::test]
async fn min_size_is_what_was_read_if_the_length_is_unknown() {
    let body = ready_body(cut(&[JPEG, &vec![7; 100_000]].concat(), 8192), Arc::default());
    let incoming = IncomingBody::new(BodyKind::Raw, body);
    let image = IncomingImage::open(incoming, Arc::new(policy()), &mut Part::default()).await.unwrap();
    assert_eq!(image.min_size(), 8192);
}
