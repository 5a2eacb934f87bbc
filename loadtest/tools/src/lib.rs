//! The null S3: a server to measure the client of an S3. It drains bodies and responds at once.
//!
//! It checks no signatures and keeps only the first bytes of each object, which readers of image headers request. The
//! rest of an object reads as zeros. It shares the machine with the measured process, so it uses little CPU: it has a
//! blocking thread for each connection, and on Linux a body is discarded inside the kernel without being copied.
//!
//! - `GET /_state`: unfinished uploads, objects, bytes, calls by operation.
//! - `POST /_config`: [`Faults`] as JSON. Omitted fields are reset.
//! - `POST /_reset`: deletes uploads, objects and counts.

use socket2::{Domain, Socket, Type};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

mod connection;
mod operations;
mod state;

use connection::{Connection, Request};
use operations::{Answer, answer};
pub use state::Faults;
use state::State;

/// Number of connections that may wait to be accepted. A client that exceeds it retries only after a second.
const BACKLOG: i32 = 4096;

/// Returns a listener to which many clients can connect at once.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves all connections until the listener fails.
pub fn serve(listener: &TcpListener, faults: Faults) {
    let state = Arc::new(State::new(faults));
    for stream in listener.incoming().map_while(Result::ok) {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            // The client notices a broken connection itself.
            let _ = serve_connection(stream, &state);
        });
    }
}

fn serve_connection(stream: TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream);
    while let Some(request) = connection.next()? {
        let answer = if request.path.starts_with("/_") {
            state.control(&request)
        } else {
            object(&connection, &request, state)?
        };
        connection.answer(&request, &answer)?;
        if request.close {
            break;
        }
    }
    Ok(())
}

/// Handles a call on buckets and objects, with the configured faults.
fn object(connection: &Connection, request: &Request, state: &State) -> std::io::Result<Answer> {
    let faults = state.faults();
    thread::sleep(Duration::from_millis(faults.delay_ms));
    let sends_bytes = request.method == "PUT" && request.length > 0;
    if sends_bytes {
        while state.faults().hang {
            connection.pause(Duration::from_millis(50))?;
        }
        if state.fails_now(faults.fail_nth) {
            return Ok(Answer::error(503, "SlowDown"));
        }
    }
    Ok(answer(request, state))
}
