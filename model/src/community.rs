//! BGP communities, as texts and as what goes on the wire.

use std::fmt;
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

/// Why a text is no community. The messages say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommunityError {
    /// No colon at all: it can only be the name of an alias.
    #[error("{0:?} is no community; write one like 64512:100 or large:64512:1:2")]
    Name(String),
    /// Colons, but neither of the two forms.
    #[error("{0:?} is neither a community like 64512:100 nor a large one like large:64512:1:2")]
    Shape(String),
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

    proptest! {
        #[test]
        fn display_reads_back(text in "(large:)?[0-9:]{0,12}|\\PC{0,20}") {
            if let Ok(community) = text.parse::<Community>() {
                prop_assert_eq!(community.to_string().parse(), Ok(community));
            }
        }
    }
}
