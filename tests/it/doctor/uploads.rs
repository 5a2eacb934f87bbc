//! Multipart uploads on stores that implement only part of S3.

use super::{Report, behind_faults, doctor};
use crate::support::faults::{Action, Operation};

#[tokio::test]
async fn upload_that_can_end_twice_is_reported() {
    const COMPLETED: &str = "<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>";
    // `multipart` and `copy` send one Complete each. The next are those of `complete-once`, then of `ends-once` after
    // an abort.
    for (nth, check, verdict, words) in [
        (3, "complete-once", "warn", "If-None-Match is ignored by CompleteMultipartUpload"),
        (5, "ends-once", "fail", "completed after it was aborted"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail(Operation::Complete, nth..=nth, Action::Answer(200, COMPLETED));
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        report.says(check, verdict, words);
        assert_eq!(report.code, i32::from(verdict == "fail"), "{:#?}", report.lines);
        report.says("cleanup", "ok", "nothing");
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn failing_list_parts_does_not_fail_multipart() {
    const NO_KEY: Action = Action::Answer(404, "<Error><Code>NoSuchKey</Code></Error>");
    let (backend, faults) = behind_faults().await;
    faults.fail_all(Operation::ListParts, Action::Answer(501, "<Error><Code>NotImplemented</Code></Error>"));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!((report.failed(), report.verdict("multipart")), (vec!["list-parts"], "ok"), "{:#?}", report.lines);
    report.says("list-parts", "fail", "DIRECT_PUT_MAX=5GB");
    report.says("presigned-part", "skip", "requires the check list-parts");
    backend.check_clean().await;

    // Ceph answers this for an upload that was aborted.
    let (backend, faults) = behind_faults().await;
    faults.fail(Operation::ListParts, 2..=2, NO_KEY);
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!((report.failed(), report.verdict("abort")), (vec![], "ok"), "{:#?}", report.lines);
    backend.check_clean().await;
}

#[tokio::test]
async fn list_of_objects_instead_of_uploads_fails() {
    let (backend, faults) = behind_faults().await;
    faults.fail_all(Operation::ListUploads, Action::Answer(200, "<ListBucketResult></ListBucketResult>"));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    assert_eq!(report.failed(), ["list"], "{:#?}", report.lines);
    report.says("list", "fail", "unfinished uploads cannot be listed");
    backend.check_clean().await;
}

/// The cause can only be a setting that is sent.
#[tokio::test]
async fn fix_names_settings_in_effect() {
    const UNKNOWN: &str = "<Error><Code>InvalidRequest</Code></Error>";
    for (checksum, sse, named) in [
        ("crc64nvme", "none", "try S3_CHECKSUM=none\""),
        ("crc64nvme", "AES256", "try S3_CHECKSUM=none, then S3_SSE=none\""),
        ("auto", "none", "does not support this call"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::Create, Action::Answer(400, UNKNOWN));
        let settings = [("S3_CHECKSUM", checksum), ("S3_SSE", sse)];
        let report = Report::of(doctor(&backend, &faults.endpoint, &settings)).await;
        report.says("multipart", "fail", named);
        backend.check_clean().await;
    }
}
