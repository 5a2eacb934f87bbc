//! `image-store doctor`: the real binary against working and broken stores. Its findings, its exit code, and that it
//! leaves nothing.

use image_store::store::ImageKey;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

use super::support::backend::{Backend, stray_files};
use super::support::faults::{Action, Faults, Operation};
use super::support::strict::Quirk;

mod configured;
mod uploads;

const DENIED: Action = Action::Status(403);

/// Builds the doctor command for the bucket of `backend`, reached at `inside`. It sets the whole environment.
fn doctor(backend: &Backend, inside: &str, settings: &[(&str, &str)]) -> Command {
    let (access_key, secret_key) = backend.options.credentials.clone().unwrap();
    let mut command = binary();
    command
        .env("S3_BUCKET", &backend.options.bucket)
        .env("S3_PREFIX", &backend.options.prefix)
        .env("S3_FORCE_PATH_STYLE", "true")
        .env("S3_CHECKSUM", "crc64nvme")
        .env("S3_TIMEOUT", "2s")
        .env("AWS_ENDPOINT_URL_S3", inside)
        .env("S3_PUBLIC_ENDPOINT_URL", &backend.endpoint)
        .env("AWS_ACCESS_KEY_ID", access_key)
        .env("AWS_SECRET_ACCESS_KEY", secret_key)
        .envs(settings.iter().copied());
    command
}

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
    command.args(["doctor", "--json"]).env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    command.kill_on_drop(true).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The output of doctor and its exit code.
struct Report {
    lines: Vec<Value>,
    code: i32,
}

impl Report {
    async fn of(mut command: Command) -> Report {
        Report::from(command.spawn().unwrap()).await
    }

    async fn from(child: Child) -> Report {
        let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await;
        let output = output.expect("doctor ends within 60 s").unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        for text in [&out, &err] {
            assert!(!text.contains("X-Amz-") && !text.contains("uploadId"), "a presigned URL is printed: {text}");
        }
        let lines = out.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        Report { lines, code: output.status.code().expect("an exit code") }
    }

    fn line(&self, check: &str) -> &Value {
        let line = self.lines.iter().find(|line| line["check"] == check);
        line.unwrap_or_else(|| panic!("no line for {check} in {:#?}", self.lines))
    }

    fn verdict(&self, check: &str) -> &str {
        self.line(check)["verdict"].as_str().unwrap()
    }

    /// Asserts the verdict of a check, and that its finding or its fix contains `words`.
    fn says(&self, check: &str, verdict: &str, words: &str) {
        assert_eq!(self.verdict(check), verdict, "{:#?}", self.lines);
        let line = self.line(check);
        let output = format!("{} {}", line["seen"], line["fix"]);
        assert!(output.contains(words), "'{words}' in {line:#}");
    }

    /// The checks that failed.
    fn failed(&self) -> Vec<&str> {
        let failed = self.lines.iter().filter(|line| line["verdict"] == "fail");
        failed.map(|line| line["check"].as_str().unwrap()).collect()
    }
}

async fn behind_faults() -> (Backend, Faults) {
    let backend = Backend::strict().await;
    let faults = Faults::before(&backend.endpoint).await;
    (backend, faults)
}

#[tokio::test]
async fn embedded_store_passes_every_check() {
    let data = tempfile::tempdir().unwrap();
    let mut command = binary();
    command.env("DATA_DIR", data.path()).env("S3_PREFIX", "a/b/");
    command.env("CORS_ALLOW_ORIGIN", "https://page.example").env("PUBLIC_URL", "https://images.example.com/up");
    let report = Report::of(command).await;
    assert!(report.lines.iter().all(|line| line["verdict"] == "ok"), "{:#?}", report.lines);
    assert_eq!((report.code, report.lines.len()), (0, 27));
    assert_eq!(stray_files(data.path()), Vec::<String>::new());
}

#[tokio::test]
async fn text_output_has_lines_and_a_summary() {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
    command.arg("doctor").env_clear().env("DATA_DIR", data.path());
    let output = command.env("SPILL_DIR", data.path().join("lock").join("below")).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for line in ["FAIL  spill ", "\n      fix: set it to a folder", "\nok    put ", "\nskip  cors ", " 1 failed\n"] {
        assert!(text.contains(line), "'{line}' in {text}");
    }
}

#[tokio::test]
async fn strict_s3_without_lifecycle_rules_warns_only() {
    let backend = Backend::strict().await;
    let report = Report::of(doctor(&backend, &backend.endpoint, &[])).await;
    assert_eq!((report.code, report.failed()), (0, vec![]), "{:#?}", report.lines);
    report.says("lifecycle", "warn", "image-store sweep");
    report.says("multipart", "ok", "CRC64NVME of the whole");
    report.says("checksum", "ok", "a wrong one is rejected");
    report.says("credentials", "ok", "ends in SKEY");
    report.says("cors", "skip", "CORS_ALLOW_ORIGIN");
    backend.check_clean().await;
}

#[tokio::test]
async fn denied_call_names_its_permission_and_leaves_nothing() {
    for (operation, check, permission) in [
        (Operation::HeadBucket, "bucket", "s3:ListBucket on the bucket"),
        (Operation::ListUploads, "list", "s3:ListBucketMultipartUploads"),
        (Operation::Put, "put", "s3:PutObject"),
        (Operation::Head, "head", "s3:GetObject"),
        (Operation::Get, "get", "s3:GetObject"),
        (Operation::Copy, "copy", "s3:PutObject"),
        (Operation::Create, "multipart", "s3:PutObject"),
        (Operation::UploadPart, "multipart", "s3:PutObject"),
        (Operation::ListParts, "list-parts", "s3:ListMultipartUploadParts"),
        (Operation::Complete, "multipart", "s3:PutObject"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(operation, DENIED);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        assert_eq!(report.code, 1, "{operation:?}");
        report.says(check, "fail", permission);
        report.says("cleanup", "ok", "nothing");
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn checks_that_require_a_failed_check_are_skipped() {
    let (backend, faults) = behind_faults().await;
    faults.fail_all(Operation::Put, DENIED);
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!(report.failed(), ["put"]);
    for check in ["put-once", "head", "get", "checksum", "copy", "delete", "presigned-get", "cors"] {
        report.says(check, "skip", "requires the check put");
    }
    assert_eq!((report.verdict("multipart"), report.verdict("presigned-put")), ("ok", "ok"));
    backend.check_clean().await;
}

#[tokio::test]
async fn objects_that_cannot_be_deleted_are_named() {
    let (backend, faults) = behind_faults().await;
    faults.fail_all(Operation::Delete, DENIED);
    faults.fail_all(Operation::Abort, DENIED);
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!((report.code, report.failed()), (1, vec!["delete", "abort", "cleanup"]));
    let (objects, uploads) = (backend.strict_s3().objects(), backend.strict_s3().open_uploads());
    assert!(objects.len() > 2 && uploads.len() == 3, "{objects:?} {uploads:?}");
    assert_eq!(backend.objects().await.len(), objects.len(), "all pages must be listed");
    for key in objects.iter().chain(&uploads) {
        report.says("cleanup", "fail", key);
        let name = key.strip_prefix(&backend.options.prefix).unwrap();
        assert!(
            ImageKey::parse(name.strip_prefix("incoming/").unwrap_or(name)).is_some(),
            "{key} must have a name that sweep recognises"
        );
    }
    assert_eq!(objects.iter().filter(|key| key.contains("/incoming/")).count(), 4, "{objects:?}");
}

#[tokio::test]
async fn lost_responses_leave_nothing() {
    for (operation, failed) in [
        // The service looks for these objects and finds them.
        (Operation::Put, vec![]),
        (Operation::Complete, vec![]),
        (Operation::Create, vec!["multipart"]),
        (Operation::UploadPart, vec!["multipart"]),
        (Operation::Copy, vec!["copy"]),
    ] {
        let (backend, faults) = behind_faults().await;
        // One call and its retries. A PutObject without a response is not retried.
        let last = if matches!(operation, Operation::Put) { 1 } else { 3 };
        faults.fail(operation, 1..=last, Action::LoseAnswer);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        assert_eq!(report.failed(), failed, "{operation:?}: {:#?}", report.lines);
        report.says("cleanup", "ok", "nothing");
        backend.check_clean().await;
    }
}

/// If uploads cannot be listed, an upload whose ID was not received cannot be found. A rejected upload does not exist.
#[tokio::test]
async fn unlisted_upload_is_reported_only_if_it_may_exist() {
    const UNKNOWN: &str = "<Error><Code>InvalidRequest</Code></Error>";
    const NO_ID: &str = "<InitiateMultipartUploadResult></InitiateMultipartUploadResult>";
    for (action, calls, verdict, words) in [
        (Action::Answer(400, UNKNOWN), 1, "ok", "nothing is left behind"),
        (Action::Status(503), 3, "ok", "nothing is left behind"),
        (Action::Answer(200, NO_ID), 1, "fail", "an unfinished upload"),
        (Action::Answer(504, ""), 3, "fail", "an unfinished upload"),
        (Action::Break, 3, "fail", "an unfinished upload"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::Create, action);
        faults.fail_all(Operation::ListUploads, DENIED);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        assert_eq!(report.failed()[..2], ["list", "multipart"], "{action:?}");
        report.says("cleanup", verdict, words);
        assert_eq!(faults.calls(Operation::Create), calls, "{action:?}");
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn interrupt_leaves_nothing() {
    for held in [Operation::Copy, Operation::UploadPart, Operation::Complete] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(held, Action::Hold);
        let child = doctor(&backend, &faults.endpoint, &[("S3_TIMEOUT", "60s")]).spawn().unwrap();
        faults.wait_for(held, 1).await;
        let pid = child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        let report = Report::from(child).await;
        assert_eq!(report.code, 130);
        report.says("cleanup", "ok", "nothing");
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn closed_stdout_leaves_nothing() {
    let backend = Backend::strict().await;
    let mut child = doctor(&backend, &backend.endpoint, &[]).spawn().unwrap();
    drop(child.stdout.take());
    let status =
        tokio::time::timeout(Duration::from_secs(60), child.wait()).await.expect("doctor ends within 60 s").unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(backend.strict_s3().calls("PutObject") > 1, "doctor must continue");
    backend.check_clean().await;
}

#[tokio::test]
async fn ignored_if_none_match_is_reported() {
    let (backend, faults) = behind_faults().await;
    // `put` sends one PUT, `put-once` two.
    faults.fail(Operation::Put, 3..=3, Action::Answer(200, ""));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    report.says("put-once", "warn", "If-None-Match is ignored");
    assert_eq!(report.code, 0, "{:#?}", report.lines);
    backend.check_clean().await;
}

#[tokio::test]
async fn differences_between_stores_are_reported() {
    for (quirks, check, verdict, words) in [
        (&[Quirk::CephCopyCondition][..], "copy", "ok", "only with the right ETag"),
        (&[Quirk::NoCopyCondition], "copy", "warn", "CopySourceIfMatch is ignored"),
        (&[Quirk::NoCopyCondition, Quirk::OpaqueEtags], "copy", "fail", "no direct upload can become an image"),
        (&[Quirk::NoSmallCopies], "copy", "warn", "cannot be copied as a part"),
        (&[Quirk::NoIfMatch], "put-if-match", "warn", "If-Match is ignored"),
        (&[Quirk::ListPartsNoSuchKey], "abort", "ok", "its part is gone"),
        (&[Quirk::NoSha256], "sha256", "warn", "a wrong SHA-256 is accepted"),
    ] {
        let backend = Backend::strict().await;
        for quirk in quirks {
            backend.strict_s3().take_up(*quirk);
        }
        let report = Report::of(doctor(&backend, &backend.endpoint, &[])).await;
        report.says(check, verdict, words);
        assert_eq!(report.code, i32::from(verdict == "fail"), "{quirks:?}: {:#?}", report.lines);
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn wrong_checksum_must_be_rejected_as_bad_digest() {
    const OTHER_NAME: &str = "<Error><Code>XAmzContentChecksumMismatch</Code></Error>";
    for (action, verdict, words) in [
        (Action::Answer(400, OTHER_NAME), "ok", "a wrong one is rejected"),
        (Action::Answer(200, ""), "warn", "a wrong CRC64NVME is accepted"),
        (DENIED, "fail", "s3:PutObject"),
        (Action::Status(503), "fail", "SlowDown"),
        (Action::Break, "fail", "no answer"),
    ] {
        let (backend, faults) = behind_faults().await;
        // The PUTs before: one of `put`, two of `put-once`, one each of `head`, `get` and `checksum`. Then the wrong
        // one and its retries.
        let wrong = 7..=if matches!(action, Action::Status(503) | Action::Break) { 9 } else { 7 };
        faults.fail(Operation::Put, wrong, action);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        report.says("checksum", verdict, words);
        assert_eq!(report.code, i32::from(verdict == "fail"), "{:#?}", report.lines);
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn rejected_object_that_exists_is_reported() {
    let (backend, faults) = behind_faults().await;
    // The HEADs before: one of `put-once`, two of `head`, one each of `get` and `checksum`. Then the HEAD after the
    // rejection.
    faults.fail(Operation::Head, 6..=6, Action::Answer(200, ""));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!((report.code, report.failed()), (1, vec!["checksum"]), "{:#?}", report.lines);
    report.says("checksum", "fail", "is rejected, but its object exists");
    backend.check_clean().await;
}

#[tokio::test]
async fn presigned_urls_are_tried_at_the_public_endpoint() {
    // The PUTs in order: the sample, the sample again, a longer body, and a body whose SHA-256 is not the signed one.
    for (nth, check, verdict, words) in [
        (1, "presigned-put", "fail", "403 AccessDenied"),
        (2, "presigned-put", "warn", "a second time"),
        (3, "presigned-put", "warn", "Content-Length"),
        (4, "sha256", "warn", "a wrong SHA-256 is accepted"),
    ] {
        let (backend, faults) = behind_faults().await;
        let action = if nth == 1 { DENIED } else { Action::Answer(200, "") };
        faults.fail(Operation::Put, nth..=nth, action);
        let outside = [("S3_PUBLIC_ENDPOINT_URL", faults.endpoint.as_str())];
        let report = Report::of(doctor(&backend, &backend.endpoint, &outside)).await;
        report.says(check, verdict, words);
        assert_eq!(report.code, i32::from(verdict == "fail"));
        let sent = &faults.headers(Operation::Put)[0];
        assert_eq!(
            (&sent["content-type"], &sent["if-none-match"]),
            (&"image/jpeg".parse().unwrap(), &"*".parse().unwrap())
        );
        assert!(sent.contains_key("content-length") && !sent.contains_key("authorization"));
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn unreachable_public_endpoint_is_reported() {
    let backend = Backend::strict().await;
    let settings = [("S3_PUBLIC_ENDPOINT_URL", "http://127.0.0.1:1"), ("CORS_ALLOW_ORIGIN", "*")];
    let report = Report::of(doctor(&backend, &backend.endpoint, &settings)).await;
    assert_eq!(report.failed(), ["presigned-put", "presigned-part", "presigned-get", "cors"]);
    report.says("presigned-put", "fail", "no answer from http://127.0.0.1:1: Connection refused");
    report.says("presigned-get", "fail", "S3_PUBLIC_ENDPOINT_URL");
    backend.check_clean().await;
}

#[tokio::test]
async fn inaccessible_bucket_is_reported_and_not_written() {
    let backend = Backend::strict().await;
    for (setting, value, words) in [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "AWS_SECRET_ACCESS_KEY does not match"),
        ("AWS_ACCESS_KEY_ID", "WRONG", "does not know AWS_ACCESS_KEY_ID"),
        ("S3_BUCKET", "another", "correct S3_BUCKET"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1", "Connection refused"),
    ] {
        let report = Report::of(doctor(&backend, &backend.endpoint, &[(setting, value)])).await;
        assert_eq!((report.code, report.failed()), (1, vec!["bucket"]), "{setting}");
        report.says("bucket", "fail", words);
        report.says("put", "skip", "requires the check bucket");
        report.says("cors", "skip", "requires the check bucket");
    }
    assert_eq!(backend.strict_s3().calls("PutObject"), 0);
}

#[tokio::test]
async fn missing_credentials_and_wrong_settings_are_reported() {
    let backend = Backend::strict().await;
    let mut command = doctor(&backend, &backend.endpoint, &[]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let report = Report::of(command).await;
    assert_eq!((report.code, report.failed()), (1, vec!["credentials"]));
    report.says("credentials", "fail", "set AWS_ACCESS_KEY_ID");
    let report = Report::of(doctor(&backend, &backend.endpoint, &[("PART_SIZE", "1")])).await;
    assert_eq!((report.code, report.lines.len()), (2, 0));
}

/// Uses /dev/shm, a tmpfs, if it exists.
#[tokio::test]
async fn spill_folder_on_tmpfs_fails() {
    if !std::path::Path::new("/dev/shm").exists() {
        eprintln!("skipped: /dev/shm does not exist");
        return;
    }
    let backend = Backend::strict().await;
    let report = Report::of(doctor(&backend, &backend.endpoint, &[("SPILL_DIR", "/dev/shm")])).await;
    assert_eq!(report.failed(), ["spill"]);
    report.says("spill", "fail", "tmpfs");
    let report = Report::of(doctor(&backend, &backend.endpoint, &[("SPILL_BUDGET", "0")])).await;
    report.says("spill", "ok", "SPILL_BUDGET=0");
}
