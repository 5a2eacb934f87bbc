//! Plans of direct uploads for one key: each is answered with the image that its own client has sent, or with an error. On stores
//! that keep checksums and on stores that do not, in two processes.

use reqwest::Client;
use sha2::{Digest, Sha256};

use super::*;
use crate::support::backend::Backend;
use crate::support::faults::Faults;
use crate::support::strict::Quirk;

/// Files above 6 MiB are planned in parts.
const FLAGS: [&str; 1] = ["--direct-put-max=6MiB"];
/// One PUT, and two parts.
const PLANNED: [usize; 2] = [1_000, 6 * MIB + 1];

/// Two services on one S3, and a grant for one key.
struct Services {
    backend: Backend,
    faults: Faults,
    client: Client,
    bases: [String; 2],
    grant: String,
    key: String,
}

/// A plan of the key, as its client has received it.
struct Plan(Value);

impl Services {
    async fn on(backend: Backend) -> Services {
        let faults = Faults::before(&backend.endpoint).await;
        let first = TestApp::serve_with(backend.store_at(&faults.endpoint).await, &FLAGS).await;
        let bases = [first, TestApp::serve_with(backend.store.clone(), &FLAGS).await];
        let (client, [grant, key]) = (Client::new(), Default::default());
        let mut services = Services { backend, faults, client, bases, grant, key };
        services.renew().await;
        services
    }

    /// Gets a grant for another key.
    async fn renew(&mut self) {
        let request = self.client.post(format!("{}/grants", self.bases[0])).json(&json!({ "filename": "a.png" }));
        let (_, minted) = answer(request).await;
        let text = |name: &str| minted[name].as_str().unwrap().to_owned();
        (self.grant, self.key) = (text("grant"), text("s3_key"));
    }

    /// An S3 that keeps checksums, one that does not, and one whose ETags are not those of the bytes either.
    async fn of_every_kind() -> Vec<Services> {
        let mut services = vec![Services::on(Backend::embedded().await).await];
        for quirks in [&[][..], &[Quirk::NoCrc64], &[Quirk::NoCrc64, Quirk::OpaqueEtags]] {
            let backend = Backend::strict().await;
            quirks.iter().for_each(|quirk| backend.strict_s3().take_up(*quirk));
            services.push(Services::on(backend).await);
        }
        services
    }

    async fn plan(&self, request: Value) -> Plan {
        let post = self.client.post(format!("{}/uploads", self.bases[0])).bearer_auth(&self.grant).json(&request);
        let (status, plan) = answer(post).await;
        assert_eq!((status, &plan["s3_key"]), (201, &json!(self.key)), "{plan}");
        Plan(plan)
    }

    async fn plan_of(&self, size: usize) -> Plan {
        self.plan(json!({ "filename": "a.png", "size": size })).await
    }

    /// Sends the bytes as the plan says. Returns the status of the first response.
    async fn send(&self, Plan(plan): &Plan, bytes: &[u8]) -> u16 {
        let Some(parts) = plan["parts"].as_array() else { return self.put(plan, bytes).await };
        let part_size = usize::try_from(plan["part_size"].as_u64().unwrap()).unwrap();
        let sent = parts.iter().zip(bytes.chunks(part_size)).map(|(part, chunk)| self.put(part, chunk));
        join_all(sent).await[0]
    }

    async fn put(&self, target: &Value, bytes: &[u8]) -> u16 {
        let headers = target["headers"].as_object().unwrap().iter().filter(|(name, _)| *name != "content-length");
        let put = self.client.put(target["url"].as_str().unwrap());
        let put = headers.fold(put, |put, (name, value)| put.header(name, value.as_str().unwrap()));
        put.body(bytes.to_vec()).send().await.unwrap().status().as_u16()
    }

    async fn complete(&self, base: &str, Plan(plan): &Plan) -> (u16, Value) {
        let (status, mut answer) =
            answer(self.client.post(format!("{base}{}", plan["complete_url"].as_str().unwrap()))).await;
        // Signatures differ.
        answer.as_object_mut().unwrap().remove("url");
        (status, answer)
    }

    async fn status(&self, base: &str, Plan(plan): &Plan) -> (u16, Value) {
        answer(self.client.get(format!("{base}{}", plan["status_url"].as_str().unwrap()))).await
    }

    /// Asserts that the plan is answered with its image, by both services, as often as it is completed.
    async fn check_own(&self, plan: &Plan, bytes: &[u8]) {
        let (status, first) = self.complete(&self.bases[0], plan).await;
        assert_eq!((status, &first["size"]), (200, &json!(bytes.len())), "{first}");
        assert_eq!(first.get("metadata"), None, "the ID of the plan is not the client's metadata: {first}");
        for base in self.bases.iter().cycle().take(4) {
            assert_eq!(self.complete(base, plan).await, (200, first.clone()));
            assert_eq!(self.status(base, plan).await.1["state"], "complete");
        }
        self.check_stored(bytes).await;
    }

    /// Asserts that both services answer the plan that another image exists, as often as it is completed.
    async fn check_other(&self, plan: &Plan) {
        for base in self.bases.iter().cycle().take(4) {
            for (status, error) in [self.complete(base, plan).await, self.status(base, plan).await] {
                assert_eq!((status, &error["code"]), (409, &json!("already_exists")), "{error}");
            }
        }
    }

    async fn check_stored(&self, bytes: &[u8]) {
        let (status, link) = answer(self.client.get(format!("{}/images/{}/url", self.bases[0], self.key))).await;
        assert_eq!(status, 200, "{link}");
        let read = self.client.get(link["url"].as_str().unwrap()).send().await.unwrap().bytes().await.unwrap();
        assert!(read == bytes, "the stored bytes differ");
    }

    async fn form(&self, bytes: &[u8]) {
        let post = self.client.post(format!("{}/images", self.bases[1])).header("content-type", "image/png");
        let (status, image) = answer(post.bearer_auth(&self.grant).body(bytes.to_vec())).await;
        assert_eq!((status, &image["s3_key"]), (200, &json!(self.key)), "{image}");
    }

    /// Deletes the image. Asserts that only the marker remains, which a sweep removes.
    async fn clear(&self) {
        let deleted = self.client.delete(format!("{}/images/{}", self.bases[0], self.key)).send().await.unwrap();
        assert_eq!(deleted.status(), 200);
        assert_eq!(self.backend.open_uploads().await, 0);
        let left: Vec<String> = self.backend.objects().await;
        assert!(left.iter().all(|name| name.starts_with("incoming/")), "{left:?}");
    }
}

#[tokio::test]
async fn plan_is_never_answered_with_the_image_of_another_plan() {
    for services in Services::of_every_kind().await {
        // The parts of both plans arrive, but only the first of two PUTs.
        let (mine, theirs) = (png(PLANNED[1]), other(png(PLANNED[1])));
        let (first, second) = (services.plan_of(mine.len()).await, services.plan_of(mine.len()).await);
        assert_eq!([services.send(&first, &mine).await, services.send(&second, &theirs).await], [200, 200]);
        services.check_own(&first, &mine).await;
        services.check_other(&second).await;
        services.check_own(&first, &mine).await;
        services.clear().await;
    }
}

#[tokio::test]
async fn plan_whose_put_was_refused_is_not_answered_with_what_the_other_has_put() {
    for services in Services::of_every_kind().await {
        let (mine, theirs) = (png(PLANNED[0]), other(png(PLANNED[0])));
        let (first, second) = (services.plan_of(mine.len()).await, services.plan_of(mine.len()).await);
        let digest = |bytes: &[u8]| {
            let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "filename": "a.png", "size": bytes.len(), "sha256": sha256 })
        };
        let (same, different) = (services.plan(digest(&mine)).await, services.plan(digest(&theirs)).await);
        assert_eq!(services.send(&first, &mine).await, 200);
        for (plan, bytes) in [(&second, &theirs), (&same, &mine), (&different, &theirs)] {
            assert_eq!(services.send(plan, bytes).await, 412);
        }
        // What has arrived becomes the image, whoever completes it.
        let (status, error) = services.complete(&services.bases[0], &second).await;
        assert_eq!((status, &error["code"]), (409, &json!("already_exists")), "{error}");
        services.check_own(&first, &mine).await;
        services.check_other(&second).await;
        // The SHA-256 tells what the client has. Each service reads the image for it once.
        let (_, image) = services.complete(&services.bases[0], &first).await;
        let mut reads = None;
        for _ in 0..2 {
            for base in &services.bases {
                assert_eq!(services.complete(base, &same).await, (200, image.clone()));
                let (status, error) = services.complete(base, &different).await;
                assert_eq!((status, &error["code"]), (409, &json!("already_exists")), "{error}");
            }
            let read = services.faults.calls(Operation::Get);
            assert_eq!(*reads.get_or_insert(read), read);
        }
        services.clear().await;
    }
}

#[tokio::test]
async fn plan_is_compared_with_an_image_that_was_streamed() {
    for mut services in Services::of_every_kind().await {
        let (same, different) = (png(PLANNED[0]), other(png(PLANNED[0])));
        for streamed in [&same, &different] {
            let plan = services.plan_of(same.len()).await;
            assert_eq!(services.send(&plan, &same).await, 200);
            services.form(streamed).await;
            match streamed == &same {
                true => services.check_own(&plan, &same).await,
                false => services.check_other(&plan).await,
            }
            services.check_stored(streamed).await;
            services.clear().await;
            services.renew().await;
        }
    }
}

#[tokio::test]
async fn plan_is_answered_with_its_image_after_lost_responses() {
    for mut services in Services::of_every_kind().await {
        for size in PLANNED {
            for operation in [Operation::Complete, Operation::Copy] {
                let (bytes, plan) = (png(size), services.plan_of(size).await);
                assert_eq!(services.send(&plan, &bytes).await, 200);
                services.faults.fail_all(operation, Action::LoseAnswer);
                let (status, answer) = services.complete(&services.bases[0], &plan).await;
                let expected = if operation == Operation::Complete { 200 } else { 500 };
                assert_eq!(status, expected, "{operation:?}: {answer}");
                services.faults.heal();
                services.check_own(&plan, &bytes).await;
                services.clear().await;
                services.renew().await;
            }
        }
    }
}
