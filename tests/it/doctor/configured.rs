//! Checks of the bucket's configuration: CORS, lifecycle rules, versioning, region.

use std::time::{Duration, SystemTime};

use super::{DENIED, Report, behind_faults, doctor};
use crate::support::backend::Backend;
use crate::support::faults::{Action, Faults, Operation};

#[tokio::test]
async fn cors_is_checked_with_a_browser_preflight() {
    let backend = Backend::embedded().await;
    let faults = Faults::before(&backend.endpoint).await;
    for (setting, origin, verdict) in [
        ("CORS_ALLOW_ORIGIN", "https://pages.example", "ok"),
        ("CORS_ALLOW_ORIGIN", "https://pages.example,https://other.example", "fail"),
        ("CORS_ALLOW_ORIGIN", "*", "fail"),
        // The service's own page works without it.
        ("PUBLIC_URL", "https://other.example/images", "warn"),
    ] {
        let settings = [("S3_PUBLIC_ENDPOINT_URL", faults.endpoint.as_str()), (setting, origin)];
        let report = Report::of(doctor(&backend, &backend.endpoint, &settings)).await;
        assert_eq!(report.verdict("cors"), verdict, "{origin}: {:#?}", report.line("cors"));
        assert_eq!(report.code, i32::from(verdict == "fail"));
    }
    let preflight = &faults.headers(Operation::Preflight)[0];
    assert_eq!(preflight["origin"], "https://pages.example");
    assert_eq!(preflight["access-control-request-method"], "PUT");
    assert_eq!(preflight["access-control-request-headers"], "content-type,if-none-match");
    backend.check_clean().await;
}

#[tokio::test]
async fn cors_that_allows_put_but_not_get_fails() {
    let refused = [
        (Action::SetHeader("access-control-allow-origin", "https://other.example"), "does not allow the origin"),
        (DENIED, "has status 403 AccessDenied"),
    ];
    for (action, why) in refused {
        let backend = Backend::embedded().await;
        let faults = Faults::before(&backend.endpoint).await;
        // The first GET is that of `presigned-get`, which has no Origin.
        faults.fail(Operation::Get, 2..=2, action);
        let settings =
            [("S3_PUBLIC_ENDPOINT_URL", faults.endpoint.as_str()), ("CORS_ALLOW_ORIGIN", "https://pages.example")];
        let report = Report::of(doctor(&backend, &backend.endpoint, &settings)).await;
        assert_eq!(report.failed(), ["cors"], "{:#?}", report.lines);
        report.says("cors", "fail", &format!("a GET from https://pages.example {why}"));
        let [by_client, by_page] = &faults.headers(Operation::Get)[..] else { panic!("two GETs") };
        assert_eq!((by_client.get("origin"), &by_page["origin"]), (None, &"https://pages.example".parse().unwrap()));
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn lifecycle_rules_are_read() {
    const RULES: &str = "<LifecycleConfiguration>
        <Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>
            <AbortIncompleteMultipartUpload><DaysAfterInitiation>2</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>
        <Rule><ID>b</ID><Status>Enabled</Status><Filter><Prefix>images/incoming/</Prefix></Filter>
            <Expiration><Days>1</Days></Expiration></Rule>
        <Rule><ID>c</ID><Status>Disabled</Status><Filter><Prefix></Prefix></Filter><Expiration><Days>3</Days></Expiration></Rule>
        <Rule><ID>d</ID><Status>Enabled</Status><Prefix>elsewhere/</Prefix><Expiration><Days>4</Days></Expiration></Rule>
        </LifecycleConfiguration>";
    const DATED: &str = "<LifecycleConfiguration>
        <Rule><ID>e</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>
            <Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration></Rule>
        </LifecycleConfiguration>";
    const NONE: &str = "<Error><Code>NoSuchLifecycleConfiguration</Code></Error>";
    for (action, verdict, words) in [
        (Action::Answer(200, RULES), "ok", "aborted after 2 d, images/incoming/ expires after 1 d"),
        (Action::Answer(200, DATED), "warn", "deletes images on 2030-01-01T00:00:00Z"),
        (Action::Answer(404, NONE), "warn", "expire images/incoming/"),
        (DENIED, "warn", "s3:GetLifecycleConfiguration"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::Lifecycle, action);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[("S3_PREFIX", "images/")])).await;
        report.says("lifecycle", verdict, words);
        assert_eq!(report.code, 0);
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn wrong_region_and_wrong_clock_are_reported() {
    let ago = |minutes: u64| {
        let then = SystemTime::now() - Duration::from_secs(minutes * 60);
        &*httpdate::fmt_http_date(then).leak()
    };
    for (minutes, verdict) in [(2, "warn"), (20, "fail")] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::HeadBucket, Action::SetHeader("date", ago(minutes)));
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        report.says("clock", verdict, "ahead of the store's");
        report.says("clock", verdict, "NTP");
    }
    let (backend, faults) = behind_faults().await;
    faults.fail_all(Operation::HeadBucket, Action::SetHeader("x-amz-bucket-region", "eu-north-1"));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
    report.says("region", "warn", "set AWS_REGION=eu-north-1");
    assert_eq!((report.code, report.verdict("bucket")), (0, "ok"));
    let report = Report::of(doctor(&backend, &faults.endpoint, &[("AWS_SECRET_ACCESS_KEY", "wrong")])).await;
    report.says("region", "fail", "set AWS_REGION=eu-north-1");
    let report = Report::of(doctor(&backend, &faults.endpoint, &[("AWS_REGION", "eu-north-1")])).await;
    report.says("region", "ok", "eu-north-1");
}

#[tokio::test]
async fn versioning_is_reported() {
    const ENABLED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    const SUSPENDED: &str = "<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    const NEVER: &str = "<VersioningConfiguration/>";
    const KEPT: &str = "except old versions";
    for (action, verdict, words, left) in [
        (Action::Answer(200, ENABLED), "warn", "NoncurrentVersionExpiration", KEPT),
        (Action::Answer(200, SUSPENDED), "warn", "NoncurrentVersionExpiration", KEPT),
        (Action::Answer(200, NEVER), "ok", "off", "left behind\""),
        (DENIED, "warn", "s3:GetBucketVersioning", "unless the bucket keeps old versions"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::Versioning, action);
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        report.says("versioning", verdict, words);
        report.says("cleanup", "ok", left);
        assert_eq!(report.code, 0);
        backend.check_clean().await;
    }
}

#[tokio::test]
async fn versioning_with_expiration_rule_is_ok() {
    const VERSIONED: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let rule = |kept: &str| {
        let rule = format!(
            "<LifecycleConfiguration><Rule><ID>a</ID><Status>Enabled</Status><Filter><Prefix></Prefix></Filter>
             <NoncurrentVersionExpiration>{kept}<NoncurrentDays>3</NoncurrentDays></NoncurrentVersionExpiration></Rule>
             </LifecycleConfiguration>"
        );
        &*rule.leak()
    };
    for (kept, verdict, words) in [
        ("", "ok", "removed after 3 d"),
        ("<NewerNoncurrentVersions>2</NewerNoncurrentVersions>", "warn", "NoncurrentVersionExpiration"),
    ] {
        let (backend, faults) = behind_faults().await;
        faults.fail_all(Operation::Versioning, Action::Answer(200, VERSIONED));
        faults.fail_all(Operation::Lifecycle, Action::Answer(200, rule(kept)));
        let report = Report::of(doctor(&backend, &faults.endpoint, &[])).await;
        report.says("versioning", verdict, words);
        backend.check_clean().await;
    }
}
