//! Packet capture: what passed an interface, kept in memory to be asked about, and in a pcap file to be looked at.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use pnet::datalink::{self, Channel, Config, DataLinkReceiver};
use pnet::packet::ethernet::EthernetPacket;

use crate::client::frames::{find, next_frame};
use crate::net::Namespace;

/// How often the capture looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);
/// Longer frames are cut; an offloading veth hands over up to 64 KiB at once.
const SNAP_LENGTH: usize = 65535;
/// pcap with microseconds, in this machine's byte order (draft-ietf-opsawg-pcap section 4).
const MAGIC: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When it was read.
    pub at: SystemTime,
    /// From the destination address on, without check sequence.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The frame as `pnet` reads it; `None` when it is shorter than an Ethernet header.
    pub fn ethernet(&self) -> Option<EthernetPacket<'_>> {
        EthernetPacket::new(&self.bytes)
    }
}

/// What was captured.
#[derive(Debug, Clone)]
pub struct Frames {
    /// The frames in the order they passed.
    pub frames: Vec<Frame>,
    /// The pcap file that holds them, too.
    pub file: PathBuf,
}

impl Frames {
    /// How many frames are such that `wanted` holds.
    pub fn count(&self, wanted: impl Fn(&EthernetPacket<'_>) -> bool) -> usize {
        self.iter(wanted).count()
    }

    /// The frames for which `wanted` holds.
    pub fn iter(&self, wanted: impl Fn(&EthernetPacket<'_>) -> bool) -> impl Iterator<Item = &Frame> {
        self.frames
            .iter()
            .filter(move |frame| frame.ethernet().is_some_and(|packet| wanted(&packet)))
    }
}

/// A capture at work. Dropping it stops it.
#[derive(Debug)]
pub struct Capture {
    file: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Frame>>>>,
}

impl Capture {
    /// Captures on `interface` in `namespace`, both directions, from before this returns; also into the pcap `file`.
    ///
    /// # Errors
    /// When there is no such interface, or the file cannot be made.
    pub fn start(namespace: &Namespace, interface: &str, file: &Path) -> Result<Self> {
        let receiver = namespace.run(|| open(interface))??;
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let mut out = BufWriter::new(File::create(file).with_context(|| format!("make {}", file.display()))?);
        write_header(&mut out).context("write the capture's header")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || run(receiver, out, &stopped))
            .context("start a capture")?;
        Ok(Self {
            file: file.to_owned(),
            stop,
            thread: Some(thread),
        })
    }

    /// Stops and returns what passed.
    ///
    /// # Errors
    /// When reading or writing has failed in the meantime.
    pub fn stop(mut self) -> Result<Frames> {
        // What is under way on a veth has arrived when the next softirq has run.
        std::thread::sleep(TICK);
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a capture is stopped once")?;
        let frames = thread
            .join()
            .map_err(|_| anyhow::anyhow!("the capture has panicked"))??;
        Ok(Frames {
            frames,
            file: self.file.clone(),
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Nobody asks what it has seen.
            let _ = thread.join();
        }
    }
}

fn open(interface: &str) -> Result<Box<dyn DataLinkReceiver>> {
    let config = Config {
        read_timeout: Some(TICK),
        read_buffer_size: SNAP_LENGTH,
        ..Config::default()
    };
    match datalink::channel(&find(interface)?, config).with_context(|| format!("capture on {interface}"))? {
        Channel::Ethernet(_, receiver) => Ok(receiver),
        _ => bail!("{interface} is no Ethernet interface"),
    }
}

fn run(mut receiver: Box<dyn DataLinkReceiver>, mut out: impl Write, stop: &AtomicBool) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    loop {
        match next_frame(receiver.as_mut())? {
            Some(bytes) => {
                let frame = Frame {
                    at: SystemTime::now(),
                    bytes: bytes.to_vec(),
                };
                write_frame(&mut out, &frame).context("write a frame")?;
                frames.push(frame);
            }
            // Only when nothing waits, so that all that came before the stop is in.
            None if stop.load(Ordering::Relaxed) => break,
            None => {}
        }
    }
    out.flush().context("write the capture")?;
    Ok(frames)
}

fn write_header(out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(&MAGIC.to_ne_bytes())?;
    out.write_all(&2u16.to_ne_bytes())?;
    out.write_all(&4u16.to_ne_bytes())?;
    for field in [0, 0, SNAP_LENGTH as u32, LINKTYPE_ETHERNET] {
        out.write_all(&field.to_ne_bytes())?;
    }
    Ok(())
}

fn write_frame(out: &mut impl Write, frame: &Frame) -> std::io::Result<()> {
    let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = frame.bytes.len() as u32;
    for field in [at.as_secs() as u32, at.subsec_micros(), length, length] {
        out.write_all(&field.to_ne_bytes())?;
    }
    out.write_all(&frame.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_layout_of_pcap() {
        let mut out = Vec::new();
        write_header(&mut out).unwrap();
        let at = UNIX_EPOCH + Duration::from_micros(7_000_009);
        write_frame(
            &mut out,
            &Frame {
                at,
                bytes: vec![0xaa; 14],
            },
        )
        .unwrap();
        assert_eq!(out.len(), 24 + 16 + 14);
        let field = |at: usize| u32::from_ne_bytes(out[at..at + 4].try_into().unwrap());
        assert_eq!((field(0), field(16), field(20)), (0xa1b2_c3d4, 65535, 1));
        assert_eq!((field(24), field(28), field(32), field(36)), (7, 9, 14, 14));
    }
}
