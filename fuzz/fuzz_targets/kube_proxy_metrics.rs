//! What kube-proxy's `/metrics` says: nothing panics, pieces of any size read the same, and what was read can be judged.
#![no_main]

use std::time::Duration;

use ferrolb_speaker_core::{Beginning, DataPath, ProxyAnswer, Scrape};
use libfuzzer_sys::fuzz_target;

fn read(data: &[u8], piece: usize) -> ferrolb_speaker_core::Reading {
    let mut scrape = Scrape::default();
    data.chunks(piece).for_each(|part| scrape.feed(part));
    scrape.end()
}

fuzz_target!(|data: &[u8]| {
    let reading = read(data, 7);
    assert_eq!(reading, read(data, data.len().max(1)));
    let mut path = DataPath::new("node-a");
    for seconds in [1, 2_000_000_000] {
        let wall = Duration::from_secs(seconds);
        let reading = reading.clone();
        path.answered(
            ProxyAnswer::Reading {
                reading,
                wall,
                took: Duration::ZERO,
            },
            wall,
        );
        let beginning = Beginning {
            address: [192, 0, 2, 7].into(),
            terminating: true,
            asked: Duration::ZERO,
        };
        let _ = path.ready(beginning, []);
    }
});
