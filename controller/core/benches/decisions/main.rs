//! How long the core's decisions take: `cargo bench -p ferrolb-controller-core`.
//!
//! Time counts from an input to the effects that the shell can begin with. Performing the writes and bringing the
//! cluster back to where it was is not counted. A cluster is made only for a bench that runs, so a name on the command line
//! saves the time of all others.

mod cluster;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ferrolb_controller_core::{Effect, Input, RebalanceRequest, Write};
use ferrolb_model::{Config, Family};

use cluster::{Cluster, Objects, address, apart, config, node, service};

/// As many as the largest bench has.
const MANY: usize = 100_000;
/// Room for [`MANY`].
const ROOM: &str = "10.0.0.0/8";

/// The first address of [`ROOM`].
fn first() -> IpAddr {
    IpAddr::from([10, 0, 0, 0])
}

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
    let mut bench = |name: &str, ranges: &[&str], taken: usize, step: usize| {
        let config = config(ranges);
        let first = config.pools["pool"].ranges[0].first();
        let objects = || Objects::holding((0..taken).map(|n| address(first, n * step)));
        let mut cluster = LazyCell::new(|| Cluster::running(&config, &objects()));
        group.bench_function(name, |b| {
            let cluster = &mut *cluster;
            let mut turn = || allocation(cluster, Family::of(first));
            b.iter_custom(|times| (0..times).map(|_| turn()).sum());
        });
    };
    bench("65536, 60000 taken", &["10.0.0.0/16"], 60_000, 1);
    bench("256, 200 taken", &["10.0.0.0/24"], 200, 1);
    bench("4096, 200 taken", &["10.0.0.0/20"], 200, 1);
    bench("65536, 200 taken", &["10.0.0.0/16"], 200, 1);
    bench("2^24, 200 taken", &["10.0.0.0/8"], 200, 1);
    bench("IPv6 64, 200 taken", &["2001:db8::/64"], 200, 1);
    bench("IPv6 64, 60000 taken", &["2001:db8::/64"], 60_000, 1);
    bench("65536, every second taken", &["10.0.0.0/16"], 32_768, 2);
    let ranges = (0..=255).map(|n| format!("10.0.{n}.0/24")).collect::<Vec<_>>();
    let ranges = ranges.iter().map(String::as_str).collect::<Vec<_>>();
    bench("256 ranges of 256, 60000 taken", &ranges, 60_000, 1);
}

fn release(c: &mut Criterion) {
    let objects = || Objects::holding((0..60_000).map(|n| address(first(), n)));
    let mut cluster = LazyCell::new(|| Cluster::running(&config(&["10.0.0.0/16"]), &objects()));
    c.bench_function("release/65536, 60000 taken", |b| {
        let cluster = &mut *cluster;
        let mut turn = || {
            let view = service("new", Family::V4);
            let id = view.id.clone();
            let news = cluster.put(view);
            timed(cluster, news);
            let news = cluster.delete(&id);
            timed(cluster, news)
        };
        b.iter_custom(|times| (0..times).map(|_| turn()).sum());
    });
}

/// What a controller does that starts in a cluster of many Services.
fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start with 100000 Services");
    group.sample_size(10);
    let config = config(&[ROOM]);
    for name in ["all held", "all new"] {
        let objects = LazyCell::new(|| match name {
            "all held" => settled(&config).objects(),
            _ => Objects::new_services(MANY),
        });
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
                    let mut cluster = Cluster::listed(&config, &objects);
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
    let narrow = Arc::clone(&configs[1]);
    let mut cluster = LazyCell::new(|| settled(&narrow));
    let up = Input::Node(node("node-1"));
    for (name, news) in [
        ("a range is added or taken away", configs.map(Input::Config)),
        ("a label of a node changes", [Input::Node(labelled), up.clone()]),
        ("a node is lost or comes back", [Input::Node(down), up]),
    ] {
        let mut turns = news.iter().cycle().cloned();
        group.bench_function(name, |b| {
            let cluster = &mut *cluster;
            let mut turn = || timed(cluster, turns.next().expect("an endless cycle"));
            b.iter_custom(|times| (0..times).map(|_| turn()).sum());
        });
    }
    group.bench_function("pool_usage", |b| {
        b.iter(|| black_box(cluster.controller().pool_usage()))
    });
    group.bench_function("pending_by_reason", |b| {
        b.iter(|| black_box(cluster.controller().pending_by_reason()));
    });
    group.finish();
}

/// Addresses on nodes.
fn place(c: &mut Criterion) {
    const ADDRESSES: usize = 10_000;
    const NODES: usize = 1_000;
    let mut group = c.benchmark_group("placement of 10000 on 1000 nodes");
    group.sample_size(10);
    let announced = config(&[ROOM]);
    let silent = |config: &Config| {
        let mut config = config.clone();
        config.l2_advertisements.clear();
        Arc::new(config)
    };
    let nodes = |count| (0..count).map(|n| node(&format!("rack-{}-node-{n:04}", n % 20)));
    let objects = LazyCell::new(|| Objects::holding((0..ADDRESSES).map(|n| address(first(), n))));
    let on = |count, config: &Config, objects: &Objects| {
        let mut cluster = Cluster::listed(&silent(config), objects);
        for view in nodes(count) {
            cluster.handle(Input::Node(view));
        }
        let effects = cluster.handle(Input::Synced);
        cluster.settle(effects);
        cluster
    };
    let fresh = |config: &Config, objects: &Objects| on(NODES, config, objects);
    let placed = |effects: &[Effect]| {
        let placed = |e: &&Effect| matches!(e, Effect::Write(Write::SetVirtualIpStatus { placement: Some(_), .. }));
        effects.iter().filter(placed).count()
    };
    let from_nothing = |config: &Arc<Config>, objects: &Objects| {
        let mut cluster = fresh(config, objects);
        let begin = Instant::now();
        let effects = black_box(cluster.handle(Input::Config(Arc::clone(config))));
        let time = begin.elapsed();
        assert_eq!(placed(&effects), ADDRESSES);
        time
    };
    group.bench_function("from nothing", |b| {
        b.iter_custom(|times| (0..times).map(|_| from_nothing(&announced, &objects)).sum());
    });
    group.bench_function("from nothing, ten of each app apart", |b| {
        let mut config = Config::clone(&announced);
        let policy = apart();
        config.announcement_policies.insert(policy.name.clone(), policy);
        let config = Arc::new(config);
        let objects = Objects::holding((0..ADDRESSES).map(|n| address(first(), n))).labelled(10);
        b.iter_custom(|times| (0..times).map(|_| from_nothing(&config, &objects)).sum());
    });
    group.bench_function("a rebalance", |b| {
        b.iter_custom(|times| {
            let run = |n| {
                let mut cluster = fresh(&announced, &objects);
                let effects = cluster.handle(Input::Config(Arc::clone(&announced)));
                cluster.settle(effects);
                cluster.confirm();
                cluster.handle(Input::Node(node("an-empty-one")));
                let request = |text: String| RebalanceRequest { text, budget: Some(5) };
                let begin = Instant::now();
                black_box(cluster.handle(Input::Rebalance(Some(request(format!("first {n}"))))));
                cluster.handle(Input::NodeGone("an-empty-one".to_owned()));
                black_box(cluster.handle(Input::Rebalance(Some(request(format!("second {n}"))))));
                begin.elapsed()
            };
            (0..times).map(run).sum()
        });
    });
    group.bench_function("one node is lost", |b| {
        b.iter_custom(|times| {
            let run = |_| {
                let mut cluster = fresh(&announced, &objects);
                let effects = cluster.handle(Input::Config(Arc::clone(&announced)));
                cluster.settle(effects);
                let mut down = nodes(NODES).next().expect("a node");
                down.ready = false;
                let begin = Instant::now();
                let effects = black_box(cluster.handle(Input::Node(down)));
                let time = begin.elapsed();
                assert!(placed(&effects) < ADDRESSES / 100, "owner or standby of few");
                time
            };
            (0..times).map(run).sum()
        });
    });
    group.finish();
    for count in [100, 500, NODES] {
        let effects = on(count, &announced, &objects).handle(Input::Config(Arc::clone(&announced)));
        let (median, most) = heartbeat_partners(&effects);
        println!("{ADDRESSES} addresses on {count} nodes: each has {median} partners in heartbeats, at most {most}");
    }
}

/// With how many others a node exchanges heartbeats, as owner or as standby: the median, and the most.
fn heartbeat_partners(effects: &[Effect]) -> (usize, usize) {
    let mut partners = BTreeMap::<&str, BTreeSet<&str>>::new();
    for effect in effects {
        let Effect::Write(Write::SetVirtualIpStatus {
            placement: Some(placed),
            ..
        }) = effect
        else {
            continue;
        };
        for standby in &placed.standbys {
            partners.entry(&placed.owner).or_default().insert(standby);
            partners.entry(standby).or_default().insert(&placed.owner);
        }
    }
    let mut counts = partners.values().map(BTreeSet::len).collect::<Vec<_>>();
    counts.sort_unstable();
    (counts[counts.len() / 2], counts[counts.len() - 1])
}

/// [`MANY`] Services that have their addresses.
fn settled(config: &Arc<Config>) -> Cluster {
    Cluster::running(config, &Objects::holding((0..MANY).map(|n| address(first(), n))))
}

criterion_group!(benches, allocate, release, start, change, place);
criterion_main!(benches);
