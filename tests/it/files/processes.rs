//! Uploads that several processes work on, one after the other and at once.

use tempfile::TempDir;

use super::*;
use crate::process::Process;
use crate::support::app::{png, until};
use crate::support::backend::Backend;
use crate::support::faults::{Action, Operation};
use crate::support::raw::RawClient;
use crate::support::strict::Quirk;

#[tokio::test]
async fn upload_continues_in_the_next_process_after_a_kill() {
    let data = TempDir::new().unwrap();
    let client = Client::new();
    let bytes = png(3 * PART + 10);
    let first = Process::start(data.path(), &[]);
    let created = client.post(format!("http://{}/files", first.address)).header("tus-resumable", "1.0.0");
    let created = created.header("upload-length", bytes.len()).header("upload-metadata", PNG);
    let url = header(&expect(created, 201).await, "location").to_owned();
    let upload = Upload { client, url };
    upload.append(0, &bytes[..1000]).await;

    // Killed in the middle of a request: what was acknowledged remains, and so does every whole part.
    let path = upload.url.split_once(&first.address).unwrap().1;
    let mut raw = RawClient::connect(&first.address).await;
    raw.send(format!(
        "PATCH {path} HTTP/1.1\r\nhost: localhost\r\ntus-resumable: 1.0.0\r\nupload-offset: 1000\r\n\
         content-type: application/offset+octet-stream\r\ncontent-length: {}\r\n\r\n",
        bytes.len() - 1000
    ))
    .await;
    raw.send(&bytes[1000..2 * PART + 500]).await;
    until_parts(data.path(), 2).await;
    first.kill();
    assert!(first.end().await.0.code().is_none());

    let second = Process::start(data.path(), &[]);
    let upload = upload.at(&format!("http://{}", second.address));
    let offset = upload.offset().await;
    assert_eq!(offset, 2 * PART);
    upload.append(offset, &bytes[offset..3 * PART]).await;
    second.kill();
    second.end().await;

    let third = Process::start(data.path(), &[]);
    let upload = upload.at(&format!("http://{}", third.address));
    assert_eq!(upload.offset().await, 3 * PART);
    upload.append(3 * PART, &bytes[3 * PART..]).await;
    upload.check(&bytes).await;
    third.terminate();
    assert!(third.end().await.0.success());
    let left: Vec<_> =
        std::fs::read_dir(data.path().join("objects")).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// Waits until the embedded store has this number of whole parts.
async fn until_parts(data: &std::path::Path, parts: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while whole_parts(&data.join("uploads")) < parts {
        assert!(std::time::Instant::now() < deadline, "{parts} parts are not stored within 20 s");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn whole_parts(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let count = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => whole_parts(&entry.path()),
        Ok(found) => usize::from(found.len() >= PART as u64),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(count).sum()
}

#[tokio::test]
async fn processes_take_turns_at_an_upload() {
    let app = TestApp::start().await;
    let other = app.another().await;
    let bytes = png(2 * PART + 10);
    let here = create(&app, bytes.len()).await;
    let there = here.at(&other);
    let steps = [1000, PART, PART + 1, 2 * PART - 1, 2 * PART + 1, bytes.len()];
    let mut offset = 0;
    for (index, step) in steps.into_iter().enumerate() {
        let (writer, reader) = if index % 2 == 0 { (&here, &there) } else { (&there, &here) };
        writer.append(offset, &bytes[offset..step]).await;
        assert_eq!(reader.offset().await, step);
        offset = step;
    }
    there.check(&bytes).await;
    app.end(&[here.key()]).await;
}

#[tokio::test]
async fn the_same_bytes_sent_through_two_processes_are_stored_once() {
    let app = TestApp::start().await;
    let other = app.another().await;
    let bytes = png(3 * PART + 10);
    let here = create(&app, bytes.len()).await;
    let there = here.at(&other);
    let both = [&here, &there].map(|upload| upload.patch(0, &bytes).send());
    let [first, second] = futures::future::join_all(both).await.try_into().unwrap();
    let statuses = [first.unwrap().status().as_u16(), second.unwrap().status().as_u16()];
    assert!(statuses.contains(&204), "{statuses:?}");
    assert!(statuses.iter().all(|status| [204, 409, 503].contains(status)), "{statuses:?}");
    assert_eq!((here.offset().await, there.offset().await), (bytes.len(), bytes.len()));
    here.check(&bytes).await;
    app.end(&[here.key()]).await;
}

/// The image exists while the store is still completing the upload, and its parts are not listed any more.
#[tokio::test]
async fn upload_is_complete_in_another_process_while_the_store_has_not_answered_its_complete() {
    for length in [1000, PART + 7, 2 * PART] {
        let backend = Backend::strict().await;
        let strict = backend.strict_s3();
        strict.take_up(Quirk::PartsHiddenByComplete);
        let (here, there) = (TestApp::serve(backend.store.clone()).await, TestApp::serve(backend.store.clone()).await);
        let (client, bytes) = (Client::new(), png(length));
        let created =
            client.post(format!("{here}/files")).header("tus-resumable", "1.0.0").header("upload-metadata", PNG);
        let created = expect(created.header("upload-length", length), 201).await;
        let upload = Upload { client, url: header(&created, "location").to_owned() };
        let first = upload.append(0, &bytes[..500]).await;
        assert_eq!(header(&first, "upload-offset"), "500");
        let other = upload.at(&there);
        let asking = async {
            until("the image exists", || strict.objects().iter().any(|key| !key.contains("incoming/"))).await;
            assert_eq!(strict.calls("CompleteMultipartUpload"), 1);
            assert_eq!(other.offset().await, length);
            other.check(&bytes).await;
            other.append(length, b"").await;
            rejected(other.request(Method::DELETE), 409, "already_complete").await;
            strict.answer_completes();
        };
        let (last, ()) = tokio::join!(upload.append(500, &bytes[500..]), asking);
        assert_eq!(last.status(), 204);
        upload.check(&bytes).await;
        assert_eq!(strict.open_uploads(), Vec::<String>::new());
    }
}

/// The store has not begun to complete the upload. A client that asks meanwhile continues, and nothing is stored twice.
#[tokio::test]
async fn upload_is_completed_by_another_process_while_the_complete_is_under_way() {
    for length in [1000, PART + 7, 2 * PART] {
        let app = TestApp::behind_faults(&["--s3-timeout=30s"]).await;
        let other = app.another().await;
        let bytes = png(length);
        let upload = create(&app, length).await;
        app.faults().fail_once(Operation::Complete, Action::Hold);
        let there = upload.at(&other);
        let asking = async {
            app.faults().wait_for(Operation::Complete, 1).await;
            // The last part counts only if it is full. Whoever finds that all bytes are stored completes the upload.
            let offset = there.offset().await;
            assert_eq!(offset, length / PART * PART);
            there.append(offset, &bytes[offset..]).await;
            there.check(&bytes).await;
            app.faults().release();
        };
        let (last, ()) = tokio::join!(upload.append(0, &bytes), asking);
        assert_eq!(last.status(), 204);
        upload.check(&bytes).await;
        rejected(upload.request(Method::DELETE), 409, "already_complete").await;
        app.end(&[upload.key()]).await;
    }
}

#[tokio::test]
async fn delete_in_another_process_ends_the_upload() {
    let app = TestApp::start().await;
    let other = app.another().await;
    let bytes = png(PART + 10);
    let here = create(&app, bytes.len()).await;
    here.append(0, &bytes[..1000]).await;
    expect(here.at(&other).request(Method::DELETE), 204).await;
    here.check_gone().await;
    app.end(&[]).await;
}
