//! As much BGP as a bench speaks by itself, without the crates that it measures: OPEN, KEEPALIVE, and UPDATEs of IPv4
//! prefixes (RFC 4271 section 4).

use std::net::Ipv4Addr;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
pub(super) const KEEPALIVE: u8 = 4;

/// Prefixes of 32 bits that fit into a message beside its attributes.
const FULL: usize = 780;

pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap_or(u16::MAX);
    [&[0xff; 16], &length.to_be_bytes()[..], &[kind], body].concat()
}

/// An OPEN for IPv4 with a hold time of 90 s.
pub(super) fn open(asn: u32, id: Ipv4Addr) -> Vec<u8> {
    let capabilities = [&[1, 4, 0, 1, 0, 1, 65, 4][..], &asn.to_be_bytes()].concat();
    let two_octets = u16::try_from(asn).unwrap_or(23456).to_be_bytes();
    let body = [
        &[4][..],
        &two_octets,
        &[0, 90],
        &id.octets(),
        &[u8::try_from(capabilities.len() + 2).unwrap_or(u8::MAX), 2],
        &[u8::try_from(capabilities.len()).unwrap_or(u8::MAX)],
        &capabilities,
    ];
    message(OPEN, &body.concat())
}

/// UPDATEs that announce these addresses on a session between two AS, in the fewest messages.
pub(super) fn announce(asn: u32, next_hop: Ipv4Addr, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let attributes = [
        &[64, 1, 1, 0, 64, 2, 6, 2, 1][..],
        &asn.to_be_bytes(),
        &[64, 3, 4],
        &next_hop.octets(),
    ]
    .concat();
    let length = u16::try_from(attributes.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut stream = Vec::new();
    for some in addresses.chunks(FULL) {
        let prefixes: Vec<u8> = some
            .iter()
            .flat_map(|a| [[32].as_slice(), &a.octets()].concat())
            .collect();
        stream.extend(message(
            UPDATE,
            &[&[0, 0], &length[..], &attributes, &prefixes].concat(),
        ));
    }
    stream
}

/// What an UPDATE says of IPv4: prefixes withdrawn and announced, without their lengths.
pub(super) fn read_update(body: &[u8]) -> Option<(Vec<Ipv4Addr>, Vec<Ipv4Addr>)> {
    let part = |from: usize| -> Option<(usize, usize)> {
        let length = usize::from(u16::from_be_bytes([*body.get(from)?, *body.get(from + 1)?]));
        Some((from + 2, from + 2 + length))
    };
    let (withdrawn, end) = part(0)?;
    let (_, attributes_end) = part(end)?;
    Some((
        prefixes(body.get(withdrawn..end)?)?,
        prefixes(body.get(attributes_end..)?)?,
    ))
}

fn prefixes(mut text: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let mut found = Vec::new();
    while let Some((length, rest)) = text.split_first() {
        let octets = usize::from(*length).div_ceil(8);
        let mut address = [0; 4];
        address.get_mut(..octets)?.copy_from_slice(rest.get(..octets)?);
        found.push(address.into());
        text = &rest[octets..];
    }
    Some(found)
}

/// Whole messages, by kind and body, of what has arrived; the rest stays.
pub(super) fn take_messages(buffer: &mut Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while buffer.len() >= 19 {
        let length = usize::from(u16::from_be_bytes([buffer[16], buffer[17]])).max(19);
        if buffer.len() < length {
            break;
        }
        let message: Vec<u8> = buffer.drain(..length).collect();
        found.push((message[18], message[19..].to_vec()));
    }
    found
}

/// Whether a message is an UPDATE.
pub(super) fn is_update(kind: u8) -> bool {
    kind == UPDATE
}

/// So many addresses that nobody else uses.
pub(super) fn addresses(count: u32) -> Vec<Ipv4Addr> {
    (0..count).map(|n| Ipv4Addr::from_bits(0x0b00_0000 + n)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let all = addresses(2000);
        let mut stream = announce(64600, Ipv4Addr::new(10, 0, 0, 1), &all);
        let messages = take_messages(&mut stream);
        assert_eq!((messages.len(), stream.len()), (3, 0));
        let read = messages.iter().flat_map(|(_, body)| read_update(body).unwrap().1);
        assert_eq!(read.collect::<Vec<_>>(), all);
        let withdrawal = [0, 5, 32, 10, 0, 0, 1, 0, 0];
        assert_eq!(
            read_update(&withdrawal),
            Some((vec![Ipv4Addr::new(10, 0, 0, 1)], vec![]))
        );
        assert_eq!(read_update(&[0, 9]), None);
    }
}
