//! Completes concurrent with each other, with another PUT, with a delete, and with another process.

use reqwest::Response;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::support::app::{fixture, png};
use crate::support::faults::{Action, Operation};

/// Returns an answer without its URL, whose signature differs between answers.
async fn without_url(response: Response) -> Value {
    let mut image = answer(response, 200).await;
    assert!(image["url"].is_string());
    image["url"].take();
    image
}

#[tokio::test]
async fn complete_before_during_and_after_the_put() {
    let app = TestApp::start().await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    refusal(complete(&app, &plan).await, 404, "not_found").await;

    let url: http::Uri = plan.link("url").parse().unwrap();
    let mut socket = tokio::net::TcpStream::connect(url.authority().unwrap().as_str()).await.unwrap();
    let mut head = format!("PUT {} HTTP/1.1\r\nhost: {}\r\n", url.path_and_query().unwrap(), url.authority().unwrap());
    for (name, value) in plan.0["headers"].as_object().unwrap() {
        head += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    socket.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).await.unwrap();
    socket.write_all(&bytes[..50_000]).await.unwrap();
    refusal(complete(&app, &plan).await, 404, "not_found").await;
    check_unreadable(&app, plan.key()).await;
    socket.write_all(&bytes[50_000..]).await.unwrap();
    let mut put = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut socket, &mut put).await.unwrap();
    assert!(put.starts_with("HTTP/1.1 200"), "{put}");

    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn concurrent_completes_share_one_promotion() {
    let app = TestApp::behind_faults(&SMALL).await;
    let mut keys = Vec::new();
    for size in [100_000, 6 * MIB + 1] {
        let (plan, bytes) = (plan(&app, size).await, png(size));
        let before = [Operation::Copy, Operation::Complete].map(|operation| app.faults().calls(operation));
        let mut completes = 1;
        if plan.0["kind"] == "put" {
            put(&app, &plan, &bytes).await;
        } else {
            send_parts(&app, plan.parts(), &bytes, |_| true).await;
            completes = 2;
        }
        let answers = join_all((0..20).map(|_| complete(&app, &plan))).await;
        let images = join_all(answers.into_iter().map(without_url)).await;
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
        assert_eq!(images[0]["size"], size);
        assert_eq!(app.faults().calls(Operation::Copy) - before[0], 1);
        assert_eq!(app.faults().calls(Operation::Complete) - before[1], completes, "the parts', and the copy's");
        keys.push(plan.key().to_owned());
    }
    app.end(&[&keys[0], &keys[1]]).await;
}

#[tokio::test]
async fn concurrent_sniffs_are_limited() {
    let app = TestApp::behind_faults(&[]).await;
    let mut plans = Vec::new();
    for _ in 0..20 {
        let plan = plan(&app, 100_000).await;
        put(&app, &plan, &png(100_000)).await;
        plans.push(plan);
    }
    app.faults().fail_all(Operation::Get, Action::Hold);
    let work = async {
        // Each complete sends two HEADs, for the image and for the upload, before it reads.
        app.faults().wait_for(Operation::Head, 40).await;
        app.faults().wait_for(Operation::Get, 16).await;
        app.go_round().await;
        assert_eq!(app.faults().calls(Operation::Get), 16, "the limit on concurrent reads must hold");
        app.faults().heal();
        app.faults().release();
    };
    let (images, ()) = tokio::join!(join_all(plans.iter().map(|plan| completed(&app, plan))), work);
    assert_eq!((images.len(), app.faults().calls(Operation::Get)), (20, 20));
    app.end(&plans.iter().map(Plan::key).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn concurrent_completes_of_no_image_share_the_rejection() {
    let app = TestApp::behind_faults(&[]).await;
    let plan = plan(&app, 100_000).await;
    put(&app, &plan, &vec![b'x'; 100_000]).await;
    app.faults().fail(Operation::Get, 1..=1, Action::Hold);
    let release = async {
        app.faults().wait_for(Operation::Get, 1).await;
        // All completes wait for the same promotion once a later request is answered.
        assert_eq!(app.client.get(app.at("/healthz")).send().await.unwrap().status(), 200);
        app.faults().release();
    };
    let (first, ()) = tokio::join!(join_all((0..20).map(|_| complete(&app, &plan))), release);
    let mut reasons = 0;
    for response in first {
        // A complete that arrives after the rejection is answered 404.
        let code = if response.status() == 400 { "invalid_file_type" } else { "not_found" };
        reasons += usize::from(response.status() == 400);
        let status = response.status().as_u16();
        refusal(response, status, code).await;
    }
    assert!(reasons > 0);
    app.end(&[]).await;
}

#[tokio::test]
async fn completes_in_two_processes_create_one_image() {
    let app = TestApp::start().await;
    let other = app.another().await;
    for _ in 0..5 {
        let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
        put(&app, &plan, &bytes).await;
        let link = plan.link("complete_url");
        let requests = (0..20).map(|nth| {
            let base = if nth % 2 == 0 { &app.url } else { &other };
            app.client.post(format!("{base}{link}")).send()
        });
        let answers = join_all(requests).await.into_iter().map(Result::unwrap);
        let images = join_all(answers.map(without_url)).await;
        assert!(images.iter().all(|image| *image == images[0]), "{images:?}");
        let path = app.at(&format!("/delete/{}", plan.key()));
        assert_eq!(app.client.delete(path).send().await.unwrap().status(), 200);
        refusal(complete(&app, &plan).await, 404, "not_found").await;
    }
    app.end(&[]).await;
}

/// Replaces the object with `other` while the first call of `operation` is held.
async fn replaced_before(operation: Operation, other: &[u8]) -> (TestApp, Plan, Response) {
    let app = TestApp::behind_faults(&[]).await;
    let plan = plan(&app, other.len()).await;
    put(&app, &plan, &png(other.len())).await;
    app.faults().fail(operation, 1..=1, Action::Hold);
    let replacing = async {
        app.faults().wait_for(operation, 1).await;
        replace(&app, &plan, other).await;
        app.faults().release();
    };
    let (response, ()) = tokio::join!(complete(&app, &plan), replacing);
    (app, plan, response)
}

#[tokio::test]
async fn object_replaced_before_copy_is_checked_again() {
    let mut other = png(100_000);
    other[16..24].copy_from_slice(&[30_u32.to_be_bytes(), 20_u32.to_be_bytes()].concat());
    for operation in [Operation::Get, Operation::Copy] {
        let (app, plan, response) = replaced_before(operation, &other).await;
        let image = answer(response, 200).await;
        assert_eq!(
            (&image["width"], &image["height"]),
            (&30.into(), &20.into()),
            "the dimensions must be those of the copied bytes"
        );
        check_image(&app, &image, &other).await;
        app.end(&[plan.key()]).await;
    }
}

#[tokio::test]
async fn invalid_object_put_before_copy_is_rejected() {
    for operation in [Operation::Get, Operation::Copy] {
        let (app, plan, response) = replaced_before(operation, &vec![b'x'; 100_000]).await;
        refusal(response, 400, "invalid_file_type").await;
        check_unreadable(&app, plan.key()).await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn object_deleted_during_complete_is_404() {
    for operation in [Operation::Get, Operation::Copy] {
        let app = TestApp::behind_faults(&[]).await;
        let other = app.another().await;
        let plan = plan(&app, 100_000).await;
        put(&app, &plan, &png(100_000)).await;
        app.faults().fail(operation, 1..=1, Action::Hold);
        let aborting = async {
            app.faults().wait_for(operation, 1).await;
            let aborted = app.client.delete(format!("{other}{}", plan.link("abort_url"))).send().await.unwrap();
            app.faults().release();
            aborted.status()
        };
        let (response, aborted) = tokio::join!(complete(&app, &plan), aborting);
        assert_eq!(aborted, 204);
        refusal(response, 404, "not_found").await;
        app.end(&[]).await;
    }
}

#[tokio::test]
async fn complete_overtaken_by_another_process_answers_the_same() {
    // The first Complete assembles the parts, the second completes the copy.
    for (held, nth) in [
        (Operation::ListParts, 1),
        (Operation::Complete, 1),
        (Operation::Copy, 1),
        (Operation::Complete, 2),
        (Operation::Create, 2),
    ] {
        for deleted in [false, true] {
            // A Create that times out is sent again and leaves an upload for the sweep.
            let app = TestApp::behind_faults(&[SMALL[0], SMALL[1], "--s3-timeout=30s"]).await;
            let other = app.another().await;
            let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
            send_parts(&app, plan.parts(), &bytes, |_| true).await;
            app.faults().fail(held, nth..=nth, Action::Hold);
            let overtaking = async {
                app.faults().wait_for(held, nth).await;
                let link = format!("{other}{}", plan.link("complete_url"));
                let image = without_url(app.client.post(link).send().await.unwrap()).await;
                if deleted {
                    let gone = app.client.delete(format!("{other}/delete/{}", plan.key())).send().await.unwrap();
                    assert_eq!(gone.status(), 200);
                }
                app.faults().release();
                image
            };
            let (response, image) = tokio::join!(complete(&app, &plan), overtaking);
            if deleted {
                refusal(response, 404, "not_found").await;
                app.end(&[]).await;
            } else {
                assert_eq!(without_url(response).await, image);
                app.end(&[plan.key()]).await;
            }
        }
    }
}

#[tokio::test]
async fn complete_after_put_does_not_share_an_earlier_404() {
    let app = TestApp::behind_faults(&[]).await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    // The third HEAD of the first complete. It asks for the image, the upload, and the image again.
    app.faults().fail(Operation::Head, 3..=3, Action::Hold);
    let then = async {
        app.faults().wait_for(Operation::Head, 3).await;
        put(&app, &plan, &bytes).await;
        let release = async {
            assert_eq!(app.client.get(app.at("/healthz")).send().await.unwrap().status(), 200);
            app.faults().release();
        };
        tokio::join!(complete(&app, &plan), release).0
    };
    let (early, second) = tokio::join!(complete(&app, &plan), then);
    refusal(early, 404, "not_found").await;
    check_image(&app, &answer(second, 200).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn part_sent_again_during_complete_does_no_harm() {
    let app = TestApp::behind_faults(&SMALL).await;
    let (plan, bytes) = (plan(&app, 6 * MIB + 1).await, png(6 * MIB + 1));
    send_parts(&app, plan.parts(), &bytes, |_| true).await;
    let mut other = bytes.clone();
    *other.last_mut().unwrap() ^= 1;
    app.faults().fail(Operation::Complete, 1..=1, Action::Hold);
    let again = async {
        app.faults().wait_for(Operation::Complete, 1).await;
        send_parts(&app, plan.parts(), &other, |number| number == 2).await;
        app.faults().release();
    };
    let (response, ()) = tokio::join!(complete(&app, &plan), again);
    check_image(&app, &answer(response, 200).await, &other).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn put_after_complete_is_rejected() {
    let app = TestApp::start().await;
    let (plan, bytes) = (plan(&app, 100_000).await, png(100_000));
    put(&app, &plan, &bytes).await;
    completed(&app, &plan).await;
    let again = signed(&app, &plan.0).body(vec![b'x'; 100_000]).send().await.unwrap();
    assert_eq!(again.status(), 412);
    check_image(&app, &completed(&app, &plan).await, &bytes).await;
    app.end(&[plan.key()]).await;
}

#[tokio::test]
async fn rejection_after_202_is_returned_by_next_complete() {
    let app = TestApp::behind_faults(&["--complete-wait=300ms"]).await;
    let plan = plan(&app, 1_000).await;
    put(&app, &plan, &[fixture("plain.gif"), vec![b'x'; 1_000]].concat()[20..1_020]).await;
    app.faults().fail(Operation::Get, 1..=1, Action::Hold);
    answer(complete(&app, &plan).await, 202).await;
    app.faults().release();
    app.settled().await;
    let verdict = loop {
        let response = complete(&app, &plan).await;
        if response.status() != 202 {
            break response;
        }
        app.settled().await;
    };
    refusal(verdict, 400, "invalid_file_type").await;
    app.end(&[]).await;
}
