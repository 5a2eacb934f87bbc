//! One client, which sends a form of a given size at a given rate and reads the status of the response.

use std::io::Result;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{MissedTickBehavior, interval};

const IMAGE: &[u8] = include_bytes!("../../../../../tests/fixtures/plain.png");
const BOUNDARY: &str = "a-boundary-of-a-load-test";
/// Interval at which a slow client sends.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that a fast client writes at once. Its image repeats a block of this size.
const BLOCK: usize = 256 << 10;

#[derive(Clone)]
pub struct Client {
    /// Size of the image in bytes.
    pub size: u64,
    /// Bytes a second. 0 means as fast as possible.
    pub rate: u64,
}

#[derive(Debug)]
pub struct Outcome {
    /// Time before connecting.
    pub started: Instant,
    /// `None` if there was no response.
    pub status: Option<u16>,
    /// Time from before connecting to the response's headers.
    pub took: Duration,
}

impl Client {
    pub async fn repeatedly(&self, address: &str, times: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for _ in 0..times {
            outcomes.push(self.upload(address).await);
        }
        outcomes
    }

    pub async fn upload(&self, address: &str) -> Outcome {
        let started = Instant::now();
        let status = self.exchange(address).await.ok();
        Outcome { started, status, took: started.elapsed() }
    }

    /// Sends the form until the response arrives. A rejection arrives before the end of the form.
    async fn exchange(&self, address: &str) -> Result<u16> {
        let (mut reader, mut writer) = TcpStream::connect(address).await?.into_split();
        let response = status(&mut reader);
        tokio::pin!(response);
        tokio::select! {
            biased;
            early = &mut response => return early,
            // A response may have arrived even if the connection breaks.
            _ = self.send(&mut writer) => {}
        }
        response.await
    }

    async fn send(&self, writer: &mut OwnedWriteHalf) -> Result<()> {
        let head = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.png\"\r\n\
             content-type: image/png\r\n\r\n"
        );
        let tail = format!("\r\n--{BOUNDARY}--\r\n");
        let length = head.len() as u64 + self.size + tail.len() as u64;
        let request = format!(
            "POST /upload-image HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\
             content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n{head}"
        );
        writer.write_all(request.as_bytes()).await?;
        writer.write_all(IMAGE).await?;
        self.send_rest(writer, self.size - IMAGE.len() as u64).await?;
        writer.write_all(tail.as_bytes()).await
    }

    async fn send_rest(&self, writer: &mut OwnedWriteHalf, mut left: u64) -> Result<()> {
        let per_tick = self.rate * TICK.as_millis() as u64 / 1000;
        let block = noise(if self.rate == 0 { BLOCK } else { per_tick as usize });
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        while left > 0 {
            if self.rate > 0 {
                ticks.tick().await;
            }
            let now = left.min(block.len() as u64);
            writer.write_all(&block[..now as usize]).await?;
            left -= now;
        }
        Ok(())
    }
}

/// Returns pseudo-random bytes.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(size).collect()
}

/// Reads the status of the response.
async fn status(reader: &mut OwnedReadHalf) -> Result<u16> {
    let mut head = Vec::new();
    loop {
        if reader.read_buf(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        if let Some(status) = line.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            return Ok(status);
        }
    }
}
