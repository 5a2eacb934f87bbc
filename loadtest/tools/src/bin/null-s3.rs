//! An S3 that keeps nothing, as a process of its own; see [`null_s3`].

use clap::Parser;
use null_s3::{Faults, listen, serve};
use std::net::SocketAddr;

#[derive(Parser)]
#[command(about = "An S3 that throws away what it is sent, and answers at once")]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Answer every call on objects this much later
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Answer every nth UploadPart and PutObject with 503; 0: none
    #[arg(long, default_value_t = 0)]
    fail_nth: u64,
    /// Never answer UploadPart and PutObject
    #[arg(long)]
    hang: bool,
}

fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let listener = listen(arguments.listen)?;
    println!("null S3 listens on http://{}", listener.local_addr()?);
    serve(&listener, Faults { delay_ms: arguments.delay_ms, fail_nth: arguments.fail_nth, hang: arguments.hang });
    Ok(())
}
