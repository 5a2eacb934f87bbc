//! Many slow clients at once, with one fast client at the same time.
//!
//! Each slow client uploads one image of `--size` at `--rate` bytes a second. The fast client repeatedly uploads an
//! image of `--fast-size` until the slow ones have ended. Its time is compared with that on an idle server in every
//! window of ten seconds, so that no part of the run is hidden by the rest. Prints one line of JSON. Exits with status
//! 1 if the result differs from `--expect`. `stolen_…` is the share of the processors' time that the host of a virtual
//! machine gave to others: above a few percent, the times say little.

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use futures::future::join_all;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod client;
mod stolen;
mod window;

use client::{Client, Outcome};
use stolen::Processors;
use window::worst_window;

/// Uploads of the fast client on an idle server.
const IDLE_UPLOADS: usize = 20;

#[derive(Parser)]
struct Arguments {
    /// Address of the service, for example 127.0.0.1:8080
    #[arg(long)]
    address: String,
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// Size of each client's image
    #[arg(long, default_value = "12MiB")]
    size: ByteSize,
    /// Bytes a second of each client; 0 means as fast as possible
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Size of the fast client's image; 0 means that there is no fast client
    #[arg(long, default_value = "0")]
    fast_size: ByteSize,
    #[arg(long)]
    expect: Expectation,
    /// Maximum time of the fast client in its worst window of 10 s, as a multiple of its time on an idle server
    #[arg(long, default_value_t = 2.0)]
    slowdown: f64,
    /// Maximum time in seconds until an upload is rejected
    #[arg(long, default_value_t = 1.0)]
    refusal_seconds: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Expectation {
    /// Every upload succeeds
    Success,
    /// Some uploads succeed, and all others are rejected with 503 in time
    Refusals,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let fast = Client { size: arguments.fast_size.as_u64(), rate: 0 };
    let processors = Processors::now();
    let idle = if fast.size == 0 { Vec::new() } else { fast.repeatedly(&arguments.address, IDLE_UPLOADS).await };
    let stolen_idle = processors.stolen();
    let (started, processors) = (Instant::now(), Processors::now());
    let (slow, crowded) = crowd(&arguments, &fast).await;
    let stolen_in_crowd = processors.stolen();
    let problems = find_problems(&arguments, &slow, &idle, &crowded);
    let of = |status: u16| slow.iter().filter(|outcome| outcome.status == Some(status)).count();
    let report = json!({
        "clients": slow.len(),
        "stored": of(200),
        "refused": of(503),
        "broken": slow.len() - of(200) - of(503),
        "slowest_refusal_s": slowest(slow.iter().filter(|outcome| outcome.status == Some(503))),
        "fast_idle_s": median(&idle),
        "fast_in_crowd_s": median(&crowded),
        "fast_in_worst_10_s": worst_window(&crowded),
        "fast_in_worst_10_s_to_idle": worst_window(&crowded) / median(&idle),
        "fast_in_crowd_slowest_s": slowest(&crowded),
        "fast_in_crowd_slowest_began_s": began_of_slowest(&crowded),
        "fast_in_crowd_uploads": crowded.len(),
        "stolen_idle": stolen_idle,
        "stolen_in_crowd": stolen_in_crowd,
        "took_s": started.elapsed().as_secs_f64(),
        "problems": problems,
    });
    println!("{report}");
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all clients. Returns the outcomes of the slow clients, and those of the fast client during that time.
async fn crowd(arguments: &Arguments, fast: &Client) -> (Vec<Outcome>, Vec<Outcome>) {
    let client = Client { size: arguments.size.as_u64(), rate: arguments.rate };
    let address = &arguments.address;
    let all = join_all((0..arguments.clients).map(|_| {
        let (client, address) = (client.clone(), address.clone());
        tokio::spawn(async move { client.upload(&address).await })
    }));
    tokio::pin!(all);
    let mut crowded = Vec::new();
    let slow = loop {
        tokio::select! {
            slow = &mut all => break slow,
            outcome = fast.upload(address), if fast.size > 0 => crowded.push(outcome),
        }
    };
    (slow.into_iter().map(|outcome| outcome.expect("a client does not panic")).collect(), crowded)
}

fn find_problems(arguments: &Arguments, slow: &[Outcome], idle: &[Outcome], crowded: &[Outcome]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    let refused: Vec<_> = slow.iter().filter(|outcome| outcome.status == Some(503)).collect();
    let stored = slow.iter().filter(|outcome| outcome.status == Some(200)).count();
    let unexpected = slow.iter().find(|outcome| !matches!(outcome.status, Some(200 | 503)));
    check(unexpected.is_none(), format!("an upload ended unexpectedly: {unexpected:?}"));
    match arguments.expect {
        Expectation::Success => check(refused.is_empty(), format!("{} uploads were rejected", refused.len())),
        Expectation::Refusals => {
            check(stored > 0 && !refused.is_empty(), "either no upload was stored or none was rejected".to_owned());
            let slowest = slowest(refused);
            check(slowest <= arguments.refusal_seconds, format!("a rejection took {slowest:.2} s"));
        }
    }
    if arguments.fast_size.as_u64() > 0 {
        let failed = idle.iter().chain(crowded).find(|outcome| outcome.status != Some(200));
        check(failed.is_none(), format!("the fast client failed: {failed:?}"));
        let (alone, loaded) = (median(idle), worst_window(crowded));
        check(!crowded.is_empty(), "the fast client completed no upload".to_owned());
        let slowdown =
            format!("the fast client took {loaded:.2} s in its worst 10 s and {alone:.2} s on an idle server");
        check(loaded <= alone * arguments.slowdown, slowdown);
    }
    problems
}

fn slowest<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> f64 {
    outcomes.into_iter().map(|outcome| outcome.took).max().unwrap_or(Duration::ZERO).as_secs_f64()
}

/// Returns when the slowest upload began, in seconds after the first one.
fn began_of_slowest(outcomes: &[Outcome]) -> f64 {
    let slowest = outcomes.iter().max_by_key(|outcome| outcome.took);
    slowest.map_or(0.0, |slowest| (slowest.started - outcomes[0].started).as_secs_f64())
}

fn median(outcomes: &[Outcome]) -> f64 {
    let mut took: Vec<_> = outcomes.iter().map(|outcome| outcome.took).collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64()
}
