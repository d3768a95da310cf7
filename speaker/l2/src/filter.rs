//! Classic BPF programs that let through exactly the frames the responder would look at: the kernel drops the rest
//! before it wakes anybody. Pure: a program is a list of [`Instruction`]s, `io` attaches it.
//!
//! ARP passes when its target or its sender address is in the set, a solicitation or advertisement when its target is.
//! Of the peers, whose answers are waited for, only what they send passes: ARP with their sender address, advertisements
//! of their target.
//! Solicitations for some addresses are heard aside, by a raw socket that knows less of a packet than a packet socket does
//! ([`solicitations`]). Those that it can tell all of do not pass to the packet socket; they are sent to a group and begin
//! their options with the source's link-layer address, as every kernel's do that looks for a neighbour. What else asks for
//! these addresses (duplicate detection, a unicast probe) passes there.
//! Frames to other stations, sent by this machine, or tagged for a VLAN never pass. (A tag is in the metadata of the
//! frame, not in its bytes: the kernel takes it off before a packet socket sees it. VLAN 0 is a priority, no VLAN.)
//!
//! Addresses are merged to ranges and searched by a binary tree, since a chain of 1,000 comparisons costs a
//! microsecond a frame. A program has at most 4,096 instructions; beyond that, [`everything`] passes all of the
//! protocol and the responder, which checks every frame anyway, does the rest.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::counters::Family;

/// One instruction of classic BPF, as `struct sock_filter` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Class, size, mode, operation.
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// The addresses need a longer program than the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{instructions} instructions are needed, the kernel takes {MAX_INSTRUCTIONS}")]
pub struct TooLarge {
    /// How many instructions it would have.
    pub instructions: usize,
}

/// BPF_MAXINSNS.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A load of four octets at an absolute offset.
const LOAD_WORD: u16 = 0x20;
/// A load of two octets.
const LOAD_HALF: u16 = 0x28;
/// An unconditional jump by `k`.
const JUMP: u16 = 0x05;
/// Jump if equal.
const JUMP_EQUAL: u16 = 0x15;
/// Jump if greater.
const JUMP_GREATER: u16 = 0x25;
/// Jump if greater or equal.
const JUMP_AT_LEAST: u16 = 0x35;
/// Jump if a bit of `k` is set.
const JUMP_SET: u16 = 0x45;
/// End: keep `k` octets of the frame, 0 drops it.
const RETURN: u16 = 0x06;

/// SKF_AD_PKTTYPE: 0 to this station, 1 broadcast, 2 multicast; 3 to another station, 4 sent by this machine.
const METADATA_PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// SKF_AD_VLAN_TAG: the tag control information.
const METADATA_VLAN_TAG: u32 = 0xffff_f000 + 44;
/// SKF_AD_VLAN_TAG_PRESENT.
const METADATA_VLAN_PRESENT: u32 = 0xffff_f000 + 48;

const PACKET_TYPE_MULTICAST: u32 = 2;
const VLAN_ID: u32 = 0x0fff;
const KEEP_ALL: u32 = 0x0004_0000;

const DROP: Instruction = Instruction {
    code: RETURN,
    jt: 0,
    jf: 0,
    k: 0,
};

/// Stands for a distance not yet known; no real conditional jump here is that long.
const PENDING: u8 = u8::MAX;

/// Ranges a leaf of the tree tries one after the other.
const LEAF: usize = 8;

const ARP_SENDER: u32 = 28;
const ARP_TARGET: u32 = 38;

/// Where the fields of Neighbor Discovery are in what the program sees.
struct Layout {
    /// Next header and hop limit.
    next_header: u32,
    /// The first octets of the destination.
    destination: u32,
    /// Type and code.
    kind: u32,
    target: u32,
    /// Type and length of the first option.
    option: u32,
}

/// In a frame.
const FRAME: Layout = Layout {
    next_header: 20,
    destination: 38,
    kind: 54,
    target: 62,
    option: 78,
};
/// In an ICMPv6 message, as a raw socket gets it; the header is at SKF_NET_OFF.
const MESSAGE: Layout = Layout {
    next_header: 0xfff0_0000 + 6,
    destination: 0xfff0_0000 + 24,
    kind: 0,
    target: 8,
    option: 24,
};
/// Of the frame: octets after the IPv6 header.
const PAYLOAD_LENGTH: u32 = 18;

/// ICMPv6, hop limit 255.
const DISCOVERY: u32 = 0x3aff;
const SOLICITATION: u32 = 0x8700;
const ADVERTISEMENT: u32 = 0x8800;
/// How multicast addresses begin that are valid on the link.
const LINK_GROUP: u32 = 0xff02;
/// A source link-layer address of Ethernet.
const SOURCE_LINK_LAYER: u32 = 0x0101;
/// Octets of a solicitation with that option.
const WITH_OPTION: u32 = 32;

/// Passes ARP whose target or sender address is one of `addresses`, or whose sender address is one of `peers`.
pub fn arp(addresses: &BTreeSet<Ipv4Addr>, peers: &BTreeSet<Ipv4Addr>) -> Result<Vec<Instruction>, TooLarge> {
    let bits = |address: &Ipv4Addr| address.to_bits();
    let targets = merge(addresses.iter().map(bits).collect());
    let senders = merge(addresses.union(peers).map(bits).collect());
    let mut program = Assembler::new(Family::Arp);
    for (offset, ranges) in [(ARP_TARGET, targets), (ARP_SENDER, senders)] {
        if !ranges.is_empty() {
            let mut missed = Missed::new();
            program.load(offset);
            program.search(&ranges, &mut missed);
            program.land(missed);
        }
    }
    program.finish()
}

/// Passes solicitations and advertisements whose target is one of `addresses` or `aside`, but for the solicitations that
/// [`solicitations`] passes of the latter; and advertisements whose target is one of `peers`.
pub fn ndp(
    addresses: &BTreeSet<Ipv6Addr>,
    aside: &BTreeSet<Ipv6Addr>,
    peers: &BTreeSet<Ipv6Addr>,
) -> Result<Vec<Instruction>, TooLarge> {
    let mut program = Assembler::new(Family::Ndp);
    program.search_words(FRAME.target, addresses);
    if !aside.is_empty() {
        program.drop_if(&[
            (LOAD_HALF, FRAME.kind, Check::Equal(SOLICITATION)),
            (LOAD_WORD, METADATA_PACKET_TYPE, Check::Equal(PACKET_TYPE_MULTICAST)),
            (LOAD_HALF, FRAME.destination, Check::Equal(LINK_GROUP)),
            (LOAD_HALF, PAYLOAD_LENGTH, Check::AtLeast(WITH_OPTION)),
            (LOAD_HALF, FRAME.option, Check::Equal(SOURCE_LINK_LAYER)),
        ]);
        program.search_words(FRAME.target, aside);
    }
    if !peers.is_empty() {
        program.check(&[(LOAD_HALF, FRAME.kind, Check::Equal(ADVERTISEMENT))]);
        program.search_words(FRAME.target, peers);
    }
    program.finish()
}

/// Passes all ARP, or all solicitations and advertisements, that came in for this station.
pub fn everything(family: Family) -> Vec<Instruction> {
    let mut program = Assembler::new(family);
    program.accept();
    program.code
}

/// For a raw ICMPv6 socket: passes solicitations with a source link-layer address that were sent to a group and whose
/// target is one of `addresses`.
pub fn solicitations(addresses: &BTreeSet<Ipv6Addr>) -> Result<Vec<Instruction>, TooLarge> {
    let mut program = Assembler::raw();
    program.search_words(MESSAGE.target, addresses);
    program.finish()
}

/// The same for all targets.
pub fn every_solicitation() -> Vec<Instruction> {
    let mut program = Assembler::raw();
    program.accept();
    program.code
}

/// Passes nothing, whatever the socket.
pub fn nothing() -> Vec<Instruction> {
    vec![DROP]
}

/// Inclusive bounds of consecutive values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
}

/// Sorted ranges that hold exactly these values.
fn merge(mut values: Vec<u32>) -> Vec<Range> {
    values.sort_unstable();
    let mut ranges: Vec<Range> = Vec::new();
    for value in values {
        match ranges.last_mut() {
            Some(range) if value <= range.last.saturating_add(1) => range.last = value,
            _ => ranges.push(Range {
                first: value,
                last: value,
            }),
        }
    }
    ranges
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let octets = address.octets();
    let (words, _) = octets.as_chunks::<4>();
    [0, 1, 2, 3].map(|index: usize| u32::from_be_bytes(words[index]))
}

/// Where a jump out of the search is, waiting for its distance: always an unconditional jump, whose distance has 32
/// bits, while a conditional one reaches 255 instructions.
type Missed = Vec<usize>;

struct Assembler {
    code: Vec<Instruction>,
}

impl Assembler {
    /// Starts with what all programs of the family have in common.
    fn new(family: Family) -> Assembler {
        let mut program = Assembler { code: Vec::new() };
        match family {
            Family::Arp => program.check(&[
                (LOAD_WORD, METADATA_PACKET_TYPE, Check::AtMost(PACKET_TYPE_MULTICAST)),
                (LOAD_HALF, 12, Check::Equal(0x0806)),
                // Hardware type Ethernet and protocol type IPv4, lengths 6 and 4, a request or a reply.
                (LOAD_WORD, 14, Check::Equal(0x0001_0800)),
                (LOAD_HALF, 18, Check::Equal(0x0604)),
                (LOAD_HALF, 20, Check::OneOf(1, 2)),
            ]),
            Family::Ndp => program.check(&[
                (LOAD_WORD, METADATA_PACKET_TYPE, Check::AtMost(PACKET_TYPE_MULTICAST)),
                (LOAD_HALF, 12, Check::Equal(0x86dd)),
                (LOAD_HALF, FRAME.next_header, Check::Equal(DISCOVERY)),
                (LOAD_HALF, FRAME.kind, Check::OneOf(SOLICITATION, ADVERTISEMENT)),
                (
                    LOAD_WORD,
                    METADATA_VLAN_PRESENT,
                    Check::ZeroOr(METADATA_VLAN_TAG, VLAN_ID),
                ),
            ]),
        }
        program
    }

    /// Starts with what all programs of a raw socket have in common.
    fn raw() -> Assembler {
        let mut program = Assembler { code: Vec::new() };
        program.check(&[
            (LOAD_WORD, METADATA_PACKET_TYPE, Check::Equal(PACKET_TYPE_MULTICAST)),
            (LOAD_HALF, MESSAGE.next_header, Check::Equal(DISCOVERY)),
            (LOAD_HALF, MESSAGE.destination, Check::Equal(LINK_GROUP)),
            (LOAD_HALF, MESSAGE.kind, Check::Equal(SOLICITATION)),
            (LOAD_HALF, MESSAGE.option, Check::Equal(SOURCE_LINK_LAYER)),
        ]);
        program
    }

    /// Loads and compares; drops the frame at the first comparison that fails.
    fn check(&mut self, checks: &[(u16, u32, Check)]) {
        let start = self.compare(checks);
        // The drop stands here and not at the end, where conditional jumps do not reach.
        self.push(JUMP, 0, 0, 1);
        self.land_pending(start);
        self.code.push(DROP);
    }

    /// Loads and compares; drops the frame if no comparison fails, goes on at the first that does.
    fn drop_if(&mut self, checks: &[(u16, u32, Check)]) {
        let start = self.compare(checks);
        self.code.push(DROP);
        self.land_pending(start);
    }

    /// Loads and compares; where to go when a comparison fails is pending from the position returned on.
    fn compare(&mut self, checks: &[(u16, u32, Check)]) -> usize {
        let start = self.code.len();
        for (load, offset, check) in checks {
            self.push(*load, 0, 0, *offset);
            match check {
                Check::Equal(value) => self.push(JUMP_EQUAL, 0, PENDING, *value),
                Check::AtLeast(value) => self.push(JUMP_AT_LEAST, 0, PENDING, *value),
                Check::AtMost(value) => self.push(JUMP_GREATER, PENDING, 0, *value),
                Check::OneOf(one, other) => {
                    self.push(JUMP_EQUAL, 1, 0, *one);
                    self.push(JUMP_EQUAL, 0, PENDING, *other);
                }
                Check::ZeroOr(offset, bits) => {
                    self.push(JUMP_EQUAL, 2, 0, 0);
                    self.push(LOAD_WORD, 0, 0, *offset);
                    self.push(JUMP_SET, PENDING, 0, *bits);
                }
            }
        }
        start
    }

    /// Makes the conditional jumps from `start` on that are pending land on the next instruction.
    fn land_pending(&mut self, start: usize) {
        let target = self.code.len();
        for (position, instruction) in self.code.iter_mut().enumerate().skip(start) {
            let distance = (target - position - 1) as u8;
            for jump in [&mut instruction.jt, &mut instruction.jf] {
                if *jump == PENDING {
                    *jump = distance;
                }
            }
        }
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.code.push(Instruction { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD_WORD, 0, 0, offset);
    }

    fn accept(&mut self) {
        self.push(RETURN, 0, 0, KEEP_ALL);
    }

    fn miss(&mut self, missed: &mut Missed) {
        missed.push(self.code.len());
        self.push(JUMP, 0, 0, 0);
    }

    /// Makes the jumps in `missed` land on the next instruction.
    fn land(&mut self, missed: Missed) {
        for position in missed {
            self.code[position].k = (self.code.len() - position - 1) as u32;
        }
    }

    /// Looks for the loaded word in `ranges`: accepts the frame if it is there, jumps to `missed` if not.
    fn search(&mut self, ranges: &[Range], missed: &mut Missed) {
        if ranges.len() <= LEAF {
            return self.leaf(ranges, missed);
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        self.push(JUMP_AT_LEAST, 0, 1, right[0].first);
        let mut to_right = Missed::new();
        self.miss(&mut to_right);
        self.search(left, missed);
        self.land(to_right);
        self.search(right, missed);
    }

    /// Tries a few ranges in turn; all share one accept.
    fn leaf(&mut self, ranges: &[Range], missed: &mut Missed) {
        let mut accepting = Vec::new();
        for range in ranges {
            if range.first == range.last {
                accepting.push(self.code.len());
                self.push(JUMP_EQUAL, PENDING, 0, range.first);
            } else {
                self.push(JUMP_AT_LEAST, 0, 1, range.first);
                accepting.push(self.code.len());
                self.push(JUMP_GREATER, 0, PENDING, range.last);
            }
        }
        self.miss(missed);
        let target = self.code.len();
        for position in accepting {
            let distance = (target - position - 1) as u8;
            let instruction = &mut self.code[position];
            if instruction.jt == PENDING {
                instruction.jt = distance;
            } else {
                instruction.jf = distance;
            }
        }
        self.accept();
    }

    /// Looks for the address at `offset` among these: accepts the frame if it is there, goes on if not.
    fn search_words(&mut self, offset: u32, addresses: &BTreeSet<Ipv6Addr>) {
        if !addresses.is_empty() {
            // A set is sorted as its words are.
            let words: Vec<[u32; 4]> = addresses.iter().copied().map(words).collect();
            let mut missed = Missed::new();
            self.match_words(offset, &words, 0, &mut missed);
            self.land(missed);
        }
    }

    /// Compares the address with those that agree in all words before `index`.
    fn match_words(&mut self, offset: u32, addresses: &[[u32; 4]], index: usize, missed: &mut Missed) {
        self.load(offset + 4 * index as u32);
        if index == 3 {
            let ranges = merge(addresses.iter().map(|words| words[3]).collect());
            return self.search(&ranges, missed);
        }
        let groups: Vec<&[[u32; 4]]> = addresses.chunk_by(|a, b| a[index] == b[index]).collect();
        self.match_groups(offset, &groups, index, missed);
    }

    /// A binary tree over groups of addresses that differ in word `index`, each with its own search of the next word.
    fn match_groups(&mut self, offset: u32, groups: &[&[[u32; 4]]], index: usize, missed: &mut Missed) {
        if let [group] = groups {
            self.push(JUMP_EQUAL, 1, 0, group[0][index]);
            self.miss(missed);
            return self.match_words(offset, group, index + 1, missed);
        }
        let (left, right) = groups.split_at(groups.len() / 2);
        self.push(JUMP_AT_LEAST, 0, 1, right[0][0][index]);
        let mut to_right = Missed::new();
        self.miss(&mut to_right);
        self.match_groups(offset, left, index, missed);
        self.land(to_right);
        self.match_groups(offset, right, index, missed);
    }

    fn finish(mut self) -> Result<Vec<Instruction>, TooLarge> {
        self.code.push(DROP);
        let instructions = self.code.len();
        if instructions > MAX_INSTRUCTIONS {
            Err(TooLarge { instructions })
        } else {
            Ok(self.code)
        }
    }
}

/// What a loaded value must be.
enum Check {
    Equal(u32),
    AtLeast(u32),
    AtMost(u32),
    OneOf(u32, u32),
    /// Zero; or else the word at this offset has none of these bits.
    ZeroOr(u32, u32),
}

#[cfg(test)]
mod tests;
