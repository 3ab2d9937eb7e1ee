//! The objects of the cluster as JSON, with resource versions and a log of changes that watches read.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Names one object: resource (`pods`), namespace (empty if it has none), name.
pub(crate) type Key = (String, String, String);

/// A change, as a watch reports it.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Version that it made.
    pub(crate) revision: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) kind: &'static str,
    /// What changed.
    pub(crate) key: Key,
    /// The object after it.
    pub(crate) object: Value,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Key, Value>,
    revision: u64,
    changes: Vec<Change>,
}

/// All objects.
pub(crate) struct Store {
    inner: Mutex<Inner>,
    revision: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self { inner: Mutex::default(), revision: watch::Sender::new(0) }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an object, with uid, time and version; gives none if the name is taken.
    pub(crate) fn create(&self, key: Key, mut object: Value) -> Option<Value> {
        let mut inner = self.lock();
        if inner.objects.contains_key(&key) {
            return None;
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(key.2);
        if !key.1.is_empty() {
            metadata["namespace"] = json!(key.1);
        }
        metadata["uid"] = json!(uid());
        metadata["generation"] = json!(1);
        metadata["creationTimestamp"] = json!(now());
        Some(self.put(&mut inner, "ADDED", key, object))
    }

    fn put(&self, inner: &mut Inner, kind: &'static str, key: Key, mut object: Value) -> Value {
        inner.revision += 1;
        let revision = inner.revision;
        object["metadata"]["resourceVersion"] = json!(revision.to_string());
        if kind == "DELETED" {
            inner.objects.remove(&key);
        } else {
            inner.objects.insert(key.clone(), object.clone());
        }
        inner.changes.push(Change { revision, kind, key, object: object.clone() });
        self.revision.send_replace(revision);
        object
    }

    /// The object of this key.
    pub(crate) fn get(&self, key: &Key) -> Option<Value> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects of a resource, in one namespace unless `namespace` is empty, and the version at which this was so.
    pub(crate) fn list(&self, resource: &str, namespace: &str) -> (Vec<Value>, u64) {
        let inner = self.lock();
        let found = inner
            .objects
            .iter()
            .filter(|((of, within, _), _)| of == resource && (namespace.is_empty() || within == namespace));
        (found.map(|(_, object)| object.clone()).collect(), inner.revision)
    }

    /// Changes an object in place; gives what it became, none if there is none.
    pub(crate) fn update(&self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut inner = self.lock();
        let before = inner.objects.get(key)?.clone();
        let mut object = before.clone();
        change(&mut object);
        if object == before {
            return Some(object);
        }
        Some(self.put(&mut inner, "MODIFIED", key.clone(), object))
    }

    /// Removes an object.
    pub(crate) fn delete(&self, key: &Key) -> Option<Value> {
        let mut inner = self.lock();
        let object = inner.objects.get(key)?.clone();
        Some(self.put(&mut inner, "DELETED", key.clone(), object))
    }

    /// Changes after a version.
    pub(crate) fn changes_after(&self, revision: u64) -> Vec<Change> {
        let inner = self.lock();
        let first = inner.changes.partition_point(|change| change.revision <= revision);
        inner.changes[first..].to_vec()
    }

    /// Wakes at each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

/// Now, as the API writes times.
pub(crate) fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// `length` random characters that an object name may end in.
pub(crate) fn suffix(length: usize) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = vec![0; length];
    if getrandom::fill(&mut bytes).is_err() {
        bytes.fill(u8::try_from(std::process::id() % 251).unwrap_or(0));
    }
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// A random uid.
pub(crate) fn uid() -> String {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        bytes.fill(7);
    }
    let hex: String = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// Whether `labels` of an object satisfy a label selector (`a=b,c!=d,e in (f,g),h,!i`).
pub(crate) fn matches_labels(selector: &str, object: &Value) -> bool {
    let label = |key: &str| object["metadata"]["labels"][key.trim()].as_str();
    split_selector(selector).iter().all(|term| {
        let term = term.trim();
        if let Some((key, values)) = term.split_once(" notin ") {
            !label(key).is_some_and(|value| within(values, value))
        } else if let Some((key, values)) = term.split_once(" in ") {
            label(key).is_some_and(|value| within(values, value))
        } else if let Some((key, value)) = term.split_once("!=") {
            label(key) != Some(value.trim())
        } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            label(key) == Some(value.trim())
        } else if let Some(key) = term.strip_prefix('!') {
            label(key).is_none()
        } else {
            term.is_empty() || label(term).is_some()
        }
    })
}

fn within(values: &str, value: &str) -> bool {
    values.trim().trim_matches(['(', ')']).split(',').any(|one| one.trim() == value)
}

/// Splits at the commas that are not within brackets.
fn split_selector(selector: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    selector
        .split(|letter| {
            depth += i32::from(letter == '(') - i32::from(letter == ')');
            letter == ',' && depth == 0
        })
        .collect()
}

/// Whether an object satisfies a field selector; only names, namespaces, nodes and phases can be asked for.
pub(crate) fn matches_fields(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (key, value, wanted) = match term.split_once("!=") {
            Some((key, value)) => (key, value, false),
            None => {
                term.split_once('=').map_or((term, "", true), |(key, value)| (key, value.trim_start_matches('='), true))
            }
        };
        let found = key.split('.').fold(object, |at, part| &at[part]).as_str().unwrap_or_default();
        (found == value) == wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_pick_by_equality_sets_and_existence() {
        let object =
            json!({"metadata": {"name": "a", "labels": {"app": "x", "tier": "web"}}, "status": {"phase": "Running"}});
        for yes in ["", "app=x", "app==x,tier=web", "app!=y", "app in (w, x),tier", "!gone", "app notin (y,z)"] {
            assert!(matches_labels(yes, &object), "{yes}");
        }
        for no in ["app=y", "app in (y,z)", "gone", "!app", "app notin (x)"] {
            assert!(!matches_labels(no, &object), "{no}");
        }
        assert!(matches_fields("metadata.name=a,status.phase!=Failed", &object));
        assert!(!matches_fields("metadata.name=b", &object));
    }

    #[test]
    fn changes_are_numbered_and_an_equal_update_is_none() {
        let store = Store::default();
        let key: Key = ("pods".into(), "n".into(), "a".into());
        assert_eq!(store.create(key.clone(), json!({})).expect("created")["metadata"]["resourceVersion"], "1");
        assert!(store.create(key.clone(), json!({})).is_none());
        store.update(&key, |_| {});
        store.update(&key, |pod| pod["status"]["phase"] = json!("Running"));
        store.delete(&key);
        let kinds: Vec<_> = store.changes_after(0).iter().map(|change| (change.revision, change.kind)).collect();
        assert_eq!(kinds, [(1, "ADDED"), (2, "MODIFIED"), (3, "DELETED")]);
        assert_eq!(store.changes_after(2).len(), 1);
    }
}
