//! BGP communities, as texts and as what goes on the wire.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use thiserror::Error;

/// A community, standard (RFC 1997) or large (RFC 8092). Ordered as it is written to the wire: standard ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Community {
    /// `asn:value`.
    Standard(u16, u16),
    /// `large:global:local1:local2`.
    Large(u32, u32, u32),
}

/// An extended community (RFC 4360, RFC 5668), transitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedCommunity {
    /// What it means.
    pub kind: ExtendedKind,
    /// Who gives it its value.
    pub administrator: Administrator,
}

/// What an extended community means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtendedKind {
    /// `rt`: route target, RFC 4360 section 4.
    RouteTarget,
    /// `soo`: site of origin, RFC 4360 section 5.
    SiteOfOrigin,
}

/// The administrator of an extended community, with the number that is left to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Administrator {
    /// An AS number of two octets, and a number of four.
    As2(u16, u32),
    /// An IPv4 address, and a number of two octets.
    Ipv4(Ipv4Addr, u16),
    /// An AS number of four octets, and a number of two.
    As4(u32, u16),
}

/// Why a text is no community. The messages say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommunityError {
    /// No colon at all: it can only be the name of an alias.
    #[error("{0:?} is no community; write one like 64512:100 or large:64512:1:2")]
    Name(String),
    /// Colons, but neither of the two forms.
    #[error("{0:?} is neither a community like 64512:100 nor a large one like large:64512:1:2")]
    Shape(String),
    /// Not three numbers.
    #[error("{0:?} is not a large community; write three numbers up to 4294967295 like 64512:1:2")]
    Large(String),
    /// No extended community.
    #[error("{0:?} is not an extended community like rt:64512:100 or soo:192.0.2.1:7")]
    Extended(String),
    /// A part that is no number, or too large.
    #[error("{part:?} in {text:?} is not a number from 0 to {most}")]
    Part {
        /// The whole text.
        text: String,
        /// The part.
        part: String,
        /// The largest number that fits.
        most: u32,
    },
}

/// The word in front of a large community.
const LARGE: &str = "large";

impl Community {
    /// Parses a large community without the word in front: `a:b:c`.
    pub fn large(text: &str) -> Result<Self, CommunityError> {
        let parts = text
            .splitn(4, ':')
            .map(|part| number(part, u32::MAX))
            .collect::<Vec<_>>();
        match parts[..] {
            [Some(a), Some(b), Some(c)] => Ok(Community::Large(a, b, c)),
            _ => Err(CommunityError::Large(text.to_owned())),
        }
    }
}

/// Parses `a:b` with two numbers of 16 bits, or `large:a:b:c` with three of 32. Blanks are not allowed anywhere.
impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let parts = text.splitn(5, ':').collect::<Vec<_>>();
        let number = |part: &str, most: u32| {
            number(part, most).ok_or_else(|| CommunityError::Part {
                text: text.to_owned(),
                part: part.to_owned(),
                most,
            })
        };
        // The cast loses nothing: `number` refuses what does not fit.
        let short = |part: &str| number(part, u32::from(u16::MAX)).map(|n| n as u16);
        match parts[..] {
            [_] => Err(CommunityError::Name(text.to_owned())),
            [a, b] => Ok(Community::Standard(short(a)?, short(b)?)),
            [LARGE, a, b, c] => Ok(Community::Large(
                number(a, u32::MAX)?,
                number(b, u32::MAX)?,
                number(c, u32::MAX)?,
            )),
            _ => Err(CommunityError::Shape(text.to_owned())),
        }
    }
}

/// Parses `rt:` or `soo:`, an AS number or IPv4 address, a colon and a number.
impl FromStr for ExtendedCommunity {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        let shape = || CommunityError::Extended(text.to_owned());
        let [kind, administrator, value] = text.splitn(4, ':').collect::<Vec<_>>()[..] else {
            return Err(shape());
        };
        let kind = match kind {
            "rt" => ExtendedKind::RouteTarget,
            "soo" => ExtendedKind::SiteOfOrigin,
            _ => return Err(shape()),
        };
        let value_of = |most: u32| {
            number(value, most).ok_or_else(|| CommunityError::Part {
                text: text.to_owned(),
                part: value.to_owned(),
                most,
            })
        };
        let short = u32::from(u16::MAX);
        // The casts lose nothing: `number` refuses what does not fit.
        let administrator = if let Ok(address) = administrator.parse::<Ipv4Addr>() {
            Administrator::Ipv4(address, value_of(short)? as u16)
        } else if let Some(asn) = number(administrator, short) {
            Administrator::As2(asn as u16, value_of(u32::MAX)?)
        } else {
            let asn = number(administrator, u32::MAX).ok_or_else(shape)?;
            Administrator::As4(asn, value_of(short)? as u16)
        };
        Ok(ExtendedCommunity { kind, administrator })
    }
}

impl fmt::Display for ExtendedCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ExtendedKind::RouteTarget => "rt",
            ExtendedKind::SiteOfOrigin => "soo",
        };
        match self.administrator {
            Administrator::As2(asn, value) => write!(f, "{kind}:{asn}:{value}"),
            Administrator::Ipv4(address, value) => write!(f, "{kind}:{address}:{value}"),
            Administrator::As4(asn, value) => write!(f, "{kind}:{asn}:{value}"),
        }
    }
}

/// Digits only: `u32::from_str` would take a plus sign, too.
fn number(text: &str, most: u32) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|n| *n <= most)
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Community::Standard(a, b) => write!(f, "{a}:{b}"),
            Community::Large(a, b, c) => write!(f, "{LARGE}:{a}:{b}:{c}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_both_forms_and_says_what_would_be_right() {
        for (text, read) in [
            ("64512:100", Ok(Community::Standard(64512, 100))),
            ("0:0", Ok(Community::Standard(0, 0))),
            ("007:08", Ok(Community::Standard(7, 8))),
            ("large:4200000000:1:2", Ok(Community::Large(4_200_000_000, 1, 2))),
            ("no-export", Err("write one like 64512:100")),
            ("", Err("write one like 64512:100")),
            (
                "65536:1",
                Err("\"65536\" in \"65536:1\" is not a number from 0 to 65535"),
            ),
            ("large:1:2:4294967296", Err("from 0 to 4294967295")),
            ("1:+2", Err("\"+2\"")),
            ("1: 2", Err("\" 2\"")),
            ("1:", Err("\"\"")),
            ("1:2:3", Err("neither a community")),
            ("Large:1:2:3", Err("neither a community")),
            ("large:1:2:3:4", Err("neither a community")),
        ] {
            match (text.parse::<Community>(), read) {
                (Ok(is), Ok(right)) => assert_eq!(is, right, "{text}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{text:?}: {error}"),
                (is, right) => panic!("{text:?}: {is:?}, not {right:?}"),
            }
        }
    }

    #[test]
    fn large_communities_without_the_word() {
        assert_eq!(Community::large("4294967295:0:1"), Ok(Community::Large(u32::MAX, 0, 1)));
        for text in ["", "1:2", "1:2:3:4", "large:1:2:3", "1:2:4294967296", "1::3"] {
            assert_eq!(Community::large(text), Err(CommunityError::Large(text.to_owned())));
        }
    }

    #[test]
    fn extended_communities() {
        for text in [
            "rt:64512:4294967295",
            "soo:192.0.2.1:7",
            "rt:4200000000:65535",
            "soo:65535:0",
        ] {
            assert_eq!(text.parse::<ExtendedCommunity>().unwrap().to_string(), text);
        }
        for (text, part) in [
            ("rt:70000:65536", "from 0 to 65535"),
            ("rt:192.0.2.1:65536", "from 0 to 65535"),
            ("rt:64512", "not an extended community"),
            ("rd:64512:1", "not an extended community"),
            ("rt:4294967296:1", "not an extended community"),
            ("rt:1:2:3", "not an extended community"),
            ("", "not an extended community"),
        ] {
            let error = text.parse::<ExtendedCommunity>().unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn display_reads_back(text in "(large:|rt:|soo:)?[0-9:.]{0,12}|\\PC{0,20}") {
            if let Ok(community) = text.parse::<ExtendedCommunity>() {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
            if let Ok(community) = text.parse::<Community>() {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }
    }
}
