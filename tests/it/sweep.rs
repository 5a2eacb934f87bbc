//! What a kill leaves behind is removed once it is old enough, and nothing else.

use image_store::store::{Content, ImageKey, Metadata, Name, Payload};
use image_store::sweep::{AGE, Swept, sweep};
use std::time::Duration;

use super::support::app::{TestApp, fixture};

#[tokio::test]
async fn a_sweep_removes_what_is_old_and_not_an_image() {
    let app = TestApp::with(&["--s3-prefix=a/"]).await;
    let answer: serde_json::Value = app.upload("a.png", fixture("plain.png")).await.json().await.unwrap();
    let metadata = Metadata { content_type: "image/png".to_owned(), dimensions: None };
    let unverified = Name::Incoming(ImageKey::random("png"));
    let bytes = bytes::Bytes::from_static(b"unverified");
    let crc64 = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &bytes);
    let payload = Payload { len: bytes.len() as u64, content: Content::Memory(bytes), crc64 };
    app.store.put(&unverified, &metadata, payload).await.unwrap();
    app.store.create_upload(&Name::Image(ImageKey::random("png")), &metadata).await.unwrap();

    assert_eq!(sweep(app.store.as_ref(), AGE).await.unwrap(), Swept::default());
    assert_eq!(app.store.leftovers().await.unwrap().len(), 2);
    let swept = sweep(app.store.as_ref(), Duration::ZERO).await.unwrap();
    assert_eq!(swept, Swept { uploads: 1, objects: 1, failed: 0 });
    app.end(&[&format!("a/{}", answer["s3_key"].as_str().unwrap())]).await;
}
