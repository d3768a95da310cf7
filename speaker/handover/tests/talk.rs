//! Both sides over a real socket: whoever ends or falls silent, whenever, the work has one owner at most.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use ferrolb_handover::frame::{HEADER, Header, Word, parse};
use ferrolb_handover::{Borrower, Door, Error, Lender, PATIENCE, Part, Share};
use proptest::prelude::*;

/// Where one of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Greeted,
    Asked,
    Given,
    Complete,
    Rest,
    Never,
}

const LENDER: [End; 5] = [End::Greeted, End::Given, End::Complete, End::Rest, End::Never];
const BORROWER: [End; 3] = [End::Greeted, End::Asked, End::Never];

fn share<'a>(text: &str, file: &'a File) -> Share<'a> {
    Share {
        text: text.to_owned(),
        files: vec![file.as_fd()],
    }
}

/// The predecessor, up to `end`; whether it has given the work away.
fn lend(stream: UnixStream, end: End, file: &File) -> Result<bool, Error> {
    let mut lender = Lender::greet(stream, "node-a")?;
    if end == End::Greeted {
        return Ok(false);
    }
    for number in 0..3 {
        lender.give(&share(&number.to_string(), file))?;
        if end == End::Given {
            return Ok(false);
        }
    }
    lender.complete()?;
    if end == End::Complete {
        return Ok(false);
    }
    lender.give(&share("rest", file))?;
    if end == End::Rest {
        return Ok(false);
    }
    lender.go().map(|_| true)
}

/// The successor, up to `end`; whether it has the work.
fn borrow(stream: UnixStream, end: End) -> Result<bool, Error> {
    let borrower = Borrower::over(stream)?;
    if end == End::Greeted {
        return Ok(false);
    }
    let parts = borrower.ask("node-a")?;
    if end == End::Asked {
        return Ok(false);
    }
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| part.files.len() == 1));
    let (rest, _) = borrower.take()?;
    assert_eq!(rest.iter().map(|part| part.text.as_str()).collect::<Vec<_>>(), ["rest"]);
    Ok(true)
}

#[test]
fn the_work_has_one_owner() {
    for lender_ends in LENDER {
        for borrower_ends in BORROWER {
            let (theirs, ours) = UnixStream::pair().unwrap();
            let file = File::open("/dev/null").unwrap();
            let lender = thread::spawn(move || lend(theirs, lender_ends, &file));
            let has = borrow(ours, borrower_ends).unwrap_or(false);
            let given = lender.join().unwrap().unwrap_or(false);
            let at = format!("{lender_ends:?}, {borrower_ends:?}");
            let whole = (lender_ends, borrower_ends) == (End::Never, End::Never);
            assert_eq!((given, has), (whole, whole), "{at}");
        }
    }
}

#[test]
fn descriptors_and_long_texts_arrive() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let long = "x".repeat(3 << 20);
    let sent = long.clone();
    let lender = thread::spawn(move || {
        let mut lender = Lender::greet(theirs, "node-a").unwrap();
        let (mut told, read) = UnixStream::pair().unwrap();
        told.write_all(b"hello").unwrap();
        drop(told);
        let files = vec![read.as_fd(); ferrolb_handover::frame::FILES_MAX];
        let text = sent;
        lender.give(&Share { text, files }).unwrap();
        lender.complete().unwrap();
        lender.go().unwrap().ended();
    });
    let borrower = Borrower::over(ours).unwrap();
    let [Part { text, files }] = borrower.ask("node-a").unwrap().try_into().unwrap();
    assert!(text == long && files.len() == ferrolb_handover::frame::FILES_MAX);
    let mut said = String::new();
    let mut stream = UnixStream::from(files.into_iter().next_back().unwrap());
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    let (_, predecessor) = borrower.take().unwrap();
    assert!(!lender.is_finished(), "it waits for the end of the successor");
    drop(predecessor);
    lender.join().unwrap();
}

#[test]
fn who_is_somebody_else_is_refused() {
    let dir = std::env::temp_dir().join(format!("ferrolb-handover-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("speaker.sock");
    assert!(Borrower::connect(&path).unwrap().is_none(), "nobody is there");
    drop(Door::open(&path).unwrap());
    assert!(Borrower::connect(&path).unwrap().is_none(), "it has ended");
    let door = Door::open(&path).unwrap();
    let knock = thread::spawn(move || {
        let borrower = Borrower::connect(&path).unwrap().unwrap();
        borrower.ask("node-b").unwrap_err().to_string()
    });
    let refused = Lender::greet(door.accept().unwrap(), "node-a").unwrap_err();
    assert!(matches!(refused, Error::Refused(_)), "{refused}");
    let told = knock.join().unwrap();
    assert!(told.contains("node-a") && told.contains("node-b"), "{told}");
    std::fs::remove_dir_all(&dir).unwrap();

    let (theirs, mut ours) = UnixStream::pair().unwrap();
    let hello = br#"{"Hello":{"version":99,"node":"node-a"}}"#;
    let length = u32::try_from(hello.len()).unwrap();
    ours.write_all(&Header { files: 0, length }.emit()).unwrap();
    ours.write_all(hello).unwrap();
    let refused = Lender::greet(theirs, "node-a").unwrap_err().to_string();
    assert!(refused.contains("version 99"), "{refused}");
}

#[test]
fn nobody_waits_for_ever() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let silent = Lender::greet(theirs, "node-a").unwrap_err();
    assert!(matches!(silent, Error::Silent), "{silent}");
    drop(ours);

    // One that says that it reads, and does so too slowly: it has the one time for all parts.
    let (theirs, ours) = UnixStream::pair().unwrap();
    let hello = Borrower::over(ours.try_clone().unwrap()).unwrap();
    let asks = thread::spawn(move || hello.ask("node-a"));
    let lender = Lender::greet(theirs, "node-a").unwrap();
    let file = File::open("/dev/null").unwrap();
    let begin = Instant::now();
    let slow = loop {
        if let Err(error) = lender.give(&share("x", &file)) {
            break error;
        }
        thread::sleep(PATIENCE / 20);
    };
    assert!(matches!(slow, Error::Silent), "{slow}");
    assert!(begin.elapsed() < PATIENCE * 2, "{:?}", begin.elapsed());
    drop(lender);
    assert!(asks.join().unwrap().is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_a_word_or_none(bytes: Vec<u8>, header: [u8; HEADER]) {
        if let Ok(header) = Header::parse(header) {
            prop_assert_eq!(Header::parse(header.emit()).unwrap(), header);
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn a_word_is_read_as_it_was_written(version: u32, node: String, text: String) {
        for word in [Word::Hello { version, node }, Word::Part { text }, Word::Complete, Word::Ready, Word::Go] {
            let written = serde_json::to_vec(&word).unwrap();
            prop_assert_eq!(parse(&written).unwrap(), word);
        }
    }

    /// A peer that says anything at all, in place of the other side.
    #[test]
    fn whatever_the_other_side_says(bytes in prop::collection::vec(any::<u8>(), 0..64), proper: bool) {
        let (theirs, mut ours) = UnixStream::pair().unwrap();
        if proper {
            let length = u32::try_from(bytes.len()).unwrap();
            ours.write_all(&Header { files: 0, length }.emit()).unwrap();
        }
        ours.write_all(&bytes).unwrap();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        prop_assert!(Lender::greet(theirs, "node-a").is_err());
    }
}
