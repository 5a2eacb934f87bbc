//! `image-store healthcheck`: checks that the service on this machine answers, for containers without a shell.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

use crate::error::BoxError;

/// Shorter than the usual timeouts of health checks (Docker: 30 s, Kubernetes: 1 s or more).
const TIMEOUT: Duration = Duration::from_secs(3);

/// Sends `GET /healthz` to the service that listens on `address`. It does not use `/readyz`, because a restart does not
/// help if the store cannot be reached.
///
/// # Errors
/// Returns an error unless the service answers with 200 in time.
pub async fn check(address: SocketAddr) -> Result<(), String> {
    let address = reachable(address);
    let problem = match tokio::time::timeout(TIMEOUT, status(address)).await {
        Ok(Ok(StatusCode::OK)) => return Ok(()),
        Ok(Ok(status)) => format!("answers {status}"),
        Ok(Err(error)) => format!("cannot be reached: {error}"),
        Err(_) => format!("does not answer within {} s", TIMEOUT.as_secs()),
    };
    Err(format!("http://{address}/healthz {problem}"))
}

/// Returns the loopback address for a service that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

async fn status(address: SocketAddr) -> Result<StatusCode, BoxError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/healthz").header(header::HOST, address.to_string()).body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?.status())
}
