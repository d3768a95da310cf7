//! Cuts the JSON of a Kubernetes list into its items while it arrives, so that a list of any length costs the memory of
//! one object. Pure.
//!
//! What is not in `items` stays together as the envelope. Whether an item is well-formed JSON is for its reader to say:
//! here strings, braces and brackets count, and nothing else.

use kube::core::ListMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Depth inside the list's own braces, and inside the brackets of its items.
const LIST: u32 = 1;
const ITEMS: u32 = 2;

/// A list of which a part has arrived.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// Everything but the items.
    envelope: Vec<u8>,
    /// The item that has begun.
    item: Vec<u8>,
    /// Open braces and brackets.
    depth: u32,
    /// In the brackets of `items`.
    in_items: bool,
    text: Text,
    /// The last string of the list's own braces: where it is in the envelope.
    key: (usize, usize),
}

/// Whether the next byte is part of a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

#[derive(Deserialize)]
struct Envelope {
    metadata: ListMeta,
    #[serde(default, rename = "items")]
    _items: IgnoredAny,
}

impl Cutter {
    /// Takes the next bytes in; the items that are complete now, each the text of one.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut items = Vec::new();
        for byte in bytes {
            items.extend(self.step(*byte));
        }
        items
    }

    /// The list is over: its metadata.
    ///
    /// # Errors
    /// When it is not whole, or no list.
    pub(super) fn finish(self) -> Result<ListMeta, serde_json::Error> {
        serde_json::from_slice::<Envelope>(&self.envelope).map(|envelope| envelope.metadata)
    }

    fn step(&mut self, byte: u8) -> Option<Vec<u8>> {
        let inside = self.in_items && self.depth > ITEMS;
        match (self.text, byte) {
            (Text::Escaped, _) => self.text = Text::Inside,
            (Text::Inside, b'\\') => self.text = Text::Escaped,
            (Text::Inside, b'"') => {
                self.text = Text::Outside;
                if self.depth == LIST {
                    self.key.1 = self.envelope.len();
                }
            }
            (Text::Inside, _) => {}
            (Text::Outside, b'"') => {
                self.text = Text::Inside;
                if self.depth == LIST {
                    self.key.0 = self.envelope.len() + 1;
                }
            }
            (Text::Outside, b'{' | b'[') => return self.open(byte, inside),
            (Text::Outside, b'}' | b']') => return self.close(byte, inside),
            // Between items.
            (Text::Outside, b',') if self.in_items && !inside => return None,
            (Text::Outside, _) => {}
        }
        self.keep(byte, inside);
        None
    }

    fn open(&mut self, byte: u8, inside: bool) -> Option<Vec<u8>> {
        let named = self.envelope.get(self.key.0..self.key.1) == Some(b"items");
        self.in_items |= self.depth == LIST && byte == b'[' && named;
        let begins = self.in_items && self.depth == ITEMS;
        self.depth += 1;
        self.keep(byte, inside || begins);
        None
    }

    fn close(&mut self, byte: u8, inside: bool) -> Option<Vec<u8>> {
        self.keep(byte, inside);
        self.depth = self.depth.saturating_sub(1);
        self.in_items &= self.depth >= ITEMS;
        (inside && self.depth == ITEMS).then(|| std::mem::take(&mut self.item))
    }

    fn keep(&mut self, byte: u8, in_item: bool) {
        match in_item {
            true => self.item.push(byte),
            false => self.envelope.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The items and the metadata of a text that arrives in pieces of this size.
    fn cut(text: &[u8], size: usize) -> (Vec<Value>, Result<ListMeta, serde_json::Error>) {
        let mut cutter = Cutter::default();
        let pieces = text.chunks(size);
        let items = pieces.flat_map(|piece| cutter.feed(piece)).collect::<Vec<_>>();
        let items = items.iter().map(|item| serde_json::from_slice(item).unwrap());
        (items.collect(), cutter.finish())
    }

    /// Any JSON, with names and texts that could be taken for something else.
    fn value() -> impl Strategy<Value = Value> {
        let text = prop::sample::select(vec!["items", "a\"b", "\\", "{", "}]", "[", ",", "\u{fc}", ""]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::from),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, move |inner| {
            let fields = prop::collection::btree_map(text.clone(), inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                fields.prop_map(|fields| fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    fn object() -> impl Strategy<Value = Value> {
        value().prop_map(|inner| json!({ "spec": inner }))
    }

    #[test]
    fn lists_as_api_servers_send_them() {
        let text =
            br#"{"kind":"NodeList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"x","items":[{}]},
            "items":[{"metadata":{"name":"a","items":["]"]}} ,
            {"metadata":{"name":"b\\"}}]}
        "#;
        let (items, meta) = cut(text, 3);
        let names: Vec<_> = items.iter().map(|item| item["metadata"]["name"].as_str()).collect();
        assert_eq!(names, [Some("a"), Some("b\\")]);
        let meta = meta.unwrap();
        assert_eq!(
            (meta.resource_version.as_deref(), meta.continue_.as_deref()),
            (Some("7"), Some("x"))
        );
        let (items, meta) = cut(br#"{"items":null,"metadata":{"resourceVersion":"7"}}"#, 100);
        assert_eq!((items.len(), meta.unwrap().resource_version.as_deref()), (0, Some("7")));
    }

    #[test]
    fn half_a_list_is_none() {
        let text = br#"{"metadata":{"resourceVersion":"7"},"items":[{"a":1},{"b":2}]}"#;
        for end in 0..text.len() {
            assert!(cut(&text[..end], 8).1.is_err(), "{end}");
        }
        assert!(cut(text, 8).1.is_ok());
        for odd in ["[]", "null", r#"{"items":[1 2]}"#, r#"{"items":[{}]]}"#, "}{", "<html>"] {
            assert!(cut(odd.as_bytes(), 8).1.is_err(), "{odd}");
        }
    }

    proptest! {
        /// However a list is cut on its way, and wherever its metadata stands, its items come out whole and in order.
        #[test]
        fn items_come_out_as_they_went_in(
            objects in prop::collection::vec(object(), 0..6), more in value(), last: bool, pretty: bool, size in 1usize..40,
        ) {
            let meta = json!({ "resourceVersion": "42" });
            let list = match last {
                true => json!({ "apiVersion": "v1", "items": objects, "metadata": meta, "more": more }),
                false => json!({ "a": more, "metadata": meta, "nothing": "items", "xitems": [[1]], "z": 1, "items": objects }),
            };
            let text = if pretty { serde_json::to_vec_pretty(&list) } else { serde_json::to_vec(&list) };
            let (items, meta) = cut(&text.unwrap(), size);
            prop_assert_eq!(items, objects);
            let version = meta.unwrap().resource_version;
            prop_assert_eq!(version.as_deref(), Some("42"));
        }

        /// Any bytes are taken.
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut cutter = Cutter::default();
            cutter.feed(&bytes);
            let _ = cutter.finish();
        }
    }
}
