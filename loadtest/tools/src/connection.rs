//! HTTP/1.1 on one connection, with bodies that nobody reads.

use socket2::SockRef;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::time::Duration;

use super::operations::Answer;

/// What is read at once, where it must be read; also the longest request head.
const BUFFER: usize = 64 << 10;
/// What is dropped at once.
const DRAIN: usize = 1 << 20;
/// Bytes kept of an object.
const KEPT: usize = 256;
/// The longest body that is read as a whole: Complete's list of 10,000 parts.
const MAX_TEXT: usize = 4 << 20;

/// A request whose body has been read.
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// Bytes of the body.
    pub length: u64,
    /// All of a POST's body, else its first [`KEPT`] bytes.
    pub body: Vec<u8>,
    pub close: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where what was read and not yet used lies in the buffer.
    start: usize,
    end: usize,
    drain: Vec<MaybeUninit<u8>>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream, buffer: vec![0; BUFFER], start: 0, end: 0, drain: Vec::new() }
    }

    /// The next request, its body drained; none where the client has closed.
    pub fn next(&mut self) -> Result<Option<Request>> {
        let Some(mut request) = self.head()? else { return Ok(None) };
        let keep = if request.method == "POST" { MAX_TEXT } else { KEPT };
        if request.header("expect").is_some() && self.start == self.end {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        request.body = self.read(request.length.min(keep as u64))?;
        self.skip(request.length - request.body.len() as u64)?;
        Ok(Some(request))
    }

    fn head(&mut self) -> Result<Option<Request>> {
        loop {
            if let Some((request, length)) = parse(&self.buffer[self.start..self.end])? {
                self.start += length;
                return Ok(Some(request));
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads on behind what is there.
    fn fill(&mut self) -> Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            return Err(Error::new(ErrorKind::InvalidData, "a request's head is too long"));
        }
        let read = self.stream.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    fn read(&mut self, length: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(Error::other)?;
        let here = length.min(self.end - self.start);
        let mut bytes = self.buffer[self.start..self.start + here].to_vec();
        self.start += here;
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[here..])?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let here = length.min((self.end - self.start) as u64);
        self.start += usize::try_from(here).map_err(Error::other)?;
        let mut left = length - here;
        while left > 0 {
            match self.drop_some(left)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                dropped => left -= dropped as u64,
            }
        }
        Ok(())
    }

    fn drop_some(&mut self, most: u64) -> Result<usize> {
        self.drain.resize(DRAIN, MaybeUninit::uninit());
        let most = usize::try_from(most).unwrap_or(DRAIN).min(DRAIN);
        SockRef::from(&self.stream).recv_with_flags(&mut self.drain[..most], WITHOUT_A_COPY)
    }

    /// Waits; fails where the client has gone meanwhile.
    pub fn pause(&self, time: Duration) -> Result<()> {
        self.stream.set_read_timeout(Some(time))?;
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(None)?;
        match seen {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(error),
            _ => Ok(()),
        }
    }

    pub fn answer(&mut self, request: &Request, answer: &Answer) -> Result<()> {
        let mut text = Vec::with_capacity(512 + answer.body.len());
        write!(text, "HTTP/1.1 {} {}\r\nserver: null-s3\r\n", answer.status, answer.reason())?;
        for (name, value) in &answer.headers {
            write!(text, "{name}: {value}\r\n")?;
        }
        // What HEAD answers is the object's length, not its body's.
        if !answer.headers.iter().any(|(name, _)| *name == "content-length") && answer.status != 204 {
            write!(text, "content-length: {}\r\n", answer.body.len())?;
        }
        text.extend_from_slice(b"\r\n");
        if request.method != "HEAD" {
            text.extend_from_slice(&answer.body);
        }
        self.stream.write_all(&text)
    }
}

/// A TCP socket's bytes are taken off its queue and not copied (tcp(7)).
#[cfg(target_os = "linux")]
const WITHOUT_A_COPY: libc::c_int = libc::MSG_TRUNC;
#[cfg(not(target_os = "linux"))]
const WITHOUT_A_COPY: libc::c_int = 0;

/// A request's head and its length, once all of it is there.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>> {
    let mut lines = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut lines);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(Error::other)? else { return Ok(None) };
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let headers = head.headers.iter().map(|line| (line.name.to_ascii_lowercase(), text(line.value))).collect();
    let (path, query) = head.path.unwrap_or_default().split_once('?').unwrap_or((head.path.unwrap_or_default(), ""));
    let mut request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
        headers,
        length: 0,
        body: Vec::new(),
        close: false,
    };
    if request.header("transfer-encoding").is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "a body without a length"));
    }
    request.length = request.header("content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
    request.close = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((request, length)))
}
