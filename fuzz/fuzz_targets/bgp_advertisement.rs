//! Router Advertisements, and who is taken for the router on a link because of them: nothing panics, what is read is
//! written back as far as it is ours to write, and however much arrives only routers that are new are answered.
#![no_main]

use std::net::Ipv6Addr;
use std::time::Duration;

use ferrolb_bgp::discovery::advertisement::{Advertisement, MAX_LENGTH};
use ferrolb_bgp::discovery::link::{Link, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut link = Link::new(Duration::ZERO, 7);
    let mut now = Duration::ZERO;
    for message in data.chunks(40) {
        let (hop_limit, from) = message.first().map_or((255, 0), |octet| (255 - octet % 2, octet / 2));
        now += Duration::from_millis(u64::from(from) * 100);
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(from) % 4);
        let message = [&[134, 0], message].concat();
        if let Ok(read) = Advertisement::parse(&message, source, hop_limit) {
            let mut buffer = [0; MAX_LENGTH];
            let length = read.emit(&mut buffer);
            assert_eq!(Advertisement::parse(&buffer[..length], source, 255), Ok(read));
            let before = link.router();
            link.heard(now, source, &read);
            let greeting = Message::Advertisement(link.router());
            let due: Vec<Message> = std::iter::from_fn(|| link.poll(now)).collect();
            assert!(due.len() <= 3);
            assert_eq!(due.contains(&greeting), link.router() != before);
        }
    }
});
