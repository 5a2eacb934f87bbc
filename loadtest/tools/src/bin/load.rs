//! Sends the same request again and again over persistent connections, each of which waits for its response.
//!
//! Prints one line of JSON: the number of requests, and the seconds until the last response. No request is started
//! after `--seconds`, and every started one is completed, so that the server has worked for the counted requests only.
//! Exits with status 1 if a request fails.

use clap::Parser;
use serde_json::json;
use socket2::SockRef;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

const BOUNDARY: &str = "a-boundary-of-a-load-test";

#[derive(Clone, Parser)]
#[command(about = "Sends the same request again and again and counts the responses")]
struct Arguments {
    /// Address and path, for example http://127.0.0.1:8080/upload-image
    url: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// A request header, `name: value`; can be repeated
    #[arg(long = "header")]
    headers: Vec<String>,
    /// File that is sent as the body
    #[arg(long)]
    body: Option<PathBuf>,
    /// Send the file in a form, as the field `file`
    #[arg(long)]
    form: bool,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Time after which no request is started; by default each connection sends one request
    #[arg(long)]
    seconds: Option<f64>,
}

/// A request: bytes before the file, the file, bytes after it.
struct Request {
    before: Vec<u8>,
    file: Option<PathBuf>,
    after: Vec<u8>,
}

impl Request {
    fn new(arguments: &Arguments) -> Result<(String, Self)> {
        let Arguments { url, method, headers, body, form, .. } = arguments;
        let address = url.strip_prefix("http://").ok_or_else(|| Error::other("the URL does not start with http://"))?;
        let (address, path) = address.split_once('/').unwrap_or((address, ""));
        let (head, after) = if *form { form_around() } else { Default::default() };
        let size = body.as_ref().map_or(Ok(0), |file| file.metadata().map(|file| file.len()))?;
        let length = head.len() as u64 + size + after.len() as u64;
        let mut before = format!("{method} /{path} HTTP/1.1\r\nhost: {address}\r\n");
        for header in headers {
            before.push_str(&format!("{header}\r\n"));
        }
        if *form {
            before.push_str(&format!("content-type: multipart/form-data; boundary={BOUNDARY}\r\n"));
        }
        if length > 0 {
            before.push_str(&format!("content-length: {length}\r\n"));
        }
        let before = format!("{before}\r\n{head}").into_bytes();
        Ok((address.to_owned(), Request { before, file: body.clone(), after: after.into_bytes() }))
    }

    /// The socket collects what is written until the end of the request, so that its parts do not become packets of
    /// their own. The file is copied by the kernel (`std::io::copy` calls sendfile(2)), which leaves the processor to
    /// the server.
    fn send(&self, mut stream: &TcpStream) -> Result<()> {
        SockRef::from(stream).set_tcp_cork(true)?;
        stream.write_all(&self.before)?;
        if let Some(file) = &self.file {
            std::io::copy(&mut File::open(file)?, &mut stream)?;
        }
        stream.write_all(&self.after)?;
        SockRef::from(stream).set_tcp_cork(false)
    }
}

/// Returns the beginning and the end of a form.
fn form_around() -> (String, String) {
    let disposition = "content-disposition: form-data; name=\"file\"; filename=\"a.png\"";
    let head = format!("--{BOUNDARY}\r\n{disposition}\r\ncontent-type: image/png\r\n\r\n");
    (head, format!("\r\n--{BOUNDARY}--\r\n"))
}

/// Reads a response to its end. Fails unless its status is 2xx.
fn receive(reader: &mut BufReader<TcpStream>) -> Result<()> {
    let status = line(reader)?;
    let (mut length, mut chunked) = (None, false);
    loop {
        let header = line(reader)?.to_ascii_lowercase();
        match header.split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().ok(),
            Some(("transfer-encoding", value)) => chunked = value.trim() == "chunked",
            None if header.is_empty() => break,
            _ => {}
        }
    }
    let body = if chunked { chunks(reader)? } else { body(reader, length.unwrap_or(0))? };
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => Err(Error::other(format!("{status}: {}", String::from_utf8_lossy(&body)))),
    }
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(Error::other("the server closed the connection"));
    }
    Ok(line.trim_end().to_owned())
}

fn body(reader: &mut impl Read, length: u64) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = reader.take(length).read_to_end(&mut body)?;
    if read as u64 == length { Ok(body) } else { Err(Error::other("the response is incomplete")) }
}

fn chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let size = u64::from_str_radix(&line(reader)?, 16).map_err(Error::other)?;
        whole.extend(body(reader, size)?);
        line(reader)?;
        if size == 0 {
            return Ok(whole);
        }
    }
}

/// Sends requests over one connection and returns their number.
fn repeat(address: &str, request: &Request, until: Option<Instant>) -> Result<u64> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut count = 0;
    loop {
        request.send(&stream)?;
        receive(&mut reader)?;
        count += 1;
        if until.is_none_or(|until| Instant::now() >= until) {
            return Ok(count);
        }
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (address, request) = Request::new(&arguments)?;
    let started = Instant::now();
    let until = arguments.seconds.map(|seconds| started + Duration::from_secs_f64(seconds));
    let requests = thread::scope(|scope| {
        let connections: Vec<_> =
            (0..arguments.connections).map(|_| scope.spawn(|| repeat(&address, &request, until))).collect();
        connections
            .into_iter()
            .map(|connection| connection.join().expect("a thread does not panic"))
            .sum::<Result<u64>>()
    })?;
    println!("{}", json!({ "requests": requests, "seconds": started.elapsed().as_secs_f64() }));
    Ok(())
}
