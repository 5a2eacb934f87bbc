//! Form bytes → parts, without any I/O: what parsing, cutting and the checksum cost.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use image_store::format::Format;
use image_store::ingest::{BodyKind, IncomingBody, IncomingImage};
use image_store::policy::Policy;
use image_store::upload::budget::{Budget, Reservation};
use image_store::upload::parts::PartCutter;
use std::alloc::{GlobalAlloc, Layout, System};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Runtime;

mod form;

/// Counts what is allocated.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is left to the system's allocator; nothing here allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: usize = 64 << 20;
const PART: usize = 5 << 20;

/// What one read brings: hyper's first, and one of a fast client's.
const CHUNKS: [usize; 2] = [8 << 10, 64 << 10];

fn policy() -> Arc<Policy> {
    Arc::new(Policy {
        formats: vec![Format::Png],
        key_format: None,
        max_upload_size: 5_000_000_000,
        max_pixels: 0,
        header_scan_limit: 1 << 20,
    })
}

async fn next_chunk(image: &mut IncomingImage) -> Option<Bytes> {
    image.next_chunk().await.expect("a whole image")
}

async fn open(chunks: Vec<Bytes>, head: &mut PartCutter) -> IncomingImage {
    let body = StreamBody::new(stream::iter(chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)))));
    let content_type = form::content_type().parse().expect("a header");
    let kind = BodyKind::of(Some(&content_type), &policy()).expect("a form");
    IncomingImage::open(IncomingBody::new(kind, body), policy(), head).await.expect("an image")
}

/// Reads the image to its end.
async fn parse(chunks: Vec<Bytes>, share: &mut Reservation) -> usize {
    let mut image = open(chunks, &mut PartCutter::new(share.next().await)).await;
    let mut size = 0;
    while let Some(chunk) = next_chunk(&mut image).await {
        size += chunk.len();
    }
    size
}

/// Reads the image and cuts it into parts, each of them gone at once.
async fn cut(chunks: Vec<Bytes>, share: &mut Reservation) -> u64 {
    let mut cutter = PartCutter::new(share.next().await);
    let mut image = open(chunks, &mut cutter).await;
    let mut size = 0;
    while let Some(mut chunk) = next_chunk(&mut image).await {
        while !chunk.is_empty() {
            if cutter.is_full() {
                size += cutter.cut().len;
                cutter.refill(share.next().await);
            }
            cutter.fill(&mut chunk).await.expect("nothing spills");
        }
    }
    size + cutter.cut().len
}

fn chunks(size: usize) -> Vec<Bytes> {
    let form = Bytes::from([form::head(), form::image(SIZE), form::tail()].concat());
    (0..form.len()).step_by(size).map(|at| form.slice(at..form.len().min(at + size))).collect()
}

/// Says how often and how much `work` allocates.
fn tell_allocations(what: &str, work: impl FnOnce()) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed));
    work();
    let count = ALLOCATIONS.load(Ordering::Relaxed) - before.0;
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before.1;
    let mib = (SIZE >> 20) as u64;
    println!("{what}: {count} allocations, {} KiB of them for each MiB of the image", bytes / mib / 1024);
}

fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let budget = Budget::new(64 << 20, None, PART, 4);
    let mut share = runtime.block_on(budget.admit(None)).expect("no file is made").expect("room");
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    for size in CHUNKS {
        let chunks = chunks(size);
        let what = format!("{} KiB at once", size >> 10);
        assert_eq!(runtime.block_on(cut(chunks.clone(), &mut share)), SIZE as u64);
        tell_allocations(&format!("form to parts, {what}"), || {
            runtime.block_on(cut(chunks.clone(), &mut share));
        });
        group.bench_function(format!("form to chunks, {what}"), |bencher| {
            bencher.iter(|| runtime.block_on(parse(chunks.clone(), &mut share)));
        });
        group.bench_function(format!("form to parts, {what}"), |bencher| {
            bencher.iter(|| runtime.block_on(cut(chunks.clone(), &mut share)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
