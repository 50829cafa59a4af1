// SPDX-License-Identifier: GPL-3.0-only
//! The policy sets in force, and changes to them that are prepared before anything is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::{Document, Ruleset};
use policyd_api::{ApplyRequest, PolicyDocument, PolicySummary};

use crate::daemon::DaemonError;
use crate::events::now_ns;
use crate::store::{Record, Store};

/// The sets, as stored and as compiled.
pub struct Policies {
    store: Store,
    sets: BTreeMap<String, (Record, Document)>,
    rules: Arc<Ruleset>,
}

/// A change that was validated and compiled as a whole, and not made yet.
pub struct Change {
    name: String,
    /// None: the set is to go.
    set: Option<(Record, Document)>,
    rules: Arc<Ruleset>,
}

/// What brings the store back to where it was.
pub struct Undo {
    name: String,
    before: Option<Record>,
}

impl Change {
    /// Name of the set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All sets compiled with the change.
    pub fn rules(&self) -> &Arc<Ruleset> {
        &self.rules
    }
}

impl Policies {
    /// Reads the store. A set that is damaged or no longer valid is left out and said; the others hold.
    pub fn load(store: Store) -> Result<(Policies, Vec<String>), DaemonError> {
        let mut problems = Vec::new();
        let mut sets = BTreeMap::new();
        for (name, record) in store.policies()? {
            let parsed = record.map_err(|e| e.to_string()).and_then(|record| {
                let document = Document::parse(&record.file, &record.text).map_err(|e| e.to_string())?;
                Ok((record, document))
            });
            match parsed {
                Ok(set) => {
                    sets.insert(name, set);
                }
                Err(e) => problems.push(format!("policy {name} is not in force: {e}")),
            }
        }
        let generation = store.generation()?;
        let rules = Arc::new(compile(&sets, generation)?);
        Ok((Policies { store, sets, rules }, problems))
    }

    /// The compiled policy in force.
    pub fn rules(&self) -> Arc<Ruleset> {
        Arc::clone(&self.rules)
    }

    /// The sets in the order of their names.
    pub fn list(&self) -> Vec<PolicySummary> {
        self.sets
            .values()
            .map(|(record, document)| summary(record, document))
            .collect()
    }

    /// One set with its text.
    pub fn show(&self, name: &str) -> Result<PolicyDocument, DaemonError> {
        let (record, document) = self
            .sets
            .get(name)
            .ok_or_else(|| DaemonError::NoSuchPolicy(name.to_owned()))?;
        Ok(PolicyDocument {
            summary: summary(record, document),
            text: record.text.clone(),
        })
    }

    /// Validates a set and compiles all sets with it.
    pub fn prepare_apply(&self, request: &ApplyRequest, uid: u32) -> Result<Change, DaemonError> {
        let document = Document::parse(&request.file, &request.text)
            .map_err(|problems| DaemonError::Invalid(problems.to_string()))?;
        let generation = self.rules.generation() + 1;
        let record = Record {
            text: request.text.clone(),
            file: request.file.clone(),
            generation,
            applied_ns: now_ns(),
            by_uid: uid,
        };
        let name = document.name().to_owned();
        let set = Some((record, document));
        let rules = self.compiled_with(&name, set.as_ref(), generation)?;
        Ok(Change { name, set, rules })
    }

    /// Compiles all sets without `name`.
    pub fn prepare_delete(&self, name: &str, _uid: u32) -> Result<Change, DaemonError> {
        // A damaged record is no set, but it must be possible to delete it.
        let stored = self.store.policies()?.iter().any(|(stored, _)| stored == name);
        if !stored && !self.sets.contains_key(name) {
            return Err(DaemonError::NoSuchPolicy(name.to_owned()));
        }
        let rules = self.compiled_with(name, None, self.rules.generation() + 1)?;
        Ok(Change {
            name: name.to_owned(),
            set: None,
            rules,
        })
    }

    /// Makes the change durable.
    pub fn store_change(&self, change: &Change) -> Result<Undo, DaemonError> {
        match &change.set {
            Some((record, _)) => self.store.put(&change.name, record, record.generation)?,
            None => self.store.remove(&change.name, change.rules.generation())?,
        }
        Ok(Undo {
            name: change.name.clone(),
            before: self.sets.get(&change.name).map(|(record, _)| record.clone()),
        })
    }

    /// Takes a stored change back. Its generation was never in force, so the next change may have it.
    pub fn take_back(&self, undo: Undo) -> Result<(), DaemonError> {
        match undo.before {
            Some(record) => self.store.put(&undo.name, &record, self.rules.generation())?,
            None => self.store.remove(&undo.name, self.rules.generation())?,
        }
        Ok(())
    }

    /// The change is in force.
    pub fn adopt(&mut self, change: Change) {
        match change.set {
            Some(set) => self.sets.insert(change.name, set),
            None => self.sets.remove(&change.name),
        };
        self.rules = change.rules;
    }

    fn compiled_with(
        &self,
        name: &str,
        set: Option<&(Record, Document)>,
        generation: u64,
    ) -> Result<Arc<Ruleset>, DaemonError> {
        let mut sets: BTreeMap<&str, &Document> = self
            .sets
            .iter()
            .map(|(n, (_, document))| (n.as_str(), document))
            .collect();
        match set {
            Some((_, document)) => sets.insert(name, document),
            None => sets.remove(name),
        };
        let documents: Vec<Document> = sets.into_values().cloned().collect();
        Ruleset::compile(&documents, generation)
            .map(Arc::new)
            .map_err(|problems| DaemonError::Invalid(problems.to_string()))
    }
}

fn compile(sets: &BTreeMap<String, (Record, Document)>, generation: u64) -> Result<Ruleset, DaemonError> {
    let documents: Vec<Document> = sets.values().map(|(_, document)| document.clone()).collect();
    Ruleset::compile(&documents, generation).map_err(|problems| DaemonError::Invalid(problems.to_string()))
}

fn summary(record: &Record, document: &Document) -> PolicySummary {
    PolicySummary {
        name: document.name().to_owned(),
        description: document.description().map(str::to_owned),
        services: document.services().len(),
        rules: document.rules().len(),
        routes: document.routes().len(),
        generation: record.generation,
        applied_ns: record.applied_ns,
        by_uid: record.by_uid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> ApplyRequest {
        ApplyRequest {
            file: "t.yaml".into(),
            text: text.into(),
            dry_run: false,
        }
    }

    #[test]
    fn a_change_that_is_taken_back_leaves_the_store_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opens");
        let (mut policies, _) = Policies::load(store.clone()).expect("loads");
        for text in ["policy: a\ndescription: first\n", "policy: b\n"] {
            let change = policies.prepare_apply(&request(text), 0).expect("valid");
            policies.store_change(&change).expect("stores");
            policies.adopt(change);
        }
        for text in ["policy: a\ndescription: second\n", "policy: c\n"] {
            let change = policies.prepare_apply(&request(text), 0).expect("valid");
            let undo = policies.store_change(&change).expect("stores");
            policies.take_back(undo).expect("takes back");
        }
        assert_eq!(store.generation().expect("reads"), 2);
        let (again, problems) = Policies::load(store).expect("loads");
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(again.list().len(), 2);
        assert_eq!(again.list()[0].description.as_deref(), Some("first"));
    }
}
