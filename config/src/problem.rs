//! What can be wrong. The messages say what would be right.

use ferrolb_model::{CommunityError, RangeError};
use thiserror::Error;

/// A mistake, without the place where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// The object as a whole cannot be read.
    #[error("the object cannot be read: {0}; apply it again with the fields of the current schema")]
    Unreadable(String),
    /// A range of addresses cannot be read.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A community cannot be read.
    #[error(transparent)]
    Community(#[from] CommunityError),
    /// A list that needs an item, or a text that needs a character.
    #[error("is empty; {0}")]
    Empty(&'static str),
    /// Two items of one list have addresses in common.
    #[error("{value:?} has addresses in common with {other_field} {other:?}; write each address once")]
    OverlapWithin {
        /// This item.
        value: String,
        /// The other item.
        other: String,
        /// Where the other item stands.
        other_field: String,
    },
    /// Two pools have addresses in common; the older one stays.
    #[error(
        "{value:?} has addresses in common with {other} of the older IPAddressPool {pool:?}; no address may be in two pools"
    )]
    OverlapWith {
        /// This pool's item.
        value: String,
        /// The range of the other pool.
        other: String,
        /// The other pool.
        pool: String,
    },
    /// Warning: a pool has addresses that the cluster itself uses.
    #[error("{value:?} contains {what}; keep such addresses out of pools")]
    Contains {
        /// The pool's item.
        value: String,
        /// What it contains, and whose it is.
        what: String,
    },
    /// The same item twice.
    #[error("{value} stands there already, in {other_field}; remove one of them")]
    Duplicate {
        /// This item.
        value: String,
        /// Where the same item stands.
        other_field: String,
    },
    /// A selector asks something that does not exist.
    #[error("{0:?} is not an operator; write In, NotIn, Exists or DoesNotExist")]
    Operator(String),
    /// `In` and `NotIn` need values.
    #[error("operator {0} needs at least one value")]
    ValuesMissing(&'static str),
    /// `Exists` and `DoesNotExist` take none.
    #[error("operator {0} takes no values")]
    ValuesNotAllowed(&'static str),
    /// No label can have this key.
    #[error(
        "{0:?} is not a label key; write up to 63 letters, digits, '-', '_' or '.', after an optional DNS name and a slash"
    )]
    LabelKey(String),
    /// No label can have this value.
    #[error(
        "{0:?} is not a label value; write up to 63 letters, digits, '-', '_' or '.', starting and ending with a letter or digit"
    )]
    LabelValue(String),
    /// No namespace can have this name.
    #[error("{0:?} is not the name of a namespace; write up to 63 small letters, digits and '-', not '-' at an end")]
    Namespace(String),
    /// A number outside of what the field takes.
    #[error("{value} is out of range; write a number from {least} to {most}")]
    Number {
        /// What stands there.
        value: i64,
        /// The smallest number allowed.
        least: i64,
        /// The largest number allowed.
        most: i64,
    },
    /// A word that the field does not know.
    #[error("{value:?} is unknown; {right}")]
    Word {
        /// What stands there.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// A text that is no address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// An address that no router has, or that does not fit to the other one.
    #[error("{value} {why}")]
    AddressUse {
        /// The address.
        value: String,
        /// Why it cannot be used here.
        why: &'static str,
    },
    /// A text that is no BGP identifier.
    #[error("{0:?} is not a BGP identifier; write an IPv4 address other than 0.0.0.0")]
    RouterId(String),
    /// A text that is no duration.
    #[error("{0:?} is not a duration; write one like 90s, 1m30s or 500ms")]
    Duration(String),
    /// A duration outside of what the field takes.
    #[error("{value:?} is out of range; write {right}")]
    DurationRange {
        /// What stands there.
        value: String,
        /// What would be right.
        right: &'static str,
    },
    /// The keepalive time is longer than the hold time.
    #[error("{keepalive:?} is longer than spec.holdTime {hold:?}; write at most that, better a third of it")]
    KeepaliveTooLong {
        /// The keepalive time.
        keepalive: String,
        /// The hold time.
        hold: String,
    },
    /// Of two fields one must be there, and only one.
    #[error("{state}; set exactly one of {fields}")]
    ExactlyOne {
        /// Which of the two mistakes it is.
        state: &'static str,
        /// The fields.
        fields: &'static str,
    },
    /// A setting that only makes sense between different AS numbers.
    #[error("is for peers of another AS, and spec.peerASN is spec.myASN; remove it")]
    MultihopInternal,
    /// A key that the kernel would not take.
    #[error("is longer than the 80 bytes that TCP MD5 allows; write a shorter one")]
    PasswordTooLong,
    /// No interface can have this name.
    #[error("{0:?} is not the name of an interface; write up to 15 characters without blanks and slashes")]
    InterfaceName(String),
    /// Another object is named, and nothing of it is in force.
    #[error("no {kind} {name:?} is in force; create it, correct it, or remove its name here")]
    Missing {
        /// The kind of the other object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A community that is neither written out nor an alias.
    #[error(
        "{0:?} is no community, and no Community object in force has an alias of this name; write one like 64512:100 or large:64512:1:2, or create the alias"
    )]
    Alias(String),
    /// Two Community objects have the same alias; the older one stays.
    #[error("alias {alias:?} is in the older Community {other:?} already; an alias may be in one object only")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// The older object.
        other: String,
    },
    /// A length that services with selectors cannot have.
    #[error(
        "{length} makes one prefix of several addresses, which is not possible with spec.serviceSelectors; remove one of the two, or write {most}"
    )]
    AggregateOfSome {
        /// The length.
        length: u8,
        /// The length of a single address.
        most: u8,
    },
    /// The announced prefix would reach beyond the pool.
    #[error(
        "a prefix of length {length} is wider than {range} of IPAddressPool {pool:?}, whose addresses are not advertised by it; write at least {least}"
    )]
    AggregateTooWide {
        /// The length.
        length: u8,
        /// The pool.
        pool: String,
        /// The range of the pool.
        range: String,
        /// The shortest length that would fit.
        least: u8,
    },
    /// Two advertisements would give one prefix two values of an attribute; the older one stays.
    #[error(
        "{value} differs from {other_value} of the older BGPAdvertisement {other:?}, which announces the same prefixes of IPAddressPool {pool:?} to the same peers; write the same number, or separate the two by peers, nodes or aggregation length"
    )]
    AdvertisementsDiffer {
        /// This value.
        value: u32,
        /// The other value.
        other_value: u32,
        /// The older advertisement.
        other: String,
        /// A pool that both speak for.
        pool: String,
    },
    /// Two peers on one node are the same router; the older one stays.
    #[error("{endpoint} is the router of the older BGPPeer {other:?} already, on the same nodes; remove one of them")]
    SamePeer {
        /// Address or interface.
        endpoint: String,
        /// The older peer.
        other: String,
    },
    /// Two peers on one node want something different of the node; the older one stays.
    #[error(
        "{value} differs from {other_value} of the older BGPPeer {other:?} on the same nodes; write the same for both"
    )]
    PeersDiffer {
        /// This value.
        value: String,
        /// The other value.
        other_value: String,
        /// The older peer.
        other: String,
    },
    /// Warning: BFD echo packets are not sent.
    #[error("echo mode of BFDProfile {0:?} has no effect; the session is watched by control packets alone")]
    NoEcho(String),
    /// The name of a VirtualIP follows from its address.
    #[error("{name:?} is not the name for address {address}; call the object {right:?}")]
    VirtualIpName {
        /// The object's name.
        name: String,
        /// The address it holds.
        address: String,
        /// The name it should have.
        right: String,
    },
}
