//! The objects that make up the configuration, of all kinds, as one snapshot.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ferrolb_api as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// Which object: kind and name. All of one kind live in one namespace, or in none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind.
    pub kind: Kind,
    /// The name.
    pub name: String,
}

impl ObjectRef {
    /// The object of this kind and name.
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        ObjectRef {
            kind,
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kind.name(), self.name)
    }
}

/// Every object as it is now; the order in which they came leaves no trace.
pub type Snapshot = BTreeMap<ObjectRef, Object>;

/// A type of objects that the configuration is made of.
pub trait Configures: Sized {
    /// Its kind.
    const KIND: Kind;

    /// The object of a snapshot, if it is of this type and could be read.
    fn of(object: &Object) -> Option<&Self>;

    /// For a snapshot: without what changes and means nothing, so that an equal object is no news.
    fn into_object(self) -> Object;

    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
}

macro_rules! kinds {
    ($($kind:ident: $object:ty, $name:literal of $version:literal $(without $status:ident)?;)*) => {
        /// The kinds that the configuration is made of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = concat!("`", $name, "` of `", $version, "`.")] $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// As users write it.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }

            /// Group and version in which it is read.
            pub fn api_version(self) -> &'static str {
                match self { $(Kind::$kind => $version,)* }
            }
        }

        /// An object as it stands in the API server. Copies share the object.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object {
            $(#[doc = concat!("Of kind `", $name, "`.")] $kind(Arc<$object>),)*
            /// It is there and cannot be read, and why.
            Unreadable(Box<str>),
        }

        impl Object {
            /// The metadata of one that could be read.
            pub fn metadata(&self) -> Option<&ObjectMeta> {
                match self {
                    $(Object::$kind(object) => Some(&object.metadata),)*
                    Object::Unreadable(_) => None,
                }
            }

            /// The object with only the metadata that the configuration depends on, as JSON.
            pub(crate) fn reduced(&self) -> Option<Value> {
                match self {
                    $(Object::$kind(object) => reduced(object.as_ref()),)*
                    Object::Unreadable(_) => None,
                }
            }

            /// An object of this kind from JSON.
            pub(crate) fn from_json(kind: Kind, json: Value) -> Result<Object, serde_json::Error> {
                Ok(match kind { $(Kind::$kind => serde_json::from_value::<$object>(json)?.into_object(),)* })
            }
        }

        $(impl Configures for $object {
            const KIND: Kind = Kind::$kind;

            fn of(object: &Object) -> Option<&Self> {
                match object {
                    Object::$kind(object) => Some(object),
                    _ => None,
                }
            }

            fn into_object(mut self) -> Object {
                self.metadata.resource_version = None;
                self.metadata.managed_fields = None;
                self.metadata.annotations = self.metadata.annotations.and_then(meaningful);
                $(self.$status = None;)?
                Object::$kind(Arc::new(self))
            }

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        })*
    };
}

kinds! {
    Pool: api::IpAddressPool, "IPAddressPool" of "metallb.io/v1beta1" without status;
    L2Advertisement: api::L2Advertisement, "L2Advertisement" of "metallb.io/v1beta1" without status;
    BgpAdvertisement: api::BgpAdvertisement, "BGPAdvertisement" of "metallb.io/v1beta1" without status;
    BgpPeer: api::BgpPeer, "BGPPeer" of "metallb.io/v1beta2" without status;
    BfdProfile: api::BfdProfile, "BFDProfile" of "metallb.io/v1beta1" without status;
    Community: api::Community, "Community" of "metallb.io/v1beta1" without status;
    AllocationPolicy: api::AllocationPolicy, "AllocationPolicy" of "ferrolb.io/v1alpha1";
    AnnouncementPolicy: api::AnnouncementPolicy, "AnnouncementPolicy" of "ferrolb.io/v1alpha1";
}

impl Object {
    /// Whether the two are versions of one object. One that cannot be read does not tell its uid.
    pub(crate) fn may_be_same(&self, other: &Object) -> bool {
        let uid = |object: &Object| object.metadata().and_then(|m| m.uid.clone());
        uid(self).zip(uid(other)).is_none_or(|(one, other)| one == other)
    }
}

impl Kind {
    /// An object of this kind that is there and cannot be read for this reason. What is wrong with a BGPPeer is not
    /// repeated: the reason may quote a value, and the value may be a password.
    pub fn unreadable(self, reason: &str) -> Object {
        Object::Unreadable(match self {
            Kind::BgpPeer => "a field has a value of another type, or a field is missing".into(),
            _ => reason.into(),
        })
    }

    /// Whether its objects live in FerroLB's namespace.
    pub fn is_namespaced(self) -> bool {
        self.api_version().starts_with(api::names::METALLB_GROUP)
    }
}

/// Annotations that change what an object means.
const MEANINGFUL: [&str; 1] = [api::names::annotations::ON_SHRINK];

fn meaningful(mut annotations: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    annotations.retain(|key, _| MEANINGFUL.contains(&key.as_str()));
    (!annotations.is_empty()).then_some(annotations)
}

/// What makes a version of an object. The annotations were reduced when the object came.
fn reduced(object: &(impl Configures + Serialize)) -> Option<Value> {
    let given = object.metadata();
    let metadata = ObjectMeta {
        name: given.name.clone(),
        uid: given.uid.clone(),
        generation: given.generation,
        creation_timestamp: given.creation_timestamp.clone(),
        labels: given.labels.clone(),
        annotations: given.annotations.clone(),
        ..ObjectMeta::default()
    };
    let mut json = serde_json::to_value(object).ok()?;
    json["metadata"] = serde_json::to_value(metadata).ok()?;
    json.as_object_mut()?.remove("status");
    Some(json)
}
