//! From the bytes of a form to parts, without I/O: measures parsing, cutting and checksums, and what each optimisation of
//! them gains.

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
mod optimisations;

/// An allocator that counts allocations.
struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: all calls are forwarded to the system's allocator, and this code does not allocate.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller guarantees the conditions of the forwarded call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees the conditions of the forwarded call.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SIZE: usize = 64 << 20;
const PART: usize = 5 << 20;

/// Bytes in one read: hyper's first read, and a later one from a fast client.
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

/// Reads the image to its end and returns its size.
async fn parse(chunks: Vec<Bytes>, reservation: &mut Reservation) -> usize {
    let mut image = open(chunks, &mut PartCutter::new(reservation.next().await)).await;
    let mut size = 0;
    while let Some(chunk) = next_chunk(&mut image).await {
        size += chunk.len();
    }
    size
}

/// Reads the image, cuts it into parts and drops each part at once. Returns the image's size.
async fn cut(chunks: Vec<Bytes>, reservation: &mut Reservation) -> u64 {
    let mut cutter = PartCutter::new(reservation.next().await);
    let mut image = open(chunks, &mut cutter).await;
    let mut size = 0;
    while let Some(mut chunk) = next_chunk(&mut image).await {
        while !chunk.is_empty() {
            if cutter.is_full() {
                size += cutter.cut().len;
                cutter.refill(reservation.next().await);
            }
            cutter.fill(&mut chunk).await.expect("there is no spill folder");
        }
    }
    size + cutter.cut().len
}

/// Returns a form with an image of [`SIZE`] bytes in reads of `size` bytes.
fn chunks(size: usize) -> Vec<Bytes> {
    let form = Bytes::from([form::head(), form::image(SIZE), form::tail()].concat());
    (0..form.len()).step_by(size).map(|at| form.slice(at..form.len().min(at + size))).collect()
}

/// Prints the number of allocations of `work`, and their size.
fn print_allocations(name: &str, work: impl FnOnce()) {
    let before = (ALLOCATIONS.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed));
    work();
    let count = ALLOCATIONS.load(Ordering::Relaxed) - before.0;
    let bytes = ALLOCATED.load(Ordering::Relaxed) - before.1;
    let mib = (SIZE >> 20) as u64;
    println!("{name}: {count} allocations, {} KiB for each MiB of the image", bytes / mib / 1024);
}

fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let budget = Budget::new(64 << 20, None, PART, 4);
    let mut reservation = runtime.block_on(budget.admit(None)).expect("no file is needed").expect("memory is free");
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    for size in CHUNKS {
        let chunks = chunks(size);
        let name = format!("reads of {} KiB", size >> 10);
        assert_eq!(runtime.block_on(cut(chunks.clone(), &mut reservation)), SIZE as u64);
        print_allocations(&format!("form to parts, {name}"), || {
            runtime.block_on(cut(chunks.clone(), &mut reservation));
        });
        group.bench_function(format!("form to chunks, {name}"), |bencher| {
            bencher.iter(|| runtime.block_on(parse(chunks.clone(), &mut reservation)));
        });
        group.bench_function(format!("form to parts, {name}"), |bencher| {
            bencher.iter(|| runtime.block_on(cut(chunks.clone(), &mut reservation)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench, optimisations::bench);
criterion_main!(benches);
