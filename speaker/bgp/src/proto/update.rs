//! UPDATE messages: made for what we announce, judged when a peer sends one (RFC 7606).

use std::net::IpAddr;

use bytes::Bytes;
use ferrolb_model::Family;
use ipnet::IpNet;
use rustbgpd_fsm::Event;
use rustbgpd_wire::attribute::{self, AsPath, AsPathSegment, MpReachNlri, MpUnreachNlri, Origin, PathAttribute};
use rustbgpd_wire::nlri::{Ipv4NlriEntry, Ipv4Prefix, Ipv6Prefix, NlriEntry, Prefix};
use rustbgpd_wire::update::ParsedUpdate;
use rustbgpd_wire::validate::{ErrorDisposition, UpdateError, UpdateValidationOptions};
use rustbgpd_wire::{
    EncodeError, Ipv4UnicastMode, Message, NotificationCode, NotificationMessage, Safi, UpdateMessage, validate,
};

use super::{HEADER, MESSAGE_MAX, afi, encode};
use crate::route::{self, Attributes};

/// Header, and the two length fields of an UPDATE.
const FIXED: usize = HEADER + 4;
/// Flags, type and length of a long attribute, AFI, SAFI: what MP_UNREACH_NLRI has besides prefixes.
const MP_UNREACH: usize = 4 + 3;
/// The same, and the length of the next hop and a reserved octet: MP_REACH_NLRI besides next hop and prefixes.
const MP_REACH: usize = 4 + 5;

/// How routes are written for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The AS we present.
    pub local_asn: u32,
    /// The session is external.
    pub external: bool,
    /// The peer reads AS numbers of four octets.
    pub four_octet_asn: bool,
}

/// Attributes that leave no room for a prefix in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// What a received UPDATE came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Prefixes announced.
    pub announced: usize,
    /// Prefixes withdrawn.
    pub withdrawn: usize,
    /// Attributes that were discarded.
    pub discarded: usize,
    /// The announced prefixes count as withdrawn, for an attribute was wrong.
    pub as_withdrawn: bool,
}

/// Attributes encoded for a session, ready to be sent with prefixes.
#[derive(Clone, Debug)]
pub struct Prepared {
    attributes: Vec<PathAttribute>,
    octets: usize,
    family: Family,
    next_hop: IpAddr,
    four_octet_asn: bool,
}

impl Prepared {
    /// Encodes what is said about prefixes of a family. Order as RFC 4271 appendix F.3 asks for.
    pub fn new(encoding: Encoding, family: Family, next_hop: IpAddr, said: &Attributes) -> Result<Prepared, TooLong> {
        let mut attributes = vec![
            PathAttribute::Origin(Origin::Igp),
            PathAttribute::AsPath(as_path(encoding, said.prepend)),
        ];
        if let (Family::V4, IpAddr::V4(address)) = (family, next_hop) {
            attributes.push(PathAttribute::NextHop(address));
        }
        attributes.extend(said.med.map(PathAttribute::Med));
        if !encoding.external {
            let preference = said.local_pref.unwrap_or(Attributes::DEFAULT_LOCAL_PREF);
            attributes.push(PathAttribute::LocalPref(preference));
        }
        if !said.communities.is_empty() {
            attributes.push(PathAttribute::Communities(
                said.communities.iter().map(|c| c.0).collect(),
            ));
        }
        let bandwidth = said
            .link_bandwidth
            .map(|b| route::ExtendedCommunity::link_bandwidth(encoding.local_asn, b, encoding.external));
        let extended: Vec<_> = said.extended_communities.iter().copied().chain(bandwidth).collect();
        if !extended.is_empty() {
            let extended = extended
                .iter()
                .map(|c| attribute::ExtendedCommunity::new(c.0))
                .collect();
            attributes.push(PathAttribute::ExtendedCommunities(extended));
        }
        if !said.large_communities.is_empty() {
            let large = said.large_communities.iter();
            let large = large.map(|c| attribute::LargeCommunity::new(c.0, c.1, c.2)).collect();
            attributes.push(PathAttribute::LargeCommunities(large));
        }
        let mut encoded = Vec::new();
        attribute::encode_path_attributes(&attributes, &mut encoded, encoding.four_octet_asn, false)
            .map_err(|_| TooLong)?;
        let mut prepared = Prepared {
            attributes,
            octets: encoded.len(),
            family,
            next_hop,
            four_octet_asn: encoding.four_octet_asn,
        };
        if !prepared.in_body() {
            prepared.octets += MP_REACH + if next_hop.is_ipv4() { 4 } else { 16 };
        }
        // One octet of length and an address: the longest prefix.
        let longest = 1 + usize::from(family.bits()) / 8;
        if FIXED + prepared.octets + longest > MESSAGE_MAX {
            return Err(TooLong);
        }
        Ok(prepared)
    }

    /// IPv4 prefixes with an IPv4 next hop stand in the body, others in MP_REACH_NLRI (RFC 4760, RFC 8950).
    fn in_body(&self) -> bool {
        self.family == Family::V4 && self.next_hop.is_ipv4()
    }

    /// One message with as many of the prefixes, from the first on, as it takes; and how many those are, at least one.
    /// The prefixes are all of the family.
    pub fn announce(&self, prefixes: &[IpNet]) -> (Bytes, usize) {
        let count = fitting(prefixes, MESSAGE_MAX - FIXED - self.octets);
        let message = if self.in_body() {
            let entries = body_entries(&prefixes[..count]);
            let attributes = &self.attributes;
            UpdateMessage::try_build(
                &entries,
                &[],
                attributes,
                self.four_octet_asn,
                false,
                Ipv4UnicastMode::Body,
            )
        } else {
            let reach = MpReachNlri {
                afi: afi(self.family),
                safi: Safi::Unicast,
                next_hop: self.next_hop,
                link_local_next_hop: None,
                announced: entries(&prefixes[..count]),
                flowspec_announced: Vec::new(),
                evpn_announced: Vec::new(),
                bgpls_announced: Vec::new(),
                vpn_announced: Vec::new(),
                labeled_announced: Vec::new(),
                rtc_announced: Vec::new(),
            };
            // First, so that a receiver knows the prefixes before it can stumble over anything else (RFC 7606 section 5.1).
            let reach = PathAttribute::MpReachNlri(Box::new(reach));
            let attributes: Vec<_> = std::iter::once(reach).chain(self.attributes.iter().cloned()).collect();
            UpdateMessage::try_build(
                &[],
                &[],
                &attributes,
                self.four_octet_asn,
                false,
                Ipv4UnicastMode::MpReach,
            )
        };
        (finish(message), count)
    }
}

/// One message that withdraws as many of the prefixes, from the first on, as it takes; and how many those are. The
/// prefixes are all of the family. In the body only IPv4 prefixes can be withdrawn.
pub fn withdraw(family: Family, in_body: bool, prefixes: &[IpNet]) -> (Bytes, usize) {
    let in_body = in_body && family == Family::V4;
    let room = MESSAGE_MAX - FIXED - if in_body { 0 } else { MP_UNREACH };
    let count = fitting(prefixes, room);
    let message = if in_body {
        UpdateMessage::try_build(
            &[],
            &body_entries(&prefixes[..count]),
            &[],
            true,
            false,
            Ipv4UnicastMode::Body,
        )
    } else {
        let unreach = [unreach(family, entries(&prefixes[..count]))];
        UpdateMessage::try_build(&[], &[], &unreach, true, false, Ipv4UnicastMode::MpReach)
    };
    (finish(message), count)
}

/// Tells that all routes of the family have been sent (RFC 4724 section 2).
pub fn end_of_rib(family: Family) -> Bytes {
    let attributes: Vec<_> = match family {
        Family::V4 => Vec::new(),
        Family::V6 => vec![unreach(family, Vec::new())],
    };
    finish(UpdateMessage::try_build(
        &[],
        &[],
        &attributes,
        true,
        false,
        Ipv4UnicastMode::Body,
    ))
}

fn finish(message: Result<UpdateMessage, EncodeError>) -> Bytes {
    message.map(|m| encode(&Message::Update(m))).unwrap_or_default()
}

fn unreach(family: Family, withdrawn: Vec<NlriEntry>) -> PathAttribute {
    PathAttribute::MpUnreachNlri(Box::new(MpUnreachNlri {
        afi: afi(family),
        safi: Safi::Unicast,
        withdrawn,
        flowspec_withdrawn: Vec::new(),
        evpn_withdrawn: Vec::new(),
        bgpls_withdrawn: Vec::new(),
        vpn_withdrawn: Vec::new(),
        labeled_withdrawn: Vec::new(),
        rtc_withdrawn: Vec::new(),
    }))
}

fn as_path(encoding: Encoding, prepend: u8) -> AsPath {
    // On an internal session our own AS in the path would make every router of it discard the route.
    let path = vec![encoding.local_asn; 1 + usize::from(prepend)];
    // A segment has at most 255 members (RFC 4271 section 4.3).
    let segments = path.chunks(255).map(|part| AsPathSegment::AsSequence(part.to_vec()));
    AsPath {
        segments: if encoding.external {
            segments.collect()
        } else {
            Vec::new()
        },
    }
}

/// How many of the prefixes, from the first on, fit into this many octets.
fn fitting(prefixes: &[IpNet], room: usize) -> usize {
    let mut used = 0;
    prefixes
        .iter()
        .take_while(|prefix| {
            used += 1 + usize::from(prefix.prefix_len()).div_ceil(8);
            used <= room
        })
        .count()
}

fn body_entries(prefixes: &[IpNet]) -> Vec<Ipv4NlriEntry> {
    let v4 = prefixes.iter().filter_map(|prefix| match prefix {
        IpNet::V4(net) => Some(Ipv4Prefix::new(net.addr(), net.prefix_len())),
        IpNet::V6(_) => None,
    });
    v4.map(|prefix| Ipv4NlriEntry { path_id: 0, prefix }).collect()
}

fn entries(prefixes: &[IpNet]) -> Vec<NlriEntry> {
    let prefixes = prefixes.iter().map(|prefix| match prefix {
        IpNet::V4(net) => Prefix::V4(Ipv4Prefix::new(net.addr(), net.prefix_len())),
        IpNet::V6(net) => Prefix::V6(Ipv6Prefix::new(net.addr(), net.prefix_len())),
    });
    prefixes.map(|prefix| NlriEntry { path_id: 0, prefix }).collect()
}

/// Judges an UPDATE of the peer. The strongest of all consequences holds (RFC 7606 section 3 h).
pub(super) fn judge(message: &UpdateMessage, four_octet_asn: bool, external: bool) -> (Judgement, Event) {
    let parsed = match message.parse_revised(four_octet_asn, !external, false, &[]) {
        Ok(parsed) => parsed,
        Err(error) => return (Judgement::default(), Event::DecodeError(error)),
    };
    let mut judgement = count(&parsed.update);
    let mut options = UpdateValidationOptions::default();
    // Nothing is sent to these next hops, so whether they are usable is nobody's business here.
    options.allow_ipv4_link_local_mp_reach_next_hop = true;
    let in_body = !parsed.update.announced.is_empty();
    let validated = validate::validate_update_attributes_with_options(
        &parsed.update.attributes,
        judgement.announced > 0,
        in_body,
        external,
        options,
    );
    let dispositions = parsed.malformed.iter().map(|m| m.disposition);
    judgement.discarded = dispositions
        .clone()
        .filter(|d| *d == ErrorDisposition::AttributeDiscard)
        .count();
    let malformed = dispositions.max();
    match (malformed, validated) {
        (
            _,
            Err(UpdateError {
                subcode,
                data,
                disposition: ErrorDisposition::SessionReset,
            }),
        ) => {
            let notification = NotificationMessage::new(NotificationCode::UpdateMessage, subcode, data.into());
            (judgement, Event::UpdateValidationError(notification))
        }
        (Some(ErrorDisposition::SessionReset), _) => {
            let (code, subcode, data) = parsed
                .malformed
                .iter()
                .find(|m| m.disposition == ErrorDisposition::SessionReset)
                .map_or((NotificationCode::UpdateMessage, 0, Bytes::new()), |m| {
                    m.error.to_notification()
                });
            let notification = NotificationMessage::new(code, subcode, data);
            (judgement, Event::UpdateValidationError(notification))
        }
        (malformed, validated) => {
            judgement.as_withdrawn = malformed == Some(ErrorDisposition::TreatAsWithdraw) || validated.is_err();
            (judgement, Event::UpdateReceived)
        }
    }
}

fn count(update: &ParsedUpdate) -> Judgement {
    let mut judgement = Judgement {
        announced: update.announced.len(),
        withdrawn: update.withdrawn.len(),
        ..Judgement::default()
    };
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::MpReachNlri(reach) => judgement.announced += reach.announced.len(),
            PathAttribute::MpUnreachNlri(unreach) => judgement.withdrawn += unreach.withdrawn.len(),
            _ => {}
        }
    }
    judgement
}
