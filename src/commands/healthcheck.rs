//! `image-store healthcheck`: asks the service on this machine whether it answers, for containers without a shell.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

use crate::error::BoxError;

/// Below what those who ask usually wait themselves (Docker: 30 s, Kubernetes: 1 s and up).
const TIMEOUT: Duration = Duration::from_secs(3);

/// `GET /healthz` of the service that listens on `address`. Not `/readyz`: a restart cures no store that is out of reach.
///
/// # Errors
/// Where it does not answer 200 in time.
pub async fn check(address: SocketAddr) -> Result<(), String> {
    let address = reachable(address);
    let trouble = match tokio::time::timeout(TIMEOUT, status(address)).await {
        Ok(Ok(StatusCode::OK)) => return Ok(()),
        Ok(Ok(status)) => format!("answers {status}"),
        Ok(Err(error)) => format!("cannot be asked: {error}"),
        Err(_) => format!("does not answer within {} s", TIMEOUT.as_secs()),
    };
    Err(format!("http://{address}/healthz {trouble}"))
}

/// A service that listens on every address is asked on the loopback.
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
