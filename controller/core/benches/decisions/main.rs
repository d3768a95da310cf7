//! How long the core's decisions take: `cargo bench -p ferrolb-controller-core`.
//!
//! Time counts from an input to the effects that the shell can begin with. Performing the writes and bringing the
//! cluster back to where it was is not counted.

mod cluster;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ferrolb_controller_core::{Effect, Input, Write};
use ferrolb_model::{Config, Family};

use cluster::{Cluster, Objects, address, config, node, service};

/// As many as the largest bench has.
const MANY: usize = 100_000;
/// Room for [`MANY`].
const ROOM: &str = "10.0.0.0/8";
const FIRST: &str = "10.0.0.0";
const FIRST_V6: &str = "2001:db8::";

/// What one input costs; the effects are performed off the clock.
fn timed(cluster: &mut Cluster, input: Input) -> Duration {
    let begin = Instant::now();
    let effects = black_box(cluster.handle(input));
    let time = begin.elapsed();
    cluster.settle(effects);
    time
}

/// What it costs to choose an address for a new Service. The Service is gone again afterwards.
fn allocation(cluster: &mut Cluster, family: Family) -> Duration {
    let view = service("new", family);
    let id = view.id.clone();
    let news = cluster.put(view);
    let begin = Instant::now();
    let effects = black_box(cluster.handle(news));
    let time = begin.elapsed();
    let created = |e: &Effect| matches!(e, Effect::Write(Write::CreateVirtualIp { .. }));
    assert!(effects.iter().any(created), "a Service without an address");
    cluster.settle(effects);
    let news = cluster.delete(&id);
    timed(cluster, news);
    time
}

fn allocate(c: &mut Criterion) {
    let mut group = c.benchmark_group("allocate");
    let mut bench = |name: &str, config: &Arc<Config>, objects: &Objects, family| {
        let mut cluster = Cluster::running(config, objects);
        let mut run = |times| (0..times).map(|_| allocation(&mut cluster, family)).sum();
        group.bench_function(name, |b| b.iter_custom(&mut run));
    };
    let v4 = |count| Objects::holding((0..count).map(|n| address(FIRST, n)));

    bench("65536, 60000 taken", &config(&["10.0.0.0/16"]), &v4(60_000), Family::V4);
    for (name, range) in [
        ("256, 200 taken", "10.0.0.0/24"),
        ("4096, 200 taken", "10.0.0.0/20"),
        ("65536, 200 taken", "10.0.0.0/16"),
        ("2^24, 200 taken", ROOM),
    ] {
        bench(name, &config(&[range]), &v4(200), Family::V4);
    }
    let v6 = |count| Objects::holding((0..count).map(|n| address(FIRST_V6, n)));
    let wide = config(&["2001:db8::/64"]);
    bench("IPv6 /64, 200 taken", &wide, &v6(200), Family::V6);
    bench("IPv6 /64, 60000 taken", &wide, &v6(60_000), Family::V6);
    let holes = Objects::holding((0..65_536).step_by(2).map(|n| address(FIRST, n)));
    bench(
        "65536, every second taken",
        &config(&["10.0.0.0/16"]),
        &holes,
        Family::V4,
    );
    let ranges = (0..=255).map(|n| format!("10.0.{n}.0/24")).collect::<Vec<_>>();
    let ranges = ranges.iter().map(String::as_str).collect::<Vec<_>>();
    bench(
        "256 ranges of 256, 60000 taken",
        &config(&ranges),
        &v4(60_000),
        Family::V4,
    );
}

fn release(c: &mut Criterion) {
    let objects = Objects::holding((0..60_000).map(|n| address(FIRST, n)));
    let mut cluster = Cluster::running(&config(&["10.0.0.0/16"]), &objects);
    let mut turn = || {
        let view = service("new", Family::V4);
        let id = view.id.clone();
        let news = cluster.put(view);
        timed(&mut cluster, news);
        let news = cluster.delete(&id);
        timed(&mut cluster, news)
    };
    let mut run = |times| (0..times).map(|_| turn()).sum();
    c.bench_function("release/65536, 60000 taken", |b| b.iter_custom(&mut run));
}

/// What a controller does that starts in a cluster of many Services.
fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start with 100000 Services");
    group.sample_size(10);
    let config = config(&[ROOM]);
    let adopted = settled(&config).objects();
    for (name, objects) in [("all held", &adopted), ("all new", &Objects::new_services(MANY))] {
        group.bench_function(BenchmarkId::new("lists", name), |b| {
            b.iter_custom(|times| {
                let run = |_| {
                    let inputs = objects.inputs().collect::<Vec<_>>();
                    let mut cluster = Cluster::listed(&config, &Objects::default());
                    let begin = Instant::now();
                    for input in inputs {
                        black_box(cluster.handle(input));
                    }
                    begin.elapsed()
                };
                (0..times).map(run).sum()
            });
        });
        group.bench_function(BenchmarkId::new("first pass", name), |b| {
            b.iter_custom(|times| {
                let run = |_| {
                    let mut cluster = Cluster::listed(&config, objects);
                    let begin = Instant::now();
                    let effects = black_box(cluster.handle(Input::Synced));
                    let time = begin.elapsed();
                    let expected = if name == "all new" { MANY } else { 0 };
                    assert_eq!(effects.len(), expected, "{name}");
                    time
                };
                (0..times).map(run).sum()
            });
        });
    }
    group.bench_function("to the last write, all new", |b| {
        b.iter_custom(|times| {
            let run = |_| {
                let mut cluster = Cluster::listed(&config, &Objects::new_services(MANY));
                let begin = Instant::now();
                let effects = cluster.handle(Input::Synced);
                cluster.settle(effects);
                let time = begin.elapsed();
                assert_eq!(cluster.writes, 3 * MANY, "claim, status and placement of each");
                time
            };
            (0..times).map(run).sum()
        });
    });
    group.finish();
}

/// News that concern everything.
fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("100000 addresses");
    group.sample_size(10);
    let configs = [config(&[ROOM, "11.0.0.0/8"]), config(&[ROOM])];
    let mut labelled = node("node-1");
    labelled.labels.insert("rack".to_owned(), "7".to_owned());
    let mut down = node("node-1");
    down.ready = false;
    let mut cluster = settled(&configs[1]);
    let up = Input::Node(node("node-1"));
    for (name, news) in [
        ("a range is added or taken away", configs.map(Input::Config)),
        ("a label of a node changes", [Input::Node(labelled), up.clone()]),
        ("a node is lost or comes back", [Input::Node(down), up]),
    ] {
        let mut turns = news.iter().cycle().cloned();
        let mut turn = || timed(&mut cluster, turns.next().expect("an endless cycle"));
        let mut run = |times| (0..times).map(|_| turn()).sum();
        group.bench_function(name, |b| b.iter_custom(&mut run));
    }
    group.bench_function("pool_usage", |b| {
        b.iter(|| black_box(cluster.controller().pool_usage()))
    });
    group.bench_function("pending_by_reason", |b| {
        b.iter(|| black_box(cluster.controller().pending_by_reason()));
    });
    group.finish();
}

/// [`MANY`] Services that have their addresses.
fn settled(config: &Arc<Config>) -> Cluster {
    Cluster::running(config, &Objects::holding((0..MANY).map(|n| address(FIRST, n))))
}

criterion_group!(benches, allocate, release, start, change);
criterion_main!(benches);
