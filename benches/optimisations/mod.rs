//! Rows in pairs: with an optimisation, and without it.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures::stream;
use image_store::crc64;
use image_store::upload::budget::Budget;
use image_store::upload::parts::join;
use std::convert::Infallible;
use std::hint::black_box;
use tokio::runtime::Runtime;

use super::form;

const SIZE: usize = 64 << 20;
const PART: usize = 5 << 20;
/// Bytes in one read.
const CHUNK: usize = 64 << 10;
/// Parts that one upload may hold at once.
const CONCURRENCY: usize = 4;
/// Parts of 5 GB.
const PARTS: u64 = 1_000;

pub fn bench(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    multer(criterion, &runtime);
    pool(criterion, &runtime);
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
    let admitted = runtime.block_on(Budget::new(64 << 20, None, PART, CONCURRENCY).admit(None));
    let mut reservation = admitted.expect("no file is needed").expect("memory is free");
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
