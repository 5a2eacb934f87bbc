//! Custom metadata: signed into the PUT of a plan, stored with its multipart upload, and copied to the image.

use clap::Parser;
use image_store::cli::Cli;
use image_store::config::Config;
use image_store::direct::create::{PlanTerms, create};
use image_store::direct::plan::{Expected, UploadRequest};
use image_store::direct::presign::{MultipartPlan, PutPlan, UploadPlan, sign};
use image_store::store::reconcile::Reconciler;
use image_store::store::{CustomMetadata, Presigned};
use image_store::tasks::Tasks;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode};
use std::time::SystemTime;

use super::quirks::verifier;
use crate::support::app::png;
use crate::support::backend::Backend;
use crate::support::samples::for_a_minute;

const MIB: usize = 1 << 20;

fn custom() -> CustomMetadata {
    CustomMetadata::from([("owner".to_owned(), "J\u{fc}rgen".to_owned()), ("order".to_owned(), "7".to_owned())])
}

async fn put(signed: &Presigned, bytes: Vec<u8>) -> StatusCode {
    let headers = signed.headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    Client::new().put(&signed.url).headers(headers.collect::<HeaderMap>()).body(bytes).send().await.unwrap().status()
}

/// Returns the presigned PUTs of a plan, in order.
fn targets(plan: UploadPlan) -> Vec<Presigned> {
    let expires_at = SystemTime::now();
    match plan {
        UploadPlan::Put(PutPlan { url, headers, .. }) => {
            vec![Presigned { url, headers: headers.into_iter().collect(), expires_at }]
        }
        UploadPlan::Multipart(MultipartPlan { parts, .. }) => {
            let signed = parts.into_iter().map(|part| {
                let headers = part.headers.unwrap().into_iter().collect();
                Presigned { url: part.url.unwrap(), headers, expires_at }
            });
            signed.collect()
        }
    }
}

/// With the client's complete request, and with an event, which contains only the key.
#[tokio::test]
async fn custom_metadata_is_copied_from_the_plan_to_the_image() {
    let config = Config::new(&Cli::parse_from(["image-store", "--direct-put-max=6MiB"]).settings).unwrap();
    for backend in [Backend::strict().await, Backend::embedded().await] {
        for (size, by_event) in [(1_000, false), (1_000, true), (7 * MIB, false)] {
            let (store, tasks) = (backend.store.clone(), Tasks::default());
            let request: UploadRequest =
                serde_json::from_value(serde_json::json!({ "filename": "a.png", "size": size })).unwrap();
            let validated = request.check(&config.policy, None).unwrap();
            let reconciler = Reconciler::new(store.clone());
            let terms = PlanTerms::new(custom(), false);
            let pending = create(&store, &reconciler, &tasks, &config, validated, terms).await.unwrap();
            let plan = pending.plan.clone();
            let signed = sign(store.as_ref(), &plan, custom(), &for_a_minute(), plan.links(None, "token")).await;
            pending.acknowledged();
            let targets = targets(signed.unwrap());
            let has_metadata =
                |signed: &Presigned| signed.headers.iter().any(|(name, _)| name == "x-amz-meta-image-store");
            assert!(targets.len() > 1 || has_metadata(&targets[0]), "the metadata is missing in the headers to send");
            for (signed, bytes) in targets.iter().zip(png(size).chunks(5 * MIB)) {
                assert_eq!(put(signed, bytes.to_vec()).await, StatusCode::OK);
            }

            let verifier = verifier(store.clone());
            let promoted = if by_event {
                verifier.promote(&plan.key, Expected::default(), &|| true).await
            } else {
                verifier.complete(&(&plan).into(), &|| true).await
            };
            assert_eq!(promoted.unwrap().image.custom, custom(), "{size} bytes, by event: {by_event}");
            let found = store.head(&plan.image()).await.unwrap();
            assert_eq!((found.custom, found.dimensions), (custom(), Some((16, 12))));
            for name in [plan.image(), plan.incoming()] {
                store.delete(&name).await.unwrap();
            }
        }
        backend.check_clean().await;
    }
}
