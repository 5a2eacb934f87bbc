//! A proxy in front of any S3 that makes selected calls fail, and records all calls.
//!
//! It forwards requests unchanged, including `Host`, so that signatures remain valid. Bodies are streamed.
//!
//! ```ignore
//! let faults = Faults::before(&backend.endpoint).await;
//! let store = backend.store_at(&faults.endpoint).await;
//! faults.fail(Operation::Complete, 1..=1, Action::LoseAnswer);
//! // … S3 processes the first CompleteMultipartUpload, but its answer never arrives.
//! assert_eq!(faults.calls(Operation::Complete), 2);
//! ```

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{BoxError, Server, serve};

/// An S3 operation, recognised by its method, query and headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Put,
    Create,
    UploadPart,
    Complete,
    Abort,
    ListParts,
    Head,
    Get,
    Copy,
    Delete,
    ListObjects,
    ListUploads,
    HeadBucket,
    Lifecycle,
    Versioning,
    Preflight,
    Other,
}

impl Operation {
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Operation {
        let has =
            |name: &str| uri.query().unwrap_or_default().split('&').any(|pair| pair.split('=').next() == Some(name));
        let has_key = uri.path().trim_matches('/').contains('/');
        match method.as_str() {
            "POST" if has("uploads") => Operation::Create,
            "POST" if has("uploadId") => Operation::Complete,
            "PUT" if headers.contains_key("x-amz-copy-source") => Operation::Copy,
            "PUT" if has("partNumber") => Operation::UploadPart,
            "PUT" => Operation::Put,
            "DELETE" if has("uploadId") => Operation::Abort,
            "DELETE" => Operation::Delete,
            "HEAD" if has_key => Operation::Head,
            "HEAD" => Operation::HeadBucket,
            "GET" if has("uploadId") => Operation::ListParts,
            "GET" if has("uploads") => Operation::ListUploads,
            "GET" if has("lifecycle") => Operation::Lifecycle,
            "GET" if has("versioning") => Operation::Versioning,
            "GET" if has_key => Operation::Get,
            "GET" => Operation::ListObjects,
            "OPTIONS" => Operation::Preflight,
            _ => Operation::Other,
        }
    }
}

/// What happens to a call instead of the normal answer.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// Reads the body, forwards nothing, and answers this status with an XML error of a matching code.
    Status(u16),
    /// Reads the body, forwards nothing, and answers this status and body.
    Answer(u16, &'static str),
    /// Forwards the call, and sets this header in the answer.
    SetHeader(&'static str, &'static str),
    /// Forwards nothing and answers nothing.
    Hang,
    /// Forwards the call, but drops its answer.
    LoseAnswer,
    /// Forwards nothing, and breaks the connection at once.
    Break,
    /// Forwards the call after this time.
    Delay(Duration),
    /// Forwards the call when [`Faults::release`] is called.
    Hold,
    /// Reads the body, and forwards the call when [`Faults::release`] is called, even if its sender has given up by
    /// then. Answers nothing.
    Late,
}

#[derive(Clone, Debug)]
struct Rule {
    operation: Operation,
    nth: RangeInclusive<usize>,
    action: Action,
}

/// The proxy. It runs until it is dropped.
pub struct Faults {
    pub endpoint: String,
    shared: Arc<Shared>,
    _server: Server,
}

struct Shared {
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    seen: watch::Sender<Vec<(Operation, HeaderMap)>>,
    released: watch::Sender<bool>,
}

impl Faults {
    /// Starts a proxy in front of `endpoint` (`http://host:port`).
    pub async fn before(endpoint: &str) -> Faults {
        let upstream = endpoint.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let shared = Arc::new(Shared {
            upstream,
            rules: Mutex::default(),
            seen: watch::Sender::default(),
            released: watch::Sender::default(),
        });
        let service = shared.clone();
        let server = serve(service_fn(move |request| answer(service.clone(), request))).await;
        Faults { endpoint: server.endpoint.clone(), shared, _server: server }
    }

    /// Applies `action` to the calls of `operation` numbered `nth`, counted from 1 since the start. If several rules
    /// match, the first one added applies.
    pub fn fail(&self, operation: Operation, nth: RangeInclusive<usize>, action: Action) {
        self.shared.rules.lock().unwrap().push(Rule { operation, nth, action });
    }

    /// Applies `action` to every further call of `operation`.
    pub fn fail_all(&self, operation: Operation, action: Action) {
        self.fail(operation, self.calls(operation) + 1..=usize::MAX, action);
    }

    /// Applies `action` to the next call of `operation`.
    pub fn fail_once(&self, operation: Operation, action: Action) {
        let next = self.calls(operation) + 1;
        self.fail(operation, next..=next, action);
    }

    /// Removes all rules. The counts remain.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Releases every call that is held, and all later ones.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// Returns how many calls of `operation` have arrived, including failed ones.
    pub fn calls(&self, operation: Operation) -> usize {
        count(&self.shared.seen.borrow(), operation)
    }

    /// Returns the headers of the calls of `operation`, in order.
    pub fn headers(&self, operation: Operation) -> Vec<HeaderMap> {
        let seen = self.shared.seen.borrow();
        seen.iter().filter(|(seen, _)| *seen == operation).map(|(_, headers)| headers.clone()).collect()
    }

    /// Waits until `calls` calls of `operation` have arrived.
    ///
    /// # Panics
    /// If they have not arrived after thirty seconds.
    pub async fn wait_for(&self, operation: Operation, calls: usize) {
        let mut seen = self.shared.seen.subscribe();
        let arrived = seen.wait_for(|seen| count(seen, operation) >= calls);
        let arrived = tokio::time::timeout(Duration::from_secs(30), arrived).await;
        arrived.unwrap_or_else(|_| panic!("{calls} calls of {operation:?} did not arrive within 30 s")).unwrap();
    }
}

fn count(seen: &[(Operation, HeaderMap)], operation: Operation) -> usize {
    seen.iter().filter(|(seen, _)| *seen == operation).count()
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, BoxError> {
    let operation = Operation::of(request.method(), request.uri(), request.headers());
    let mut nth = 0;
    shared.seen.send_modify(|seen| {
        seen.push((operation, request.headers().clone()));
        nth = count(seen, operation);
    });
    let action = {
        let rules = shared.rules.lock().unwrap();
        rules.iter().find(|rule| rule.operation == operation && rule.nth.contains(&nth)).map(|rule| rule.action)
    };
    match action {
        None => forward(&shared.upstream, request).await,
        Some(Action::Delay(time)) => {
            tokio::time::sleep(time).await;
            forward(&shared.upstream, request).await
        }
        Some(Action::Hold) => {
            shared.released.subscribe().wait_for(|released| *released).await?;
            forward(&shared.upstream, request).await
        }
        Some(Action::Late) => {
            let (head, body) = request.into_parts();
            let request = Request::from_parts(head, Full::from(body.collect().await?.to_bytes()));
            tokio::spawn(async move {
                shared.released.subscribe().wait_for(|released| *released).await?;
                forward(&shared.upstream, request).await?.into_body().collect().await
            });
            std::future::pending().await
        }
        Some(Action::Hang) => std::future::pending().await,
        Some(Action::Break) => Err("broken on purpose".into()),
        Some(Action::LoseAnswer) => {
            forward(&shared.upstream, request).await?.into_body().collect().await?;
            Err("the answer is lost on purpose".into())
        }
        Some(Action::Status(status)) => {
            // If the proxy answered before it has read the body, the sender might see a reset instead.
            request.into_body().collect().await?;
            Ok(refusal(StatusCode::from_u16(status)?))
        }
        Some(Action::Answer(status, body)) => {
            request.into_body().collect().await?;
            Ok(Response::builder().status(status).body(Either::Right(Full::from(body)))?)
        }
        Some(Action::SetHeader(name, value)) => {
            let mut answer = forward(&shared.upstream, request).await?;
            answer.headers_mut().insert(name, value.parse()?);
            Ok(answer)
        }
    }
}

async fn forward<B>(upstream: &str, request: Request<B>) -> Result<Answer, BoxError>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.map(Either::Left))
}

fn refusal(status: StatusCode) -> Answer {
    let code = match status.as_u16() {
        403 => "AccessDenied",
        500 => "InternalError",
        503 => "SlowDown",
        _ => "Fault",
    };
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>");
    let mut response = Response::new(Either::Right(Full::from(body)));
    *response.status_mut() = status;
    response
}
