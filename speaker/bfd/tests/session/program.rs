//! For tests: the driver with one session, in a process that can be killed and stopped. It is told the peer, the interval in
//! milliseconds, the multiplier and a file, and writes there with each report how often the session went down.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use ferrolb_bfd::{Lent, Path, Settings, Wanted, WantedSession, spawn_thread};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [peer, milliseconds, multiplier, told] = &words[..] else {
        panic!("a peer, an interval, a multiplier and a file, and not {words:?}");
    };
    let interval = Duration::from_millis(milliseconds.parse().expect("an interval"));
    let settings = Settings {
        receive: interval,
        transmit: interval,
        multiplier: multiplier.parse().expect("a multiplier"),
        passive: false,
    };
    let mut told = std::fs::File::create(told).expect("a file");
    let (handle, thread) = spawn_thread(Lent::default(), move |report| {
        writeln!(told, "{}", report.status.downs).is_ok()
    })
    .expect("a thread");
    let session = WantedSession {
        settings,
        minimum_ttl: 254,
        discriminator: None,
    };
    let sessions = [(Arc::new(Path::new(peer.parse().expect("an address"))), session)].into();
    handle.set(Arc::new(Wanted { sessions }));
    // Whoever started it kills it long before.
    std::thread::sleep(Duration::from_secs(60));
    drop(handle);
    thread.join().expect("no panic").expect("no error");
}
