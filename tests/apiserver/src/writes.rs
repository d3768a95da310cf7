//! Writes, as the generic registry of the API server does them: preconditions, what a write to an object or to its
//! status may touch, generation, finalizers, and no new version for a write that changes nothing.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::patch::{leaves, merge, remove};
use crate::refusal::{Refusal, details};
use crate::resource::Place;
use crate::schema::fill_in;
use crate::select::Selection;
use crate::store::Store;

/// Metadata that clients cannot change.
const SYSTEM_METADATA: [&str; 7] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "namespace",
];

/// The status code and the body of an answer.
pub(crate) type Answer = Result<(u16, Value), Refusal>;

/// How an object is changed.
pub(crate) enum Update {
    /// By what shall stand there.
    Put(Value),
    /// By a merge patch.
    Merge(Value),
    /// By the fields that a manager wants, taken from others if need be.
    Apply { manager: String, fields: Value },
}

impl Store {
    /// Creates an object, under a name that begins with `generateName` if it has none.
    pub(crate) fn create(&mut self, place: &Place, mut object: Value) -> Answer {
        of_kind(place, &object)?;
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = object["metadata"].as_object_mut().expect("made above");
        metadata.retain(|_, value| !is_nothing(value));
        if metadata.contains_key("resourceVersion") {
            return Err(Refusal::internal(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        same_namespace(place, metadata)?;
        let given = text(metadata, "name");
        let prefix = text(metadata, "generateName");
        let name = match (given.is_empty(), prefix.is_empty()) {
            (false, _) => given,
            (true, false) => format!("{prefix}{:05x}", self.serial()),
            (true, true) => {
                let why = "Required value: name or generateName is required";
                return Err(Refusal::invalid(
                    place,
                    true,
                    "metadata.name",
                    "FieldValueRequired",
                    why,
                ));
            }
        };
        let place = place.at(&place.namespace, &name);
        self.namespace_takes(&place)?;
        if self.get(&place).is_some() {
            return Err(Refusal::already_exists(&place));
        }
        for field in SYSTEM_METADATA {
            metadata.remove(field);
        }
        metadata.insert("name".to_owned(), json!(name));
        if place.resource.namespaced {
            metadata.insert("namespace".to_owned(), json!(place.namespace));
        }
        let serial = self.serial();
        metadata.insert("uid".to_owned(), json!(uid(serial)));
        metadata.insert("creationTimestamp".to_owned(), json!(now()));
        if place.resource.counts_generation {
            metadata.insert("generation".to_owned(), json!(1));
        }
        // A Node brings its status with it, and a Service cannot; custom resources cannot either.
        if place.resource.has_status && place.resource.kind != "Node" {
            object.as_object_mut().expect("has metadata").remove("status");
        }
        fill_in(&place, &mut object, serial);
        Ok((201, self.commit(&place, Some(object)).as_ref().clone()))
    }

    /// Changes an object.
    pub(crate) fn update(&mut self, place: &Place, update: Update) -> Answer {
        let Some(old) = self.get(place) else {
            return match update {
                Update::Put(object) if place.resource.update_creates && !place.status => {
                    let mut object = object;
                    if let Some(metadata) = object["metadata"].as_object_mut() {
                        metadata.remove("resourceVersion");
                    }
                    self.create(place, object)
                }
                Update::Apply { manager, fields } if !place.status => {
                    let (code, created) = self.create(place, fields.clone())?;
                    self.remember(place, &created, manager, &fields);
                    Ok((code, created))
                }
                _ => Err(Refusal::not_found(place)),
            };
        };
        let old = old.as_ref();
        let put = matches!(update, Update::Put(_));
        let new = match update {
            Update::Put(object) => object,
            Update::Merge(patch) => {
                let mut new = old.clone();
                merge(&mut new, &patch);
                new
            }
            Update::Apply { manager, fields } => self.apply(place, old, manager, fields),
        };
        self.replace(place, old, new, put)
    }

    /// Puts `new` in the place of `old`, as far as the write may.
    fn replace(&mut self, place: &Place, old: &Value, mut new: Value, put: bool) -> Answer {
        of_kind(place, &new)?;
        precondition(place, old, &new, put)?;
        let metadata = new["metadata"]
            .as_object_mut()
            .ok_or_else(|| Refusal::not_found(place))?;
        same_namespace(place, metadata)?;
        for field in SYSTEM_METADATA {
            match &old["metadata"][field] {
                Value::Null => metadata.remove(field),
                value => metadata.insert(field.to_owned(), value.clone()),
            };
        }
        metadata.retain(|_, value| !is_nothing(value));
        if place.resource.has_status {
            separate(place, old, &mut new);
        }
        let serial = self.serial();
        fill_in(place, &mut new, serial);
        if new == *old {
            return Ok((200, new));
        }
        if place.resource.counts_generation && wanted(&new) != wanted(old) {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
            new["metadata"]["generation"] = json!(generation + 1);
        }
        let finished = new["metadata"]["deletionTimestamp"].is_string() && new["metadata"]["finalizers"].is_null();
        if finished && place.resource.kind != "Namespace" {
            self.commit(place, None);
            return Ok((200, new));
        }
        Ok((200, self.commit(place, Some(new)).as_ref().clone()))
    }

    /// Deletes an object, or marks it if finalizers hold it.
    pub(crate) fn delete(&mut self, place: &Place, options: &Value) -> Answer {
        let old = self.get(place).ok_or_else(|| Refusal::not_found(place))?;
        for (field, name) in [("uid", "UID"), ("resourceVersion", "ResourceVersion")] {
            let found = old["metadata"][field].as_str().unwrap_or_default();
            if let Some(asked) = options["preconditions"][field].as_str()
                && asked != found
            {
                return Err(Refusal::precondition(place, name, asked, found));
            }
        }
        if old["metadata"]["finalizers"].is_array() || place.resource.kind == "Namespace" {
            if old["metadata"]["deletionTimestamp"].is_string() {
                return Ok((200, old.as_ref().clone()));
            }
            let mut marked = old.as_ref().clone();
            marked["metadata"]["deletionTimestamp"] = json!(now());
            if place.resource.kind == "Namespace" {
                // The namespace controller, which would empty it, is not part of an API server.
                marked["status"]["phase"] = json!("Terminating");
            } else {
                marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            }
            if let Some(generation) = marked["metadata"]["generation"].as_u64() {
                marked["metadata"]["generation"] = json!(generation + 1);
            }
            return Ok((200, self.commit(place, Some(marked)).as_ref().clone()));
        }
        let deleted = self.commit(place, None);
        if place.resource.returns_deleted {
            return Ok((200, deleted.as_ref().clone()));
        }
        let mut details = details(place);
        details["uid"] = old["metadata"]["uid"].clone();
        let status =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
        Ok((200, status))
    }

    /// Stores what no schema ever saw.
    pub(crate) fn insert_raw(&mut self, place: &Place, mut object: Value) {
        let serial = self.serial();
        let metadata = &mut object["metadata"];
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(uid(serial));
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!(now());
        }
        self.commit(place, Some(object));
    }

    fn namespace_takes(&self, place: &Place) -> Result<(), Refusal> {
        if !place.resource.namespaced {
            return Ok(());
        }
        let named = Selection::new("", "", &format!("metadata.name={}", place.namespace))?;
        match self.all("namespaces", &named).first() {
            None => Err(Refusal::no_namespace(&place.namespace)),
            Some(namespace) if namespace["metadata"]["deletionTimestamp"].is_string() => {
                Err(Refusal::terminating(place))
            }
            Some(_) => Ok(()),
        }
    }

    /// `old` with the fields that the manager wants now, without those that it wanted before and does not any more.
    /// Lists are taken as a whole, and no other manager is asked.
    fn apply(&mut self, place: &Place, old: &Value, manager: String, fields: Value) -> Value {
        let mut new = old.clone();
        let before = self.remember(place, old, manager, &fields);
        let now = leaves(&fields);
        for path in before.difference(&now) {
            remove(&mut new, path);
        }
        merge(&mut new, &fields);
        new
    }

    fn remember(
        &mut self,
        place: &Place,
        object: &Value,
        manager: String,
        fields: &Value,
    ) -> std::collections::BTreeSet<Vec<String>> {
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.applied
            .insert((uid, manager, place.status), leaves(fields))
            .unwrap_or_default()
    }
}

/// Leaves in `new` of a write to the status what such a write may change, and of any other write all but the status.
fn separate(place: &Place, old: &Value, new: &mut Value) {
    let kept = |new: &mut Value, field: &str| match &old[field] {
        Value::Null => {
            if let Some(fields) = new.as_object_mut() {
                fields.remove(field);
            }
        }
        value => new[field] = value.clone(),
    };
    if !place.status {
        kept(new, "status");
    } else if place.resource.is_custom() {
        let status = new["status"].take();
        *new = old.clone();
        if status.is_null() {
            kept(new, "nothing");
            new.as_object_mut().map(|fields| fields.remove("status"));
        } else {
            new["status"] = status;
        }
    } else {
        // Of a built-in kind only the spec is protected: labels and annotations go through.
        kept(new, "spec");
    }
}

/// Refuses a write that is based on another version or another object, or that would rename it.
fn precondition(place: &Place, old: &Value, new: &Value, put: bool) -> Result<(), Refusal> {
    let (was, is) = (&old["metadata"], &new["metadata"]);
    if is["name"] != place.name.as_str() {
        let name = is["name"].as_str().unwrap_or_default();
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        );
        return Err(Refusal::bad_request(message));
    }
    match is["resourceVersion"].as_str().filter(|version| !version.is_empty()) {
        None if put && place.resource.update_needs_version => {
            let why = "Invalid value: 0: must be specified for an update";
            return Err(Refusal::invalid(
                place,
                false,
                "metadata.resourceVersion",
                "FieldValueInvalid",
                why,
            ));
        }
        None => {}
        Some(version) => {
            version
                .parse::<u64>()
                .map_err(|_| Refusal::internal(format!("strconv.ParseUint: parsing {version:?}: invalid syntax")))?;
            if was["resourceVersion"] != version {
                return Err(Refusal::conflict(place));
            }
        }
    }
    if is["uid"].is_string() && is["uid"] != was["uid"] {
        if put {
            return Err(Refusal::conflict(place));
        }
        let why = format!("Invalid value: {}: field is immutable", is["uid"]);
        return Err(Refusal::invalid(place, true, "metadata.uid", "FieldValueInvalid", &why));
    }
    Ok(())
}

fn of_kind(place: &Place, object: &Value) -> Result<(), Refusal> {
    if object["kind"] == place.resource.kind.as_str() && object["apiVersion"] == place.api_version() {
        return Ok(());
    }
    Err(Refusal::bad_request(format!(
        "the object provided is unrecognized (must be of type {}): couldn't get version/kind",
        place.resource.kind
    )))
}

fn same_namespace(place: &Place, metadata: &Map<String, Value>) -> Result<(), Refusal> {
    let namespace = text(metadata, "namespace");
    if place.resource.namespaced && !namespace.is_empty() && namespace != place.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

/// What is not stored: null, and what is empty.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || *value == json!({}) || *value == json!([]) || *value == json!("")
}

fn text(fields: &Map<String, Value>, field: &str) -> String {
    fields.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What generation counts changes of: all but metadata and status.
fn wanted(object: &Value) -> Vec<(&String, &Value)> {
    let fields = object.as_object().into_iter().flatten();
    fields
        .filter(|(field, _)| !["metadata", "status", "apiVersion"].contains(&field.as_str()))
        .collect()
}

fn uid(serial: u64) -> String {
    format!("00000000-0000-4000-8000-{serial:012x}")
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
