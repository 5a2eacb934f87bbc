//! The checks, in the order they run.

use futures::future::LocalBoxFuture;

use super::report::Outcome;
use super::subject::Subject;
use super::{bucket, cors, lifecycle, local, multipart, objects, presigned, versioning};

pub struct Check {
    pub name: &'static str,
    /// The names of what must not have failed, else this would only fail for the same reason.
    pub needs: &'static [&'static str],
    pub run: Run,
}

type Run = for<'a> fn(&'a Subject<'_>) -> LocalBoxFuture<'a, Outcome>;

/// The only place that names them: a check that is not listed is dead code, which the lints refuse.
pub const CHECKS: &[Check] = &[
    check("spill", &[], |subject| Box::pin(async { local::spill(&subject.config.sink) })),
    check("credentials", &[], |subject| Box::pin(bucket::credentials(subject))),
    check("clock", &["credentials"], |subject| Box::pin(bucket::clock(subject))),
    check("region", &["credentials"], |subject| Box::pin(bucket::region(subject))),
    check("bucket", &["credentials"], |subject| Box::pin(bucket::bucket(subject))),
    // Before anything is made: what is said of its removal depends on this.
    check("versioning", &["bucket"], |subject| Box::pin(versioning::versioning(subject))),
    check("list", &["bucket"], |subject| Box::pin(bucket::list(subject))),
    check("put", &["bucket"], |subject| Box::pin(objects::put(subject))),
    check("put-once", &["put"], |subject| Box::pin(objects::put_once(subject))),
    check("head", &["put"], |subject| Box::pin(objects::head(subject))),
    check("get", &["put"], |subject| Box::pin(objects::get(subject))),
    check("checksum", &["put"], |subject| Box::pin(objects::checksum(subject))),
    check("delete", &["put"], |subject| Box::pin(objects::delete(subject))),
    check("multipart", &["bucket"], |subject| Box::pin(multipart::multipart(subject))),
    check("copy", &["put", "head", "multipart"], |subject| Box::pin(objects::copy(subject))),
    check("put-if-match", &["put"], |subject| Box::pin(objects::put_if_match(subject))),
    check("list-parts", &["multipart"], |subject| Box::pin(multipart::list_parts(subject))),
    check("abort", &["multipart"], |subject| Box::pin(multipart::abort(subject))),
    check("complete-once", &["multipart", "put"], |subject| Box::pin(multipart::complete_once(subject))),
    check("ends-once", &["abort"], |subject| Box::pin(multipart::ends_once(subject))),
    check("presigned-put", &["bucket"], |subject| Box::pin(presigned::put(subject))),
    check("sha256", &["presigned-put"], |subject| Box::pin(presigned::sha256(subject))),
    check("presigned-part", &["list-parts"], |subject| Box::pin(presigned::part(subject))),
    check("presigned-get", &["put"], |subject| Box::pin(presigned::get(subject))),
    check("cors", &["bucket", "put"], |subject| Box::pin(cors::cors(subject))),
    check("lifecycle", &["bucket"], |subject| Box::pin(lifecycle::lifecycle(subject))),
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
            assert!(!before.contains(&check.name), "{} is there twice", check.name);
            before.push(check.name);
        }
    }
}
