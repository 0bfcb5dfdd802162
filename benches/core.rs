//! The pure core alone: from the bytes of a review to the bytes of the answer, and compiling SidecarSets.

#[path = "support/fixtures.rs"]
mod fixtures;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use outrigger::admission::pod::Ambient;
use outrigger::admission::review;
use outrigger::api::names;
use outrigger::store::{Objects, Snapshot};

fn snapshot(count: usize) -> Snapshot {
    objects(count).snapshot().expect("the sets of the benchmark compile")
}

fn objects(count: usize) -> Objects {
    let mut objects = Objects::new(names::DEFAULT_NAMESPACE);
    for set in fixtures::sidecarsets(count) {
        let findings = objects.apply_sidecarset(set);
        assert!(findings.errors.is_empty(), "{:?}", findings.errors);
    }
    objects
}

fn admission(criterion: &mut Criterion) {
    let ambient = Ambient { now: "2026-03-04T05:06:07Z".parse().expect("a time"), random: 1 };
    let mut group = criterion.benchmark_group("review to answer");
    for (name, sets, selected) in
        [("a pod nothing selects, 100 sets", 100, false), ("a pod with 3 of 10 sets", 10, true)]
    {
        let snapshot = snapshot(sets);
        let body = fixtures::review(selected).to_string();
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| review::answer(black_box(body.as_bytes()), &snapshot, &ambient));
        });
    }
    group.finish();
}

fn compile(criterion: &mut Criterion) {
    let objects = objects(100);
    criterion.bench_function("compile 100 sets", |bencher| bencher.iter(|| black_box(&objects).snapshot().is_ok()));
}

criterion_group!(benches, admission, compile);
criterion_main!(benches);
