//! Properties of all forms, whatever they contain and however they are split into chunks.

use super::*;
use proptest::prelude::*;

/// Splits `bytes` into chunks of these sizes, with some empty chunks in between.
fn cut_at(bytes: &[u8], sizes: &[usize]) -> Chunks {
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(1).min(rest.len());
        if size % 7 == 0 {
            chunks.push(Ok(Bytes::new()));
        }
        chunks.push(Ok(rest.split_to(size)));
    }
    chunks
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![3 => 1..20_usize, 1 => 20..2000_usize, 1 => 2000..100_000_usize];
    prop::collection::vec(size, 1..40)
}

/// Whether two errors are equivalent. If a form ends inside a broken image, both errors are correct, and the chunks
/// decide which one is found first.
fn same_fault(first: &str, second: &str) -> bool {
    let either = ["malformed_form", "invalid_file_type"];
    first == second || (either.contains(&first) && either.contains(&second))
}

/// Reads to the end and returns the maximum number of bytes that were held: read from the body and not returned yet.
///
/// The file's bytes start at `start` in the body.
async fn most_held(chunks: Chunks, start: usize) -> Result<usize> {
    let taken = Arc::new(AtomicUsize::new(0));
    let body = ready_body(chunks, taken.clone());
    let mut head = Part::default();
    let mut image = IncomingImage::open(IncomingBody::new(form_kind(), body), Arc::new(policy()), &mut head).await?;
    let (mut done, mut most) = (start + head.0.len(), 0);
    while let Some(chunk) = image.next_chunk().await? {
        done += chunk.len();
        most = most.max(taken.load(Ordering::Relaxed).saturating_sub(done));
    }
    Ok(most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn result_does_not_depend_on_the_chunks(
        sizes in sizes(),
        tail in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'X')], 0..400),
        preamble in "[a-z \r\n-]{0,200}",
        padding in 0..100_000_usize,
    ) {
        let image = [JPEG, &tail, &vec![b'-'; padding]].concat();
        prop_assume!(!image.windows(6).any(|six| six == b"\r\n--XX"));
        let parts = [part("form-data; name=a", &tail[..tail.len() / 2]), file(&image), part("form-data; name=b", b"")];
        prop_assume!(!parts[0].windows(6).any(|six| six == b"\r\n--XX"));
        let whole = [preamble.as_bytes(), &form(&parts)].concat();
        let read = block_on(read_chunks(FORM, cut_at(&whole, &sizes), policy())).0.unwrap();
        prop_assert!(read.bytes == image);
        prop_assert_eq!(read.info, ImageInfo { format: Format::Jpeg, width: 16, height: 12 });
        prop_assert_eq!(read.extension, "jpg");
    }

    #[test]
    fn mutated_forms_give_the_same_result_in_any_chunks(
        sizes in sizes(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'\r'), Just(b'"')]), 1..6),
        cut_off in any::<prop::sample::Index>(),
    ) {
        let mut whole = form(&[part("form-data; name=\"a\"", b"text"), file(JPEG)]);
        for (at, byte) in edits {
            let at = at.index(whole.len());
            whole[at] = byte;
        }
        whole.truncate(whole.len() / 2 + cut_off.index(whole.len()));
        let (first, _) = block_on(read_chunks(FORM, cut_at(&whole, &sizes), policy()));
        let (second, _) = block_on(read_chunks(FORM, cut(&whole, whole.len()), policy()));
        match (first, second) {
            (Ok(first), Ok(second)) => prop_assert_eq!(first, second),
            (Err(first), Err(second)) => prop_assert!(same_fault(first.code(), second.code()), "{first:?} and {second:?}"),
            (first, second) => prop_assert!(false, "{:?} and {:?}", first, second),
        }
    }

    #[test]
    fn arbitrary_bodies_are_rejected(sizes in sizes(), bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        for whole in [bytes.clone(), [b"--XX\r\n", &bytes[..]].concat(), [&b"--XX\r\nContent-Disposition: "[..], &bytes].concat()] {
            let (read, _) = block_on(read_chunks(FORM, cut_at(&whole, &sizes), policy()));
            prop_assert!(read.is_err());
        }
        let (read, _) = block_on(read_chunks("image/any", cut_at(&bytes, &sizes), policy()));
        prop_assert!(read.is_err_and(|error| matches!(error.code(), "no_file" | "invalid_file_type" | "too_many_pixels")));
    }

    #[test]
    fn held_bytes_are_bounded(chunk in 1..200_000_usize, padding in 0..190_000_usize, fields in 0..60_usize) {
        let image = [JPEG, &vec![b'-'; padding]].concat();
        let others = vec![part("form-data; name=other", &[b'\r'; 10_000]); fields];
        let start = [others.concat(), file(&image)].concat().len() - 2 - image.len();
        let whole = form(&[others, vec![file(&image)]].concat());
        let most = block_on(most_held(cut(&whole, chunk), start)).unwrap();
        prop_assert!(most <= chunk + form::head::HEAD_LIMIT, "{} held", most);
    }
}
