//! The list of checks, in the order in which they run.

use futures::future::LocalBoxFuture;

use super::context::Context;
use super::report::Outcome;
use super::{bucket, cors, lifecycle, local, multipart, objects, presigned, versioning};

pub struct Check {
    pub name: &'static str,
    /// The checks that must have succeeded, because otherwise this one would only fail for the same reason.
    pub needs: &'static [&'static str],
    pub run: Run,
}

type Run = for<'a> fn(&'a Context<'_>) -> LocalBoxFuture<'a, Outcome>;

/// All checks. A check that is not listed here is dead code, which the lints reject.
pub const CHECKS: &[Check] = &[
    check("spill", &[], |context| Box::pin(async { local::spill(&context.config.upload) })),
    check("credentials", &[], |context| Box::pin(bucket::credentials(context))),
    check("clock", &["credentials"], |context| Box::pin(bucket::clock(context))),
    check("region", &["credentials"], |context| Box::pin(bucket::region(context))),
    check("bucket", &["credentials"], |context| Box::pin(bucket::bucket(context))),
    // Runs before any object is created, because the report of the clean-up depends on it.
    check("versioning", &["bucket"], |context| Box::pin(versioning::versioning(context))),
    check("list", &["bucket"], |context| Box::pin(bucket::list(context))),
    check("put", &["bucket"], |context| Box::pin(objects::put(context))),
    check("put-once", &["put"], |context| Box::pin(objects::put_once(context))),
    check("head", &["put"], |context| Box::pin(objects::head(context))),
    check("get", &["put"], |context| Box::pin(objects::get(context))),
    check("checksum", &["put"], |context| Box::pin(objects::checksum(context))),
    check("delete", &["put"], |context| Box::pin(objects::delete(context))),
    check("multipart", &["bucket"], |context| Box::pin(multipart::multipart(context))),
    check("copy", &["put", "head", "multipart"], |context| Box::pin(objects::copy(context))),
    check("put-if-match", &["put"], |context| Box::pin(objects::put_if_match(context))),
    check("list-parts", &["multipart"], |context| Box::pin(multipart::list_parts(context))),
    check("abort", &["multipart"], |context| Box::pin(multipart::abort(context))),
    check("complete-once", &["multipart", "put"], |context| Box::pin(multipart::complete_once(context))),
    check("ends-once", &["abort"], |context| Box::pin(multipart::ends_once(context))),
    check("presigned-put", &["bucket"], |context| Box::pin(presigned::put(context))),
    check("sha256", &["presigned-put"], |context| Box::pin(presigned::sha256(context))),
    check("presigned-part", &["list-parts"], |context| Box::pin(presigned::part(context))),
    check("presigned-get", &["put"], |context| Box::pin(presigned::get(context))),
    check("cors", &["bucket", "put"], |context| Box::pin(cors::cors(context))),
    check("lifecycle", &["bucket"], |context| Box::pin(lifecycle::lifecycle(context))),
];

const fn check(name: &'static str, needs: &'static [&'static str], run: Run) -> Check {
    Check { name, needs, run }
}

#[cfg(test)]
mod tests {
    use super::CHECKS;

    #[test]
    fn checks_need_only_what_runs_before_them() {
        let mut before: Vec<&str> = Vec::new();
        for check in CHECKS {
            for needed in check.needs {
                assert!(before.contains(needed), "{} needs {needed}", check.name);
            }
            assert!(!before.contains(&check.name), "{} is listed twice", check.name);
            before.push(check.name);
        }
    }

    #[test]
    fn troubleshooting_page_explains_all_checks() {
        let page = include_str!("../../../docs/troubleshooting.md");
        let (_, findings) = page.split_once("## Findings of doctor\n").unwrap();
        let headings = findings.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
        let names = CHECKS.iter().map(|check| check.name).chain(["cleanup"]);
        assert!(headings.eq(names), "docs/troubleshooting.md must explain the checks of `CHECKS`, in their order");
    }
}
