//! Lambda's Runtime API, the required part of its Extensions API, and the real binary that uses them.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::Value;
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::app::until;
use super::{BoxError, Server, serve};

/// How an invocation ended.
#[derive(Debug)]
pub enum Outcome {
    Response(Value),
    /// Lambda retries asynchronous invocations that end with an error.
    Error(Value),
}

impl Outcome {
    pub fn response(self) -> Value {
        match self {
            Outcome::Response(value) => value,
            Outcome::Error(error) => panic!("the invocation failed: {error}"),
        }
    }

    pub fn error(self) -> Value {
        match self {
            Outcome::Error(error) => error,
            Outcome::Response(value) => panic!("the invocation succeeded: {value}"),
        }
    }
}

struct Next {
    id: String,
    deadline: SystemTime,
    payload: Bytes,
}

struct Shared {
    queue: tokio::sync::Mutex<UnboundedReceiver<Next>>,
    /// The receivers of the outcomes, by invocation ID.
    waiting: Mutex<HashMap<String, oneshot::Sender<Outcome>>>,
    registered: Mutex<bool>,
}

/// A running function. [`Function::end`] stops it.
pub struct Function {
    events: UnboundedSender<Next>,
    shared: Arc<Shared>,
    child: Child,
    log: Arc<Mutex<String>>,
    count: AtomicUsize,
    _server: Server,
}

/// An invocation that was started and may not have ended.
pub struct Invocation {
    id: String,
    timeout: Duration,
    outcome: oneshot::Receiver<Outcome>,
}

impl Invocation {
    /// Waits for the outcome. Panics if the function does not answer by the deadline or within 30 seconds.
    pub async fn outcome(self) -> Outcome {
        let longest = self.timeout.min(Duration::from_secs(30));
        let outcome = tokio::time::timeout(longest, self.outcome).await;
        outcome.unwrap_or_else(|_| panic!("{} is not answered in time", self.id)).unwrap()
    }

    pub fn is_answered(&mut self) -> bool {
        !matches!(self.outcome.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

impl Function {
    /// Starts the binary with `environment` in addition to the variables that Lambda sets.
    pub async fn start(environment: &[(&str, &str)]) -> Function {
        let (events, queue) = unbounded_channel();
        let shared = Arc::new(Shared { queue: queue.into(), waiting: Mutex::default(), registered: Mutex::new(false) });
        let service = Arc::clone(&shared);
        let server = serve(service_fn(move |request| answer(Arc::clone(&service), request))).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_image-store"));
        command
            .env("AWS_LAMBDA_RUNTIME_API", server.endpoint.trim_start_matches("http://"))
            .env("AWS_LAMBDA_FUNCTION_NAME", "images")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("LOG_FORMAT", "json")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        collect(child.stderr.take().unwrap(), Arc::clone(&log));
        until("the function registers its extension", || *shared.registered.lock().unwrap()).await;
        Function { events, shared, child, log, count: AtomicUsize::new(0), _server: server }
    }

    /// Invokes the function with plenty of time.
    pub async fn invoke(&self, event: &Value) -> Outcome {
        self.invoke_within(event, Duration::from_secs(30)).await
    }

    /// Invokes the function with `timeout` left until the deadline. Panics if it does not answer by then.
    pub async fn invoke_within(&self, event: &Value, timeout: Duration) -> Outcome {
        self.begin(event, timeout).outcome().await
    }

    /// Queues an event. The function receives it with its next request for an event.
    pub fn begin(&self, event: &Value, timeout: Duration) -> Invocation {
        let id = format!("invocation-{}", self.count.fetch_add(1, Ordering::Relaxed) + 1);
        let (sender, outcome) = oneshot::channel();
        self.shared.waiting.lock().unwrap().insert(id.clone(), sender);
        let payload = serde_json::to_vec(event).unwrap().into();
        self.events.send(Next { id: id.clone(), deadline: SystemTime::now() + timeout, payload }).unwrap();
        Invocation { id, timeout, outcome }
    }

    /// Stops the process, as Lambda does between invocations.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends SIGTERM and returns the log. Panics if the function does not exit with success.
    pub async fn end(mut self) -> String {
        self.signal("-TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the function does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let log = self.log();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut stderr: std::process::ChildStderr, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = std::io::Read::read(&mut stderr, &mut buffer) {
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    });
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, BoxError> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/2020-01-01/extension/register") => {
            *shared.registered.lock().unwrap() = true;
            let body = r#"{"functionName": "images", "functionVersion": "$LATEST", "handler": "bootstrap"}"#;
            Ok(Response::builder().header("lambda-extension-identifier", "1").body(body.into())?)
        }
        // The extension subscribes to no events.
        (&Method::GET, "/2020-01-01/extension/event/next") => std::future::pending().await,
        (&Method::GET, "/2018-06-01/runtime/invocation/next") => {
            let next = shared.queue.lock().await.recv().await.ok_or("no more events")?;
            Ok(Response::builder()
                .header("lambda-runtime-aws-request-id", next.id)
                .header("lambda-runtime-deadline-ms", next.deadline.duration_since(UNIX_EPOCH)?.as_millis().to_string())
                .header("lambda-runtime-invoked-function-arn", "arn:aws:lambda:eu-north-1:123456789012:function:images")
                .body(Full::from(next.payload))?)
        }
        (&Method::POST, path) => {
            let path = path.strip_prefix("/2018-06-01/runtime/invocation/").ok_or("an unknown path")?;
            let (id, kind) = path.rsplit_once('/').ok_or("an unknown path")?;
            let body = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
            let outcome = if kind == "response" { Outcome::Response(body) } else { Outcome::Error(body) };
            let waiting = shared.waiting.lock().unwrap().remove(id).ok_or("an unknown invocation")?;
            // The test may have dropped the receiver.
            let _ = waiting.send(outcome);
            Ok(Response::builder().status(StatusCode::ACCEPTED).body(Full::default())?)
        }
        _ => Err("an unknown path".into()),
    }
}
