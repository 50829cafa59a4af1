// SPDX-License-Identifier: GPL-3.0-only
//! The policy sets in force, and changes to them that are prepared before anything is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy::{Document, Ruleset};
use policyd_api::chain::{Attempt, Outcome};
use policyd_api::export::Export;
use policyd_api::{Action, Author, PolicyDocument, PolicySummary, SourceText};
use policyd_store::{Change, Recovery, Set, Store, Undo};

use crate::daemon::DaemonError;
use crate::events::now_ns;

/// Longest message of a change, in bytes.
const MAX_MESSAGE: usize = 1000;
/// Most documents in one change.
const MAX_DOCUMENTS: usize = 1000;

/// What is asked for.
#[derive(Debug)]
pub enum Wish {
    /// Put these sets in force.
    Apply(Vec<SourceText>),
    /// Take this set out of force.
    Delete(String),
    /// Make all sets what they were at this generation.
    Rollback(u64),
    /// Make all sets those of this export.
    Import(Box<Export>),
}

/// A change of policy that is asked for.
#[derive(Debug)]
pub struct Request {
    /// What.
    pub wish: Wish,
    /// Who.
    pub by: Author,
    /// Why.
    pub message: Option<String>,
    /// The generation that the caller has seen; the change is refused if another is in force.
    pub if_generation: Option<u64>,
    /// Validate and compile only.
    pub dry_run: bool,
}

impl Request {
    /// What kind of change it is.
    pub fn action(&self) -> Action {
        match self.wish {
            Wish::Apply(_) => Action::Apply,
            Wish::Delete(_) => Action::Delete,
            Wish::Rollback(_) => Action::Rollback,
            Wish::Import(_) => Action::Import,
        }
    }

    /// What it is about, before it is known to be valid.
    fn what(&self) -> String {
        match &self.wish {
            Wish::Apply(documents) => {
                let files: Vec<&str> = documents.iter().map(|d| d.file.as_str()).take(20).collect();
                files.join(" ")
            }
            Wish::Delete(name) => name.clone(),
            Wish::Rollback(to) => format!("to generation {to}"),
            Wish::Import(export) => format!("an export of generation {}", export.generation),
        }
    }

    /// Its entry in the audit log, when it is refused.
    pub fn refused(&self, why: &str) -> Attempt {
        Attempt {
            time_ns: now_ns(),
            by: self.by.clone(),
            action: self.action(),
            what: clipped(&self.what()),
            message: self.message.as_deref().map(clipped),
            outcome: Outcome::Refused { why: clipped(why) },
            edits: Vec::new(),
        }
    }
}

/// As much of a text as an entry of the audit log may have.
pub fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A set as stored and, if this version understands it, as parsed.
type Held = (Set, Option<Document>);

/// A set that is to be put in force; none: it is to go.
type Edit = Option<(SourceText, Document)>;

/// The sets, as stored and as compiled.
pub struct Policies {
    store: Store,
    sets: BTreeMap<String, Held>,
    rules: Arc<Ruleset>,
    recovery: Option<Recovery>,
}

/// A change that was validated and compiled as a whole, and not made yet.
pub struct Prepared {
    change: Change,
    documents: BTreeMap<String, Document>,
    rules: Arc<Ruleset>,
}

impl Prepared {
    /// Names of the sets that change.
    pub fn names(&self) -> Vec<String> {
        self.change.edits.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The change in a few words, as `apply shop`.
    pub fn summary(&self) -> String {
        format!("{} {}", self.change.action.as_str(), self.change.what)
    }

    /// All sets compiled with the change.
    pub fn rules(&self) -> &Arc<Ruleset> {
        &self.rules
    }
}

impl Policies {
    /// Reads the store. A set that is no longer valid is left out and said; the others hold.
    pub fn load(store: Store) -> Result<(Policies, Vec<String>), DaemonError> {
        let mut problems = Vec::new();
        let (generation, stored) = store.sets()?;
        let mut sets = BTreeMap::new();
        for (name, set) in stored {
            let document = Document::parse(&set.record.version.file, &set.text)
                .inspect_err(|e| problems.push(format!("policy {name} is not in force: {e}")))
                .ok();
            sets.insert(name, (set, document));
        }
        let documents: Vec<Document> = sets.values().filter_map(|(_, d)| d.clone()).collect();
        let rules = compile(&documents, generation)?;
        let recovery = store.recovery()?;
        let policies = Policies {
            store,
            sets,
            rules,
            recovery,
        };
        Ok((policies, problems))
    }

    /// The compiled policy in force.
    pub fn rules(&self) -> Arc<Ruleset> {
        Arc::clone(&self.rules)
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.rules.generation()
    }

    /// Whether the policy is lost, so that what the vifs have must stay there until there is another.
    pub fn holds(&self) -> bool {
        self.recovery.as_ref().is_some_and(|r| r.export.is_none()) && self.sets.is_empty()
    }

    /// A policy is about to be put in force again: nothing is held any more. Returns what was.
    pub fn release(&mut self) -> Option<Recovery> {
        self.recovery.take()
    }

    /// It was not put in force: what was held still is.
    pub fn hold(&mut self, held: Option<Recovery>) {
        self.recovery = held;
    }

    /// The sets in the order of their names.
    pub fn list(&self) -> Vec<PolicySummary> {
        self.sets
            .values()
            .filter_map(|(set, document)| Some(summary(set, document.as_ref()?)))
            .collect()
    }

    /// One set with its text.
    pub fn show(&self, name: &str) -> Result<PolicyDocument, DaemonError> {
        match self.sets.get(name) {
            Some((set, Some(document))) => Ok(PolicyDocument {
                summary: summary(set, document),
                text: set.text.clone(),
            }),
            _ => Err(DaemonError::NoSuchPolicy(name.to_owned())),
        }
    }

    /// Validates a change and compiles all sets with it.
    pub fn prepare(&self, request: &Request) -> Result<Prepared, DaemonError> {
        self.may_change(request)?;
        let mut continues = None;
        let mut generation = self.generation() + 1;
        let edits = match &request.wish {
            Wish::Apply(documents) => parse_all(documents)?,
            Wish::Delete(name) => {
                if !self.sets.contains_key(name) {
                    return Err(DaemonError::NoSuchPolicy(name.clone()));
                }
                BTreeMap::from([(name.clone(), None)])
            }
            Wish::Rollback(to) => {
                let sets = self.store.sets_at(*to)?;
                let texts = sets.into_iter().map(|(_, file, text)| SourceText { file, text });
                self.all_become(&texts.collect::<Vec<_>>(), &format!("generation {to}"))?
            }
            Wish::Import(export) => {
                let texts = texts(export)?;
                let edits = self.all_become(&texts, "the export")?;
                if self.generation() == 0 && self.sets.is_empty() {
                    // A store without a past takes that of the export over, where its last generation has just these sets.
                    generation = export.generation + 1;
                    continues = Some(export.clone());
                }
                edits
            }
        };
        let mut documents: BTreeMap<String, Document> = self
            .sets
            .iter()
            .filter_map(|(name, (_, document))| Some((name.clone(), document.clone()?)))
            .collect();
        for (name, edit) in &edits {
            match edit {
                Some((_, document)) => documents.insert(name.clone(), document.clone()),
                None => documents.remove(name),
            };
        }
        let all: Vec<Document> = documents.values().cloned().collect();
        let rules = compile(&all, generation)?;
        let names: Vec<&str> = edits.keys().map(String::as_str).collect();
        let what = match request.wish {
            Wish::Apply(_) | Wish::Delete(_) => clipped(&names.join(" ")),
            _ => request.what(),
        };
        let edits = edits
            .into_iter()
            .map(|(name, edit)| (name, edit.map(|(source, _)| (source.file, source.text))));
        let change = Change {
            generation,
            time_ns: now_ns(),
            by: request.by.clone(),
            action: request.action(),
            to: match &request.wish {
                Wish::Rollback(to) => Some(*to),
                Wish::Import(export) => Some(export.generation),
                _ => None,
            },
            message: request.message.clone(),
            what,
            edits: match continues {
                Some(_) => Vec::new(),
                None => edits.collect(),
            },
            continues,
        };
        Ok(Prepared {
            change,
            documents,
            rules,
        })
    }

    /// Makes the change durable.
    pub fn store_change(&self, prepared: &Prepared) -> Result<Undo, DaemonError> {
        Ok(self.store.commit(&prepared.change)?)
    }

    /// Takes a stored change back. Its generation was never in force, so the next change may have it.
    pub fn take_back(&self, undo: Undo, why: &str) -> Result<(), DaemonError> {
        Ok(self.store.take_back(undo, why)?)
    }

    /// The change is in force.
    pub fn adopt(&mut self, prepared: Prepared) {
        // Read again: what is shown is what is stored.
        match self.store.sets() {
            Ok((_, stored)) => {
                let mut documents = prepared.documents;
                self.sets = stored
                    .into_iter()
                    .map(|(name, set)| {
                        let document = documents.remove(&name);
                        (name, (set, document))
                    })
                    .collect();
            }
            Err(e) => log::error!("the list of policies is that of before: {e}"),
        }
        self.rules = prepared.rules;
        self.store.export_beside();
    }

    /// Notes in the audit log that a request was refused.
    pub fn note_refusal(&self, request: &Request, why: &str) {
        self.store.refused(request.refused(why));
    }

    fn may_change(&self, request: &Request) -> Result<(), DaemonError> {
        if let Some(recovery) = &self.recovery
            && recovery.export.is_some()
            && !matches!(request.wish, Wish::Import(_))
        {
            return Err(DaemonError::Unavailable(recovery.to_string()));
        }
        let now = self.generation();
        if let Some(seen) = request.if_generation.filter(|seen| *seen != now) {
            return Err(DaemonError::Stale(format!(
                "generation {now} is in force, not {seen}: somebody changed the policy meanwhile; nothing was changed. \
                 Look at `xmesh policy-diff` and try again with {now}"
            )));
        }
        match &request.message {
            Some(message) if message.len() > MAX_MESSAGE => Err(DaemonError::Invalid(format!(
                "the message has {} bytes; it may have {MAX_MESSAGE}",
                message.len()
            ))),
            _ => Ok(()),
        }
    }

    /// What makes all sets just these.
    fn all_become(&self, texts: &[SourceText], from: &str) -> Result<BTreeMap<String, Edit>, DaemonError> {
        let mut edits = match texts {
            [] => BTreeMap::new(),
            texts => parse_all(texts).map_err(|e| match e {
                DaemonError::Invalid(why) => DaemonError::Invalid(format!(
                    "{from} cannot be put in force, for this version of policyd does not take all of its sets; nothing was changed:\n{why}"
                )),
                e => e,
            })?,
        };
        for name in self.sets.keys() {
            edits.entry(name.clone()).or_insert(None);
        }
        // Those that are so already stay untouched, with the generation that brought them.
        edits.retain(|name, edit| match (self.sets.get(name), edit) {
            (Some((set, _)), Some((source, _))) => {
                set.text != source.text || set.record.version.file != source.file
            }
            _ => true,
        });
        Ok(edits)
    }
}

/// Texts of the sets of an export.
fn texts(export: &Export) -> Result<Vec<SourceText>, DaemonError> {
    export
        .sets
        .values()
        .map(|set| {
            let text = export
                .text(&set.version.text)
                .map_err(|e| DaemonError::Invalid(e.to_string()))?;
            Ok(SourceText {
                file: set.version.file.clone(),
                text,
            })
        })
        .collect()
}

/// Parses documents of one change; tells the problems of all.
fn parse_all(texts: &[SourceText]) -> Result<BTreeMap<String, Edit>, DaemonError> {
    if texts.is_empty() || texts.len() > MAX_DOCUMENTS {
        return Err(DaemonError::Invalid(format!(
            "a change has 1 to {MAX_DOCUMENTS} documents, not {}",
            texts.len()
        )));
    }
    let mut edits: BTreeMap<String, Edit> = BTreeMap::new();
    let mut problems = Vec::new();
    for source in texts {
        match Document::parse(&source.file, &source.text) {
            Ok(document) => {
                let name = document.name().to_owned();
                if let Some(Some((other, _))) = edits.get(&name) {
                    problems.push(format!(
                        "{} and {} are both the set {name}; apply one of them, or name them differently",
                        other.file, source.file
                    ));
                }
                edits.insert(name, Some((source.clone(), document)));
            }
            Err(e) => problems.push(e.to_string()),
        }
    }
    match problems.is_empty() {
        true => Ok(edits),
        false => Err(DaemonError::Invalid(problems.join("\n"))),
    }
}

fn compile(documents: &[Document], generation: u64) -> Result<Arc<Ruleset>, DaemonError> {
    Ruleset::compile(documents, generation)
        .map(Arc::new)
        .map_err(|problems| DaemonError::Invalid(problems.to_string()))
}

fn summary(set: &Set, document: &Document) -> PolicySummary {
    PolicySummary {
        name: document.name().to_owned(),
        description: document.description().map(str::to_owned),
        services: document.services().len(),
        rules: document.rules().len(),
        routes: document.routes().len(),
        generation: set.record.generation,
        applied_ns: set.record.applied_ns,
        by_uid: set.record.by.uid,
        by_name: set.record.by.name.clone(),
    }
}

#[cfg(test)]
mod tests;
