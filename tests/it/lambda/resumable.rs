//! Resumable uploads in events: chunks that fit the payload, in both payload formats and behind a load balancer.

use super::*;

/// The chunk size that the documentation recommends.
const CHUNK: usize = 4_000_000;

/// Builds an event of an upload's request.
fn tus(shape: &str, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Value {
    let path = url.find("/files").map_or(url, |at| &url[at..]);
    let mut event = request(shape, method, path);
    set_header(&mut event, "tus-resumable", "1.0.0");
    for (name, value) in headers {
        set_header(&mut event, name, value);
    }
    let (_, query) = path.split_once('?').unwrap_or((path, ""));
    if event.get("version").is_none() && !query.is_empty() {
        let (name, value) = query.split_once('=').unwrap();
        let several = event.get("multiValueHeaders").is_some();
        event["queryStringParameters"] =
            if several && shape.starts_with("alb") { Value::Null } else { json!({ name: value }) };
        event["multiValueQueryStringParameters"] = if several { json!({ name: [value] }) } else { Value::Null };
    }
    if !body.is_empty() {
        set_header(&mut event, "content-type", "application/offset+octet-stream");
        set_header(&mut event, "content-length", &body.len().to_string());
        event["body"] = STANDARD.encode(body).into();
        event["isBase64Encoded"] = true.into();
    }
    event
}

#[tokio::test]
async fn large_file_arrives_in_chunks_through_every_event_source() {
    let setup = Setup::start().await;
    let file = png(11_000_000);
    let mut keys = Vec::new();
    for shape in SHAPES {
        let chunk = if shape.starts_with("alb") { 700_000 } else { CHUNK };
        let length = file.len().to_string();
        let creation = [("upload-length", length.as_str()), ("upload-metadata", "filename YS5wbmc=")];
        let created = setup.function.invoke(&tus(shape, "POST", "/files", &creation, &[])).await.response();
        assert_eq!(created["statusCode"], 201, "{shape}: {created}");
        assert_eq!(header(&created, "tus-resumable"), "1.0.0");
        let url = header(&created, "location");
        let path = reqwest::Url::parse(&url).unwrap().path().to_owned();
        assert!(path.starts_with(&format!("{}/files/", requested_base(shape))), "{url}");
        let mut offset = 0;
        for chunk in file.chunks(chunk) {
            let head = setup.function.invoke(&tus(shape, "HEAD", &url, &[], &[])).await.response();
            assert_eq!(header(&head, "upload-offset"), offset.to_string(), "{shape}: {head}");
            let at = offset.to_string();
            let patch = tus(shape, "PATCH", &url, &[("upload-offset", &at)], chunk);
            let patched = setup.function.invoke(&patch).await.response();
            offset += chunk.len();
            assert_eq!((&patched["statusCode"], header(&patched, "upload-offset")), (&204.into(), offset.to_string()));
        }
        let accept = [("accept", "application/json")];
        let image = body(&setup.function.invoke(&tus(shape, "GET", &url, &accept, &[])).await.response());
        let read = setup.app.client.get(image["url"].as_str().unwrap()).send().await.unwrap();
        assert!(read.bytes().await.unwrap() == file, "{shape}: the bytes differ");
        keys.push(image["s3_key"].as_str().unwrap().to_owned());
    }
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    setup.end(&keys).await;
}

#[tokio::test]
async fn limits_name_the_largest_request_and_an_upload_can_be_cancelled() {
    let setup = Setup::start().await;
    for (shape, limit) in [("function_url", 4_694_016), ("rest_api", 4_694_016), ("alb", 967_232)] {
        let options = setup.function.invoke(&tus(shape, "OPTIONS", "/files", &[], &[])).await.response();
        assert_eq!(options["statusCode"], 204, "{options}");
        assert_eq!(header(&options, "tus-max-size"), "5000000000");
        let expected = format!("max-size=5000000000, min-size=1, max-append-size={limit}, max-age=86400");
        assert_eq!(header(&options, "upload-limit"), expected);
    }
    let creation = [("upload-length", "1000"), ("upload-metadata", "filename YS5wbmc=")];
    let created = setup.function.invoke(&tus("function_url", "POST", "/files", &creation, &[])).await.response();
    let url = header(&created, "location");
    let patch = tus("function_url", "PATCH", &url, &[("upload-offset", "0")], &png(1000)[..500]);
    assert_eq!(setup.function.invoke(&patch).await.response()["statusCode"], 204);
    let deleted = setup.function.invoke(&tus("function_url", "DELETE", &url, &[], &[])).await.response();
    assert_eq!(deleted["statusCode"], 204, "{deleted}");
    let head = setup.function.invoke(&tus("function_url", "HEAD", &url, &[], &[])).await.response();
    assert_eq!(head["statusCode"], 410, "{head}");
    let log = setup.end(&[]).await;
    assert!(!log.contains(url.rsplit('.').next().unwrap()), "the log contains the token");
}
