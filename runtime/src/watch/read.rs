//! What an API server says of objects, read as far as every kind has it, and the function that reads the rest. Pure.

use kube::Resource;
use kube::core::Status;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Event, ObjectKey};

/// The text of an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Text<'a> {
    /// Of a list.
    Object(&'a [u8]),
    /// Of a watch: the line in which it stands.
    Change(&'a [u8]),
}

/// News of one kind of object, before it is known which kind that is.
pub(super) enum Told<'a> {
    /// It exists like this.
    Exists(ObjectKey, Text<'a>),
    /// It does not exist any more.
    Gone(ObjectKey),
    /// The first complete list has been told.
    Synced,
}

/// Turns news into an input, if it is one.
pub(super) type Tell<I> = Box<dyn FnMut(Told<'_>) -> Option<I> + Send>;

/// All of a watch that knows the kind of its objects.
pub(super) fn tell<K, I>(mut to_input: impl FnMut(Event<K>) -> Option<I> + Send + 'static) -> Tell<I>
where
    K: Resource + DeserializeOwned + 'static,
    I: 'static,
{
    Box::new(move |told| {
        to_input(match told {
            Told::Exists(key, text) => match read::<K>(text) {
                Ok(mut object) => {
                    object.meta_mut().managed_fields = None;
                    Event::Applied(object)
                }
                Err(error) => Event::Invalid {
                    key,
                    error: error.to_string(),
                },
            },
            Told::Gone(key) => Event::Gone(key),
            Told::Synced => Event::Synced,
        })
    })
}

fn read<K: DeserializeOwned>(text: Text<'_>) -> Result<K, serde_json::Error> {
    /// A line of a watch.
    #[derive(Deserialize)]
    struct Line<K> {
        object: K,
    }
    match text {
        Text::Object(text) => serde_json::from_slice(text),
        Text::Change(text) => serde_json::from_slice::<Line<K>>(text).map(|line| line.object),
    }
}

/// What every object has.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    #[serde(default)]
    pub(super) metadata: Metadata,
}

/// Who an object is, and in which version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata {
    namespace: Box<str>,
    name: Box<str>,
    /// Opaque.
    pub(super) resource_version: String,
}

impl Named {
    /// Of an object in a list.
    ///
    /// # Errors
    /// When it is no object at all.
    pub(super) fn of_object(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

impl Metadata {
    /// Namespace and name.
    pub(super) fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// What a line of a watch says
/// (<https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>).
#[derive(Debug)]
pub(super) enum Line {
    /// The object exists like this.
    Exists(Metadata),
    /// It does not exist any more.
    Gone(Metadata),
    /// Everything up to this version has been told.
    Bookmark(Metadata),
    /// The server gives up.
    Error(Box<Status>),
}

impl Line {
    /// Of one line.
    ///
    /// # Errors
    /// When it is none that a watch has.
    pub(super) fn of(text: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(tag = "type", content = "object", rename_all = "UPPERCASE")]
        enum Change {
            Added(Named),
            Modified(Named),
            Deleted(Named),
            Bookmark(Named),
            Error(Box<Status>),
        }
        Ok(match serde_json::from_slice(text)? {
            Change::Added(named) | Change::Modified(named) => Line::Exists(named.metadata),
            Change::Deleted(named) => Line::Gone(named.metadata),
            Change::Bookmark(named) => Line::Bookmark(named.metadata),
            Change::Error(status) => Line::Error(status),
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use proptest::prelude::*;

    use super::*;

    const OBJECT: &str = r#"{"metadata":{"namespace":"shop","name":"a","resourceVersion":"7","managedFields":[{}]}}"#;

    fn line(kind: &str, object: &str) -> String {
        format!(r#"{{"type":"{kind}","object":{object}}}"#)
    }

    #[test]
    fn lines_of_a_watch() {
        for (kind, expected) in [
            ("ADDED", "Exists"),
            ("MODIFIED", "Exists"),
            ("DELETED", "Gone"),
            ("BOOKMARK", "Bookmark"),
        ] {
            let read = Line::of(line(kind, OBJECT).as_bytes()).unwrap();
            assert!(format!("{read:?}").starts_with(expected), "{kind}: {read:?}");
            let (Line::Exists(of) | Line::Gone(of) | Line::Bookmark(of)) = read else {
                panic!("{kind}")
            };
            assert_eq!(
                (of.key().to_string(), of.resource_version.as_str()),
                ("shop/a".to_owned(), "7")
            );
        }
        let error = line("ERROR", r#"{"kind":"Status","code":410,"reason":"Expired"}"#);
        let Ok(Line::Error(status)) = Line::of(error.as_bytes()) else {
            panic!("{error}")
        };
        assert_eq!(status.code, 410);
        assert!(Line::of(line("LATER", OBJECT).as_bytes()).is_err());
        let whole = line("ADDED", OBJECT);
        for end in 1..whole.len() {
            assert!(Line::of(&whole.as_bytes()[..end]).unwrap_err().is_eof(), "{end}");
        }
    }

    #[test]
    fn an_object_is_read_wherever_it_stands() {
        let mut told = tell(|event: Event<Service>| {
            Some(match event {
                Event::Applied(object) => {
                    assert_eq!(object.metadata.managed_fields, None);
                    ObjectKey::of(&object).to_string()
                }
                Event::Invalid { key, error } => format!("{key}: {error}"),
                Event::Gone(key) => format!("{key} is gone"),
                Event::Synced => "all".to_owned(),
            })
        });
        let key = || Named::of_object(OBJECT.as_bytes()).unwrap().metadata.key();
        let mut told = |what| told(what).unwrap();
        assert_eq!(told(Told::Exists(key(), Text::Object(OBJECT.as_bytes()))), "shop/a");
        let change = line("ADDED", OBJECT);
        assert_eq!(told(Told::Exists(key(), Text::Change(change.as_bytes()))), "shop/a");
        let wrong = r#"{"metadata":{"name":"a"},"spec":{"ports":"none"}}"#;
        let wrong = told(Told::Exists(key(), Text::Object(wrong.as_bytes())));
        assert!(wrong.starts_with("shop/a: invalid type: string \"none\""), "{wrong}");
        assert_eq!(told(Told::Gone(key())), "shop/a is gone");
        assert_eq!(told(Told::Synced), "all");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Line::of(&bytes);
            let _ = Named::of_object(&bytes);
        }
    }
}
