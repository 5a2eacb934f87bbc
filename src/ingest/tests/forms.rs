//! Forms of real clients: encoded parts, parts without headers or data, inputs that were left empty.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Reads a form in chunks of many sizes and asserts that the result does not depend on them.
async fn read_cut(body: &[u8]) -> Result<Read> {
    let mut outcomes = Vec::new();
    for size in [1, 2, 3, 7, 64, body.len().max(1)] {
        outcomes.push(read_chunks(FORM, cut(body, size), policy()).await.0);
    }
    let first = outcomes.swap_remove(0);
    for outcome in outcomes {
        assert_eq!(format!("{outcome:?}"), format!("{first:?}"));
    }
    first
}

/// The part of a file with this Content-Transfer-Encoding. `bytes` are encoded already.
fn encoded(encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let head = format!(
        "--XX\r\nContent-Transfer-Encoding: {encoding}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"a.jpg\"\r\n\r\n"
    );
    [head.as_bytes(), bytes, b"\r\n"].concat()
}

pub(super) fn base64(bytes: &[u8]) -> Vec<u8> {
    let text = STANDARD.encode(bytes);
    text.as_bytes().chunks(76).flat_map(|line| [line, b"\r\n"].concat()).collect()
}

#[tokio::test]
async fn content_transfer_encoding_is_decoded() {
    assert_jpeg(read_cut(&form(&[encoded("base64", &base64(JPEG))])).await, "jpg");
    assert_jpeg(read_cut(&form(&[encoded("BASE64", STANDARD.encode(JPEG).as_bytes())])).await, "jpg");
    let quoted: String = JPEG.iter().map(|byte| format!("={byte:02x}=\r\n")).collect();
    assert_jpeg(read_cut(&form(&[encoded("quoted-printable", quoted.as_bytes())])).await, "jpg");
    for plain in ["binary", "8bit", "7bit"] {
        assert_jpeg(read_cut(&form(&[encoded(plain, JPEG)])).await, "jpg");
    }
}

#[tokio::test]
async fn folded_headers_are_accepted() {
    let folded = |head: &str| {
        let head = format!("--XX\r\n{head}\r\n\r\n");
        form(&[part("form-data;\r\n name=a", b"1"), [head.as_bytes(), JPEG, b"\r\n"].concat()])
    };
    for head in [
        "Content-Disposition: form-data;\r\n name=\"file\";\r\n\tfilename=\"a.jpeg\"\r\nContent-Type: image/jpeg",
        "Content-Type: image/jpeg\r\nContent-Disposition:\r\n \r\n  form-data; name=file; filename=a.jpeg",
        "Content-Disposition: form-data; name=file; filename=a.jpeg\r\n ",
    ] {
        let body = folded(head);
        for at in 0..=body.len() {
            let chunks = [&body[..at], &body[at..]].map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
            assert_jpeg(read_chunks(FORM, chunks.into(), policy()).await.0, "jpeg");
        }
        assert_jpeg(read_cut(&body).await, "jpeg");
    }
    // There is no header that this line could continue.
    assert_malformed(read_cut(&folded(" name=file")).await, "headers of a part are invalid");
    let long = format!("Content-Disposition: form-data; name=file{}", "\r\n ;".repeat(5_000));
    assert_malformed(read_cut(&folded(&long)).await, "within 16384 bytes");
}

#[tokio::test]
async fn invalid_and_unknown_encodings_are_rejected() {
    assert_malformed(read_cut(&form(&[encoded("base64", &[&base64(JPEG)[..], b"*"].concat())])).await, "base64");
    assert_malformed(read_cut(&form(&[encoded("base64", JPEG)])).await, "base64");
    assert_malformed(read_cut(&form(&[encoded("quoted-printable", b"=xx")])).await, "quoted-printable");
    let unknown = read_cut(&form(&[encoded("x-uuencode", b"begin 644 a.jpg")])).await.unwrap_err();
    assert_eq!(unknown.status().as_u16(), 415);
    assert!(unknown.to_string().contains("Content-Transfer-Encoding"), "{unknown}");
}

#[tokio::test]
async fn size_limit_applies_to_decoded_bytes() {
    let image = [JPEG, &vec![0; 1000 - JPEG.len()]].concat();
    for (limit, fits) in [(1000, true), (999, false)] {
        let policy = Policy { max_upload_size: limit, ..policy() };
        let body = form(&[encoded("base64", &base64(&image))]);
        let (read, _) = read_chunks(FORM, cut(&body, 100), policy).await;
        assert_eq!(read.is_ok_and(|read| read.bytes == image), fits);
    }
}

#[tokio::test]
async fn encoding_of_other_fields_is_ignored() {
    let field =
        b"--XX\r\nContent-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: x-any\r\n\r\n*\r\n".to_vec();
    assert_jpeg(read_cut(&form(&[field.clone(), file(JPEG), field])).await, "jpg");
}

#[tokio::test]
async fn parts_without_headers_or_data_end_at_the_next_boundary() {
    // A part with headers only, with neither headers nor data, with data only, and with incomplete boundaries.
    let headers_only = b"--XX\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n".to_vec();
    let nothing = b"--XX\r\n\r\n".to_vec();
    let data_only = b"--XX\r\n\r\nabc\r\n".to_vec();
    let padded = b"--XX \t\r\n\r\n--X\r\n\r\n\r\n".to_vec();
    let others = [headers_only, nothing, data_only, padded];
    for first in &others {
        for second in &others {
            let parts = [first.clone(), second.clone(), file(JPEG), second.clone(), first.clone()];
            assert_jpeg(read_cut(&form(&parts)).await, "jpg");
            let named = [first.clone(), part("form-data; name=b", b"1"), second.clone()];
            let Err(Error::NoFile { fields: Some(fields) }) = read_cut(&form(&named)).await else { panic!("a file") };
            assert!(fields.iter().any(|name| name == "b"), "{fields:?}");
        }
    }
}

#[tokio::test]
async fn file_without_data_is_no_file() {
    let no_data = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jpg\"\r\n\r\n".to_vec();
    assert!(matches!(read_cut(&form(&[no_data])).await, Err(Error::NoFile { .. })));
}

#[tokio::test]
async fn empty_file_inputs_besides_the_file_are_ignored() {
    let empty = part("form-data; name=\"file\"; filename=\"\"", b"");
    let unnamed = part("form-data; name=\"file\"", b"");
    for parts in [
        vec![empty.clone(), file(JPEG)],
        vec![file(JPEG), empty.clone()],
        vec![empty.clone(), unnamed.clone(), file(JPEG), empty.clone(), unnamed.clone()],
        vec![unnamed.clone(), part("form-data; name=file", JPEG), empty.clone()],
    ] {
        assert_jpeg(read_cut(&form(&parts)).await, "jpg");
    }
}

#[tokio::test]
async fn text_field_named_file_is_ignored_if_a_file_exists() {
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(2_000));
    for metadata in ["{}", "{\"file\":{\"name\":\"a.jpg\"}}", "some text", &long] {
        let metadata = part("form-data; name=\"file\"", metadata.as_bytes());
        assert_jpeg(read_cut(&form(&[metadata.clone(), file(JPEG)])).await, "jpg");
        assert_jpeg(read_cut(&form(&[file(JPEG), metadata.clone()])).await, "jpg");
        assert_jpeg(read_cut(&form(&[metadata.clone(), part("form-data; name=file", JPEG)])).await, "jpg");
        // Without another part it is the file.
        let Err(Error::InvalidFileType { detected: Some("text"), .. }) = read_cut(&form(&[metadata])).await else {
            panic!("the text was accepted")
        };
    }
}

#[tokio::test]
async fn two_images_are_rejected_with_and_without_names() {
    let unnamed = part("form-data; name=file", JPEG);
    for parts in [
        vec![file(JPEG), file(JPEG)],
        vec![unnamed.clone(), unnamed.clone()],
        vec![unnamed.clone(), file(JPEG), file(JPEG)],
        vec![unnamed.clone(), unnamed.clone(), file(JPEG)],
    ] {
        assert_malformed(read_cut(&form(&parts)).await, "more than one file");
    }
}

#[tokio::test]
async fn named_file_replaces_an_unnamed_image() {
    let [unnamed, empty] = [PNG, b""].map(|content| part("form-data; name=file", content));
    let field = part("form-data; name=a", b"1");
    for parts in [
        vec![unnamed.clone(), file(JPEG)],
        vec![field.clone(), unnamed.clone(), field.clone(), empty.clone(), file(JPEG), unnamed.clone(), field],
    ] {
        assert_jpeg(read_cut(&form(&parts)).await, "jpg");
    }
    let wrong_name = part("form-data; name=file; filename=a.exe", JPEG);
    let rejected = read_cut(&form(&[unnamed.clone(), wrong_name])).await;
    assert!(matches!(rejected, Err(Error::InvalidFileType { .. })), "{rejected:?}");
    let no_data = part("form-data; name=file; filename=a.jpg", b"");
    let rejected = read_cut(&form(&[unnamed, no_data])).await;
    assert!(matches!(rejected, Err(Error::NoFile { fields: Some(_) })), "{rejected:?}");
}

#[tokio::test]
async fn empty_file_parts_count_as_fields() {
    let empty = part("form-data; name=\"file\"; filename=\"\"", b"");
    let up_to = |count| [vec![empty.clone(); count], vec![file(JPEG)]].concat();
    assert_jpeg(read(FORM, &form(&up_to(64))).await, "jpg");
    assert_malformed(read(FORM, &form(&up_to(65))).await, "more than 64 fields");
    let large = part("form-data; name=\"file\"", &b"x".repeat(2 * MIB));
    assert_malformed(read(FORM, &form(&[large, file(JPEG)])).await, "besides the file");
}

#[tokio::test]
async fn no_file_error_lists_the_fields() {
    let named = |name: &str| part(&format!("form-data; name=\"{name}\"; filename=\"a.jpg\""), JPEG);
    let long = "n".repeat(1_000);
    let parts = [named("image"), part("form-data", b"no name"), named("image"), named("File"), named(&long)];
    let Err(Error::NoFile { fields: Some(fields) }) = read_cut(&form(&parts)).await else { panic!("a file") };
    assert_eq!(fields, ["image", "File", &long[..100]]);
    let Err(Error::NoFile { fields: Some(fields) }) = read_cut(&form(&[])).await else { panic!("a file") };
    assert!(fields.is_empty());
    let Err(Error::NoFile { fields: Some(fields) }) = read_cut(&form(&[file(b"")])).await else { panic!("a file") };
    assert_eq!(fields, ["file"]);
}

#[tokio::test]
async fn wrong_boundary_is_reported() {
    let body = form(&[file(JPEG)]);
    for (other, size) in [("YY", 1), ("YY", 8192), ("X-", 8192)] {
        let content_type = format!("multipart/form-data; boundary={other}");
        let (read, _) = read_chunks(&content_type, cut(&body, size), policy()).await;
        assert_malformed(read, "does not occur");
    }
    let long = [&body[..], &vec![b' '; 100_000]].concat();
    assert_malformed(read("multipart/form-data; boundary=YY", &long).await, "'--YY'");
}

/// What is found of a grant in `body`, what the form's image then comes to, and how much was read by then.
async fn granted(body: &[u8]) -> (Option<String>, usize, Result<Read>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let mut incoming = IncomingBody::new(form_kind(), super::body(cut(body, 1000), taken.clone()));
    let grant = incoming.find_grant().await.unwrap();
    let before = taken.load(Ordering::Relaxed);
    (grant, before, read_incoming(incoming, policy()).await)
}

fn text(name: &str, value: &[u8]) -> Vec<u8> {
    part(&format!("form-data; name=\"{name}\""), value)
}

fn image() -> Vec<u8> {
    part("form-data; name=\"file\"; filename=\"a.jpg\"", JPEG)
}

#[tokio::test]
async fn a_grant_is_found_before_the_file_only() {
    for (parts, expected) in [
        (vec![text("grant", b" a.b.c\r\n"), image()], Some("a.b.c")),
        (vec![text("user", b"7"), text("grant", b"a.b.c"), text("more", b"x"), image()], Some("a.b.c")),
        (vec![text("grant", b"first"), text("grant", b"second"), image()], Some("first")),
        (vec![text("grant", b""), image()], None),
        (vec![text("grant", b" "), text("grant", b"a.b.c"), image()], Some("a.b.c")),
        (vec![image(), text("grant", b"a.b.c")], None),
        (vec![text("Grant", b"a.b.c"), image()], None),
        (vec![image()], None),
    ] {
        let (grant, _, read) = granted(&form(&parts)).await;
        assert_eq!(grant.as_deref(), expected);
        assert_jpeg(read, "jpg");
    }
    let (grant, _, read) = granted(&form(&[text("user", b"7")])).await;
    assert!(grant.is_none() && matches!(read, Err(Error::NoFile { .. })), "{read:?}");
}

#[tokio::test]
async fn the_search_for_a_grant_ends_after_64_kib_and_the_form_goes_on_there() {
    let long = vec![b'x'; 100 << 10];
    let many = || (0..60).map(|nth| text(&format!("{}{nth}", "n".repeat(2000)), b""));
    for parts in [
        vec![text("user", &long), text("grant", b"a.b.c"), image()],
        vec![text("grant", &long), image()],
        many().chain([text("grant", b"a.b.c"), image()]).collect(),
    ] {
        let (grant, taken, read) = granted(&form(&parts)).await;
        assert_eq!(grant, None);
        assert!(taken <= (64 << 10) + 3000, "{taken}");
        assert_jpeg(read, "jpg");
    }
    let (grant, _, read) = granted(&form(&[text("user", &long[..63 << 10]), text("grant", b"a.b.c"), image()])).await;
    assert_eq!(grant.as_deref(), Some("a.b.c"));
    assert_jpeg(read, "jpg");
}
