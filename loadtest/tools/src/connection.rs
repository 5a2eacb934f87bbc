//! HTTP/1.1 on one connection. Most bodies are discarded without being read.

use socket2::SockRef;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::time::Duration;

use super::operations::Answer;

/// Maximum number of bytes in one read, and of a request's headers.
const BUFFER: usize = 64 << 10;
/// Maximum number of bytes that are discarded at once.
const DRAIN: usize = 1 << 20;
/// Number of bytes of an object that are kept.
const KEPT: usize = 1024;
/// Maximum length of a body that is read as a whole: the list of 10,000 parts of a Complete.
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
    /// The whole body of a POST, otherwise the first [`KEPT`] bytes.
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
    /// `start..end` is the range of the buffer that was read and not yet used.
    start: usize,
    end: usize,
    drain: Vec<MaybeUninit<u8>>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        Connection { stream, buffer: vec![0; BUFFER], start: 0, end: 0, drain: Vec::new() }
    }

    /// Returns the next request after its body was drained. `None` if the client has closed the connection.
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

    /// Appends more bytes to the buffer.
    fn fill(&mut self) -> Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            return Err(Error::new(ErrorKind::InvalidData, "the request's headers are too long"));
        }
        let read = self.stream.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    fn read(&mut self, length: u64) -> Result<Vec<u8>> {
        let length = usize::try_from(length).map_err(Error::other)?;
        let buffered = length.min(self.end - self.start);
        let mut bytes = self.buffer[self.start..self.start + buffered].to_vec();
        self.start += buffered;
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[buffered..])?;
        Ok(bytes)
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let buffered = length.min((self.end - self.start) as u64);
        self.start += usize::try_from(buffered).map_err(Error::other)?;
        let mut left = length - buffered;
        while left > 0 {
            match self.discard(left)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                discarded => left -= discarded as u64,
            }
        }
        Ok(())
    }

    /// Discards at most `max` bytes and returns their number.
    fn discard(&mut self, max: u64) -> Result<usize> {
        self.drain.resize(DRAIN, MaybeUninit::uninit());
        let max = usize::try_from(max).unwrap_or(DRAIN).min(DRAIN);
        SockRef::from(&self.stream).recv_with_flags(&mut self.drain[..max], WITHOUT_A_COPY)
    }

    /// Waits. Fails if the client disconnects during that time.
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
        // A response to HEAD contains the length of the object, which is not the length of its body.
        if !answer.headers.iter().any(|(name, _)| name == "content-length") && answer.status != 204 {
            write!(text, "content-length: {}\r\n", answer.body.len())?;
        }
        text.extend_from_slice(b"\r\n");
        if request.method != "HEAD" {
            text.extend_from_slice(&answer.body);
        }
        self.stream.write_all(&text)
    }
}

/// With this flag, bytes are removed from the queue of a TCP socket without being copied (tcp(7)).
#[cfg(target_os = "linux")]
const WITHOUT_A_COPY: libc::c_int = libc::MSG_TRUNC;
#[cfg(not(target_os = "linux"))]
const WITHOUT_A_COPY: libc::c_int = 0;

/// Parses a request's headers. Returns the request and the length of the headers, or `None` if they are incomplete.
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
        return Err(Error::new(ErrorKind::Unsupported, "a body without Content-Length is not supported"));
    }
    request.length = request.header("content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
    request.close = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Ok(Some((request, length)))
}
