//! Many slow clients at once, and one fast one among them.
//!
//! Each slow client uploads one image of `--size` at `--rate` bytes a second; the fast one uploads `--fast-size` again and
//! again until they are done. Prints one line of JSON; exits with 1 where what `--expect` says did not hold.

use bytesize::ByteSize;
use clap::{Parser, ValueEnum};
use futures::future::join_all;
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod client;

use client::{Client, Outcome};

#[derive(Parser)]
struct Arguments {
    /// Of the service, like 127.0.0.1:8080
    #[arg(long)]
    address: String,
    #[arg(long, default_value_t = 500)]
    clients: usize,
    /// Of each client's image
    #[arg(long, default_value = "12MiB")]
    size: ByteSize,
    /// Bytes a second of each client; 0: as fast as it goes
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Of the fast client's image; 0: there is no fast client
    #[arg(long, default_value = "0")]
    fast_size: ByteSize,
    #[arg(long)]
    expect: Expectation,
    /// The fast client may take this many times what it takes on an idle server
    #[arg(long, default_value_t = 2.0)]
    slowdown: f64,
    /// A refusal must come within this time
    #[arg(long, default_value_t = 1.0)]
    refusal_seconds: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Expectation {
    /// Every upload succeeds
    Success,
    /// Each upload succeeds, or is refused with 503 in time; there are both
    Refusals,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let fast = Client { size: arguments.fast_size.as_u64(), rate: 0 };
    let idle = if fast.size == 0 { Vec::new() } else { fast.repeatedly(&arguments.address, 5).await };
    let started = Instant::now();
    let (slow, crowded) = crowd(&arguments, &fast).await;
    let problems = judge(&arguments, &slow, &idle, &crowded);
    let of = |status: u16| slow.iter().filter(|outcome| outcome.status == Some(status)).count();
    let report = json!({
        "clients": slow.len(),
        "stored": of(200),
        "refused": of(503),
        "broken": slow.len() - of(200) - of(503),
        "slowest_refusal_s": slowest(slow.iter().filter(|outcome| outcome.status == Some(503))),
        "fast_idle_s": median(&idle),
        "fast_in_crowd_s": median(&crowded),
        "fast_in_crowd_slowest_s": slowest(&crowded),
        "fast_in_crowd_uploads": crowded.len(),
        "took_s": started.elapsed().as_secs_f64(),
        "problems": problems,
    });
    println!("{report}");
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The slow clients' outcomes, and the fast one's among them.
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
    (slow.into_iter().map(|outcome| outcome.unwrap_or_default()).collect(), crowded)
}

fn judge(arguments: &Arguments, slow: &[Outcome], idle: &[Outcome], crowded: &[Outcome]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |holds: bool, problem: String| {
        if !holds {
            problems.push(problem);
        }
    };
    let refused: Vec<_> = slow.iter().filter(|outcome| outcome.status == Some(503)).collect();
    let stored = slow.iter().filter(|outcome| outcome.status == Some(200)).count();
    let strange = slow.iter().find(|outcome| !matches!(outcome.status, Some(200 | 503)));
    check(strange.is_none(), format!("an upload ended strangely: {strange:?}"));
    match arguments.expect {
        Expectation::Success => check(refused.is_empty(), format!("{} uploads were refused", refused.len())),
        Expectation::Refusals => {
            check(stored > 0 && !refused.is_empty(), "not both uploads and refusals".to_owned());
            let late = slowest(refused);
            check(late <= arguments.refusal_seconds, format!("a refusal took {late:.2} s"));
        }
    }
    if arguments.fast_size.as_u64() > 0 {
        let failed = idle.iter().chain(crowded).find(|outcome| outcome.status != Some(200));
        check(failed.is_none(), format!("the fast client failed: {failed:?}"));
        let (alone, among) = (median(idle), median(crowded));
        check(!crowded.is_empty(), "the fast client did not get through".to_owned());
        check(among <= alone * arguments.slowdown, format!("the fast client took {among:.2} s, alone {alone:.2} s"));
    }
    problems
}

fn slowest<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> f64 {
    outcomes.into_iter().map(|outcome| outcome.took).max().unwrap_or(Duration::ZERO).as_secs_f64()
}

fn median(outcomes: &[Outcome]) -> f64 {
    let mut took: Vec<_> = outcomes.iter().map(|outcome| outcome.took).collect();
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default().as_secs_f64()
}
