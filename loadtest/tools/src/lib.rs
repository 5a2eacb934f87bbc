//! An S3 for measuring what stands before it: it drains what it is sent and answers at once.
//!
//! It checks no signature and keeps no bytes but each object's first few, which is what a reader of image headers asks
//! for; the rest of an object reads as zeros. It shares the machine with what is measured, so it is made to cost little:
//! a blocking thread for each connection, and on Linux a body is dropped inside the kernel without being copied out of it.
//!
//! - `GET /_state`: open uploads, objects, bytes, calls by operation.
//! - `POST /_config`: [`Faults`] as JSON; what is not named goes back to none.
//! - `POST /_reset`: forgets uploads, objects and counts.

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

/// Connections that may wait to be accepted: one that finds no place tries again only after a second.
const BACKLOG: i32 = 4096;

/// A listener that a crowd may connect to at once.
///
/// # Errors
/// Where the address cannot be had.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves whoever connects, until the listener fails.
pub fn serve(listener: &TcpListener, faults: Faults) {
    let state = Arc::new(State::new(faults));
    for stream in listener.incoming().map_while(Result::ok) {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            // A connection that breaks is its client's business.
            let _ = converse(stream, &state);
        });
    }
}

fn converse(stream: TcpStream, state: &State) -> std::io::Result<()> {
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

/// A call on buckets and objects: these can be made to fail.
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
