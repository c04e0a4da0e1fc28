//! ns per event: from a datagram's bytes to a fact.
//!
//! `decode` is what the connector uses: it checks every length and field.
//! `bare` reads the fields at their fixed places and checks next to nothing; it
//! is the floor. `decode, one buffer` is `decode` over all datagrams at once, one
//! behind the other, as `netlink-proto` hands them over.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kmonitor_benches::datagrams::{DATAGRAM_BYTES, lives, read_bare};
use kmonitor_connector::{Message, decode};
use kmonitor_source::Fact;

/// 1 023 events: about what one batch holds.
const PROCESSES: i32 = 341;

fn facts_of(bytes: &[u8]) -> impl Iterator<Item = Fact> + '_ {
    decode(bytes).filter_map(|message| match message {
        Ok(Message::Fact(fact)) => Some(fact),
        _ => None,
    })
}

fn decoding(criterion: &mut Criterion) {
    let bytes = lives(PROCESSES);
    let count = bytes.len() / DATAGRAM_BYTES;
    let mut facts: Vec<Fact> = Vec::with_capacity(count);
    let mut group = criterion.benchmark_group("decode");
    // Shown as elements per second; the time is that of all of them.
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("bare", |bencher| {
        bencher.iter(|| {
            facts.clear();
            let datagrams = black_box(&bytes).chunks_exact(DATAGRAM_BYTES);
            facts.extend(datagrams.filter_map(read_bare));
            black_box(&facts);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            facts.clear();
            for datagram in black_box(&bytes).chunks_exact(DATAGRAM_BYTES) {
                facts.extend(facts_of(datagram));
            }
            black_box(&facts);
        });
    });
    group.bench_function("decode, one buffer", |bencher| {
        bencher.iter(|| {
            facts.clear();
            facts.extend(facts_of(black_box(&bytes)));
            black_box(&facts);
        });
    });
    group.finish();
}

criterion_group!(benches, decoding);
criterion_main!(benches);
