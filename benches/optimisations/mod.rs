//! Rows in pairs: with an optimisation, and without it.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures::stream;
use image_store::crc64;
use image_store::store::Content;
use image_store::upload::budget::{Budget, Reservation};
use image_store::upload::parts::{PartCutter, join};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use tokio::runtime::Runtime;

use super::form;

const SIZE: usize = 64 << 20;
const PART: usize = 5 << 20;
/// Bytes in one read.
const CHUNK: usize = 64 << 10;
/// Parts that one upload may hold at once, and parts of 5 GB.
const CONCURRENCY: usize = 4;
const PARTS: u64 = 1_000;

pub fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    multer(criterion, &runtime);
    pool(criterion, &runtime);
    buffers(criterion, &runtime);
    checksums(criterion);
}

/// The data of a part bypass multer. Compare with `parts/form to chunks`.
fn multer(criterion: &mut Criterion, runtime: &Runtime) {
    let chunks = super::chunks(CHUNK);
    let mut group = criterion.benchmark_group("multer");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    group.bench_function("form to chunks by multer alone", |bencher| {
        bencher.iter(|| assert_eq!(runtime.block_on(parse_with_multer(chunks.clone())), SIZE));
    });
    group.finish();
}

async fn parse_with_multer(chunks: Vec<Bytes>) -> usize {
    let boundary = multer::parse_boundary(form::content_type()).expect("a boundary");
    let mut parts = multer::Multipart::new(stream::iter(chunks.into_iter().map(Ok::<_, Infallible>)), boundary);
    let mut size = 0;
    while let Some(mut part) = parts.next_field().await.expect("a form") {
        while let Some(chunk) = part.chunk().await.expect("a form") {
            size += chunk.len();
        }
    }
    size
}

/// Buffers are reused.
fn pool(criterion: &mut Criterion, runtime: &Runtime) {
    let chunk = vec![7; CHUNK];
    let mut reservation = reserve(runtime, &Budget::new(64 << 20, None, PART, CONCURRENCY));
    let mut group = criterion.benchmark_group("buffer of a part");
    group.throughput(Throughput::Bytes(PART as u64));
    group.bench_function("reused", |bencher| {
        bencher.iter(|| {
            let mut buffer = runtime.block_on(reservation.next());
            while buffer.remaining() > 0 {
                let bytes = Bytes::copy_from_slice(&chunk);
                runtime.block_on(buffer.append(bytes)).expect("it is in memory");
            }
            buffer.len()
        });
    });
    group.bench_function("new", |bencher| {
        bencher.iter(|| {
            let mut buffer = Vec::with_capacity(PART);
            while buffer.len() < PART {
                let bytes = Bytes::copy_from_slice(&chunk);
                buffer.extend_from_slice(&bytes);
            }
            black_box(&buffer).len()
        });
    });
    group.finish();
}

/// An upload to a nearby store waits for one of its own two buffers instead of taking a third one, and so fills a buffer
/// that is still in the processor's cache. The first parts show that the store is near.
fn buffers(criterion: &mut Criterion, runtime: &Runtime) {
    let (store, parts) = sync_channel::<Content>(CONCURRENCY);
    // It reads each part once, as a socket does.
    let reader = std::thread::spawn(move || {
        for part in parts {
            if let Content::Memory(bytes) = part {
                black_box(crc64::checksum(&bytes));
            }
        }
    });
    let image = Bytes::from(form::image(SIZE));
    let mut group = criterion.benchmark_group("parts to a nearby store");
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    let budget = Budget::new(64 << 20, None, PART, CONCURRENCY);
    group.bench_function("in two buffers", |bencher| {
        // A reservation does not wait any more once it has waited in vain, so each upload has its own.
        bencher.iter(|| runtime.block_on(send(&image, &mut reserve(runtime, &budget), &store)));
    });
    let mut far = reserve(runtime, &budget);
    // The third buffer comes after a wait in vain.
    drop(runtime.block_on(async { [far.next().await, far.next().await, far.next().await] }));
    group.bench_function("in up to four buffers", |bencher| {
        bencher.iter(|| runtime.block_on(send(&image, &mut far, &store)));
    });
    group.finish();
    drop(store);
    reader.join().expect("the reader ends with the parts");
}

fn reserve(runtime: &Runtime, budget: &Arc<Budget>) -> Reservation {
    runtime.block_on(budget.admit(None)).expect("no file is needed").expect("memory is free")
}

/// Copies the image into parts and sends each of them.
async fn send(image: &Bytes, reservation: &mut Reservation, store: &SyncSender<Content>) {
    let mut cutter = PartCutter::new(reservation.next().await);
    for start in (0..image.len()).step_by(CHUNK) {
        let mut chunk = image.slice(start..image.len().min(start + CHUNK));
        while !chunk.is_empty() {
            if cutter.is_full() {
                store.send(cutter.cut().content).expect("the reader runs");
                cutter.refill(reservation.next().await);
            }
            cutter.fill(&mut chunk).await.expect("it is in memory");
        }
    }
    store.send(cutter.cut().content).expect("the reader runs");
}

/// The checksums of equal parts are joined with a power that is computed once.
fn checksums(criterion: &mut Criterion) {
    let parts = || (1..=PARTS).map(|part| (PART as u64, part.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let combined = || parts().fold(0, |crc, (len, next)| crc64::combine(crc, next, len));
    assert_eq!(join(parts()).crc64, Some(combined()));
    let mut group = criterion.benchmark_group("checksum of 1,000 parts");
    group.bench_function("joined", |bencher| bencher.iter(|| join(parts())));
    group.bench_function("combined one by one", |bencher| bencher.iter(combined));
    group.finish();
}
