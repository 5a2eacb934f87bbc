//! An HTTP client on a plain socket, which can stop in the middle of a request.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const BOUNDARY: &str = "----boundary";

/// Returns the head of a form upload whose body is `length` bytes.
pub fn head(length: usize, extra: &str) -> String {
    format!(
        "POST /upload-image HTTP/1.1\r\nhost: localhost\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n\
         content-length: {length}\r\n{extra}\r\n"
    )
}

/// Returns a form with one file.
pub fn form(file_name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut form = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    form.extend_from_slice(bytes);
    form.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    form
}

/// Returns the key in the answer to an upload.
pub fn s3_key(answer: &str) -> String {
    let key = answer.split("\"s3_key\":\"").nth(1).and_then(|rest| rest.split('"').next());
    key.unwrap_or_else(|| panic!("no key in {answer}")).to_owned()
}

pub struct RawClient(TcpStream);

impl RawClient {
    pub async fn connect(address: &str) -> Self {
        RawClient(TcpStream::connect(address).await.unwrap())
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Like [`RawClient::send`], but the service may stop reading.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.write_all(bytes.as_ref()).await
    }

    /// Closes the sending half of the connection. Reading remains possible.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Resets the connection, as a killed process with unread data does.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)).unwrap();
    }

    /// Reads until the service closes the connection, within 20 s.
    pub async fn read_to_end(&mut self) -> String {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), self.0.read_to_end(&mut answer)).await;
        read.expect("the connection is closed within 20 s").expect("the connection is not reset");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Reads the head of the next answer and the part of its body that arrives with it.
    pub async fn read_answer(&mut self) -> String {
        let mut answer = vec![0; 64 << 10];
        let read = tokio::time::timeout(Duration::from_secs(20), self.0.read(&mut answer)).await;
        let len = read.expect("an answer within 20 s").expect("the connection is not reset");
        String::from_utf8_lossy(&answer[..len]).into_owned()
    }
}
