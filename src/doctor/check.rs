//! The checks, in the order they run.

use super::report::Outcome;
use super::subject::Subject;
use super::{bucket, cors, lifecycle, local, multipart, objects, presigned};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Spill,
    Credentials,
    Clock,
    Region,
    Bucket,
    List,
    Put,
    PutOnce,
    Head,
    Get,
    Checksum,
    Copy,
    Delete,
    Multipart,
    Abort,
    PresignedPut,
    PresignedPart,
    PresignedGet,
    Cors,
    Lifecycle,
}

impl Check {
    pub const ALL: [Check; 20] = [
        Check::Spill,
        Check::Credentials,
        Check::Clock,
        Check::Region,
        Check::Bucket,
        Check::List,
        Check::Put,
        Check::PutOnce,
        Check::Head,
        Check::Get,
        Check::Checksum,
        Check::Copy,
        Check::Delete,
        Check::Multipart,
        Check::Abort,
        Check::PresignedPut,
        Check::PresignedPart,
        Check::PresignedGet,
        Check::Cors,
        Check::Lifecycle,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Check::Spill => "spill",
            Check::Credentials => "credentials",
            Check::Clock => "clock",
            Check::Region => "region",
            Check::Bucket => "bucket",
            Check::List => "list",
            Check::Put => "put",
            Check::PutOnce => "put-once",
            Check::Head => "head",
            Check::Get => "get",
            Check::Checksum => "checksum",
            Check::Copy => "copy",
            Check::Delete => "delete",
            Check::Multipart => "multipart",
            Check::Abort => "abort",
            Check::PresignedPut => "presigned-put",
            Check::PresignedPart => "presigned-part",
            Check::PresignedGet => "presigned-get",
            Check::Cors => "cors",
            Check::Lifecycle => "lifecycle",
        }
    }

    /// What must not have failed, else this would only fail for the same reason.
    pub fn needs(self) -> &'static [Check] {
        match self {
            Check::Spill | Check::Credentials => &[],
            Check::Clock | Check::Region | Check::Bucket => &[Check::Credentials],
            Check::List | Check::Put | Check::Multipart | Check::PresignedPut | Check::Cors | Check::Lifecycle => {
                &[Check::Bucket]
            }
            Check::PutOnce | Check::Head | Check::Get | Check::Checksum | Check::Delete | Check::PresignedGet => {
                &[Check::Put]
            }
            Check::Copy => &[Check::Put, Check::Head],
            Check::Abort | Check::PresignedPart => &[Check::Multipart],
        }
    }

    pub async fn run(self, subject: &Subject<'_>) -> Outcome {
        match self {
            Check::Spill => local::spill(&subject.config.sink),
            Check::Credentials => bucket::credentials(subject).await,
            Check::Clock => bucket::clock(subject).await,
            Check::Region => bucket::region(subject).await,
            Check::Bucket => bucket::bucket(subject).await,
            Check::List => bucket::list(subject).await,
            Check::Put => objects::put(subject).await,
            Check::PutOnce => objects::put_once(subject).await,
            Check::Head => objects::head(subject).await,
            Check::Get => objects::get(subject).await,
            Check::Checksum => objects::checksum(subject).await,
            Check::Copy => objects::copy(subject).await,
            Check::Delete => objects::delete(subject).await,
            Check::Multipart => multipart::multipart(subject).await,
            Check::Abort => multipart::abort(subject).await,
            Check::PresignedPut => presigned::put(subject).await,
            Check::PresignedPart => presigned::part(subject).await,
            Check::PresignedGet => presigned::get(subject).await,
            Check::Cors => cors::cors(subject).await,
            Check::Lifecycle => lifecycle::lifecycle(subject).await,
        }
    }
}
