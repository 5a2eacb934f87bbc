//! The null S3 as a process. See [`null_s3`].

use clap::Parser;
use null_s3::{Faults, listen, serve};
use std::net::SocketAddr;

#[derive(Parser)]
#[command(about = "An S3 server that discards bodies and responds at once")]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Delay of every call on objects, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Respond to every nth UploadPart and PutObject with 503; 0 disables this
    #[arg(long, default_value_t = 0)]
    fail_nth: u64,
    /// Never respond to UploadPart and PutObject
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
