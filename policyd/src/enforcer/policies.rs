// SPDX-License-Identifier: GPL-3.0-only
//! The policy sets in force, and changes to them that are prepared before anything is touched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use policy::pattern::Pattern;
use policy::{Document, Ruleset, VmId};
use policyd_api::chain::{Attempt, Outcome};
use policyd_api::export::Export;
use policyd_api::{Action, Author, PolicyDocument, PolicySummary, SourceText, Stage, StageOptions};
use policyd_store::{Change, Recovery, Set, StagedChange, Store, Undo};

use crate::daemon::DaemonError;
use crate::events::now_ns;
use policyd_advice::Candidate;

/// Longest message of a change, in bytes.
const MAX_MESSAGE: usize = 1000;
/// Most documents in one change.
const MAX_DOCUMENTS: usize = 1000;
/// Most patterns of VMs that a change is rolled out to first.
const MAX_STAGED: usize = 1000;
/// Longest roll-out, in seconds: a week.
const MAX_ROLLOUT: u64 = 7 * 24 * 3600;

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
    /// Put these sets in force for some VMs first.
    Stage(Vec<SourceText>, StageOptions),
    /// Let what holds for some VMs hold for all.
    Promote,
    /// Take back what holds for some VMs.
    Abandon,
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
            Wish::Stage(..) => Action::Stage,
            Wish::Promote => Action::Promote,
            Wish::Abandon => Action::Abandon,
        }
    }

    /// What it is about, before it is known to be valid.
    fn what(&self) -> String {
        match &self.wish {
            Wish::Apply(documents) => files(documents),
            Wish::Stage(documents, options) => format!("{} for {}", files(documents), options.vms.join(" ")),
            Wish::Promote | Wish::Abandon => "what is rolled out".into(),
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

fn files(documents: &[SourceText]) -> String {
    let files: Vec<&str> = documents.iter().map(|d| d.file.as_str()).take(20).collect();
    files.join(" ")
}

/// As much of a text as an entry of the audit log may have.
pub fn clipped(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A set as stored and, if this version understands it, as parsed.
type Held = (Set, Option<Arc<Document>>);

/// A set that is to be put in force; none: it is to go.
type Edit = Option<(SourceText, Arc<Document>)>;

/// A change that holds for some VMs.
#[derive(Debug, Clone)]
struct Staged {
    vms: Vec<String>,
    since_ns: u64,
    until_ns: Option<u64>,
    edits: BTreeMap<String, Edit>,
}

/// The sets, as stored and as compiled.
pub struct Policies {
    store: Store,
    /// What holds for all, but where `staged` says otherwise.
    sets: BTreeMap<String, Held>,
    staged: Option<Staged>,
    rules: Arc<Ruleset>,
    recovery: Option<Recovery>,
    /// Nanoseconds since 1970.
    clock: fn() -> u64,
}

/// A change that was validated and compiled as a whole, and not made yet.
pub struct Prepared {
    change: Change,
    documents: BTreeMap<String, Arc<Document>>,
    staged: Option<Staged>,
    rules: Arc<Ruleset>,
}

impl Prepared {
    /// Names of the sets that change.
    pub fn names(&self) -> Vec<String> {
        let edits = match (&self.change.stage, self.change.action) {
            (Some(stage), Action::Stage) => &stage.edits,
            _ => &self.change.edits,
        };
        edits.iter().map(|(name, _)| name.clone()).collect()
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
                .ok()
                .map(Arc::new);
            sets.insert(name, (set, document));
        }
        let documents: BTreeMap<String, Arc<Document>> = sets
            .iter()
            .filter_map(|(name, (_, d)): (&String, &Held)| Some((name.clone(), d.clone()?)))
            .collect();
        // Without it the policy as it was holds for all: it is what is in the store.
        let staged = Staged::load(&store)
            .inspect_err(|e| problems.push(format!("what is rolled out holds nowhere: {e}")))
            .unwrap_or_default();
        let nothing = Ruleset::empty(0);
        let now = seconds(now_ns());
        let (rules, staged) = match compile(&nothing, &documents, staged.as_ref(), generation, now) {
            Err(e) if staged.is_some() => {
                problems.push(format!("what is rolled out holds nowhere: {e}"));
                (compile(&nothing, &documents, None, generation, now)?, None)
            }
            rules => (rules?, staged),
        };
        let recovery = store.recovery()?;
        let policies = Policies {
            store,
            sets,
            staged,
            rules,
            recovery,
            clock: now_ns,
        };
        Ok((policies, problems))
    }

    /// The compiled policy in force.
    pub fn rules(&self) -> Arc<Ruleset> {
        Arc::clone(&self.rules)
    }

    /// Brings the rules to what holds now, where some hold at times only. Returns whether that is another thing than before.
    pub fn tick(&mut self) -> bool {
        let now = self.now();
        let differs = !self.rules.is_at(now);
        if differs {
            self.rules = Arc::new(self.rules.at(now));
        }
        differs
    }

    /// How long no rule begins or ceases to hold; `None` where none ever does.
    pub fn unchanged_for(&self) -> Option<Duration> {
        let next = self.rules.next_change(self.now())?;
        let next_ns = u64::try_from(next).unwrap_or(0).saturating_mul(1_000_000_000);
        Some(Duration::from_nanos(next_ns.saturating_sub((self.clock)())))
    }

    fn now(&self) -> i64 {
        seconds((self.clock)())
    }

    /// The same with another clock.
    #[cfg(test)]
    pub fn with_clock(self, clock: fn() -> u64) -> Policies {
        Policies { clock, ..self }
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
            .filter_map(|(set, document)| Some(summary(set, document.as_deref()?)))
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
        let mut staged = self.staged.clone();
        let edits = match &request.wish {
            Wish::Apply(documents) => self.aside(parse_all(documents)?)?,
            Wish::Delete(name) => {
                if !self.sets.contains_key(name) {
                    return Err(DaemonError::NoSuchPolicy(name.clone()));
                }
                self.aside(BTreeMap::from([(name.clone(), None)]))?
            }
            Wish::Rollback(to) => {
                staged = None;
                let sets = self.store.sets_at(*to)?;
                let texts = sets.into_iter().map(|(_, file, text)| SourceText { file, text });
                self.all_become(&texts.collect::<Vec<_>>(), &format!("generation {to}"))?
            }
            Wish::Import(export) => {
                staged = None;
                let texts = texts(export)?;
                let edits = self.all_become(&texts, "the export")?;
                if self.generation() == 0 && self.sets.is_empty() {
                    // A store without a past takes that of the export over, where its last generation has just these sets.
                    generation = export.generation + 1;
                    continues = Some(export.clone());
                }
                edits
            }
            Wish::Stage(documents, options) => {
                staged = Some(self.stage(documents, options)?);
                BTreeMap::new()
            }
            Wish::Promote => staged.take().ok_or_else(nothing_staged)?.edits,
            Wish::Abandon => {
                staged.take().ok_or_else(nothing_staged)?;
                BTreeMap::new()
            }
        };
        let documents = with(self.documents(), &edits);
        let rules = compile(&self.rules, &documents, staged.as_ref(), generation, self.now())?;
        let names = |edits: &BTreeMap<String, Edit>| {
            let names: Vec<&str> = edits.keys().map(String::as_str).collect();
            names.join(" ")
        };
        let what = match (&request.wish, &staged, &self.staged) {
            (Wish::Apply(_) | Wish::Delete(_) | Wish::Promote, ..) => clipped(&names(&edits)),
            (Wish::Stage(..), Some(now), _) => {
                clipped(&format!("{} for {}", names(&now.edits), now.vms.join(" ")))
            }
            (Wish::Abandon, _, Some(was)) => clipped(&names(&was.edits)),
            _ => request.what(),
        };
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
                None => sources(edits),
            },
            stage: staged.as_ref().map(|staged| StagedChange {
                vms: staged.vms.clone(),
                since_ns: staged.since_ns,
                until_ns: staged.until_ns,
                edits: sources(staged.edits.clone()),
            }),
            continues,
        };
        Ok(Prepared {
            change,
            documents,
            staged,
            rules,
        })
    }

    /// Compiles sets beside those in force, in place of those of their names; changes nothing.
    /// `guests`: those that there are.
    pub fn try_out<'g>(
        &self,
        documents: &[SourceText],
        guests: impl Iterator<Item = &'g VmId>,
    ) -> Result<Candidate, DaemonError> {
        let documents = with(self.documents(), &parse_all(documents)?);
        let rules = compile(&self.rules, &documents, None, self.generation() + 1, self.now())?;
        let candidate = Candidate::new(rules, documents.values().map(|document| &**document));
        Ok(candidate.among(guests.cloned()))
    }

    fn documents(&self) -> BTreeMap<String, Arc<Document>> {
        let parsed = |(name, (_, document)): (&String, &Held)| Some((name.clone(), document.clone()?));
        self.sets.iter().filter_map(parsed).collect()
    }

    /// What is to hold for some VMs first.
    fn stage(&self, documents: &[SourceText], options: &StageOptions) -> Result<Staged, DaemonError> {
        if let Some(staged) = &self.staged {
            return Err(DaemonError::Invalid(format!(
                "{} is being rolled out: one at a time; `xmesh policy-promote` or `xmesh policy-abandon` ends that",
                staged.names()
            )));
        }
        if options.vms.is_empty() || options.vms.len() > MAX_STAGED {
            return Err(DaemonError::Invalid(format!(
                "a change is rolled out to 1 to {MAX_STAGED} VMs or patterns of VMs first, not {}",
                options.vms.len()
            )));
        }
        let seconds = options.seconds.map(|seconds| match seconds {
            1..=MAX_ROLLOUT => Ok(seconds),
            _ => Err(DaemonError::Invalid(format!(
                "a roll-out takes 1 to {MAX_ROLLOUT} seconds, not {seconds}"
            ))),
        });
        let since_ns = (self.clock)();
        Ok(Staged {
            vms: options.vms.clone(),
            since_ns,
            until_ns: seconds
                .transpose()?
                .map(|s| since_ns.saturating_add(s * 1_000_000_000)),
            edits: parse_all(documents)?,
        })
    }

    /// These edits, if nothing is being rolled out of the sets that they change.
    fn aside(&self, edits: BTreeMap<String, Edit>) -> Result<BTreeMap<String, Edit>, DaemonError> {
        let staged = self.staged.as_ref();
        match edits
            .keys()
            .find(|name| staged.is_some_and(|s| s.edits.contains_key(*name)))
        {
            Some(name) => Err(DaemonError::Invalid(format!(
                "{name} is being rolled out; `xmesh policy-promote` or `xmesh policy-abandon` first"
            ))),
            None => Ok(edits),
        }
    }

    /// What holds for some VMs, as the API tells it.
    pub fn rollout(&self) -> Result<Option<Stage>, DaemonError> {
        let (history, _) = self.store.history(u64::MAX, 1, None)?;
        let newest = history.into_iter().next();
        Ok(newest.and_then(|g| g.stage).filter(|_| self.staged.is_some()))
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
        self.staged = prepared.staged;
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
            return Err(DaemonError::Stale {
                generation: now,
                expected: seen,
            });
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
                edits.insert(name, Some((source.clone(), Arc::new(document))));
            }
            Err(e) => problems.push(e.to_string()),
        }
    }
    match problems.is_empty() {
        true => Ok(edits),
        false => Err(DaemonError::Invalid(problems.join("\n"))),
    }
}

fn seconds(ns: u64) -> i64 {
    i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX)
}

/// What the rules in force have of these documents is not compiled again.
fn compile(
    in_force: &Ruleset,
    documents: &BTreeMap<String, Arc<Document>>,
    staged: Option<&Staged>,
    generation: u64,
    now: i64,
) -> Result<Arc<Ruleset>, DaemonError> {
    let all = |documents: &BTreeMap<String, Arc<Document>>| documents.values().cloned().collect();
    let compiled = match staged {
        None => in_force.changed(all(documents), generation),
        Some(staged) => {
            let vms = staged.vms.iter().map(|text| {
                let pattern: Result<Pattern, _> = text.parse();
                pattern
                    .map_err(|e| DaemonError::Invalid(format!("`{text}` is no name or pattern of VMs: {e}")))
            });
            let vms = vms.collect::<Result<_, _>>()?;
            let after = with(documents.clone(), &staged.edits);
            in_force.staged(all(documents), all(&after), policy::Rollout { vms }, generation)
        }
    };
    compiled
        .map(|rules| Arc::new(rules.at(now)))
        .map_err(|problems| DaemonError::Invalid(problems.to_string()))
}

/// The documents after these edits.
fn with(
    mut documents: BTreeMap<String, Arc<Document>>,
    edits: &BTreeMap<String, Edit>,
) -> BTreeMap<String, Arc<Document>> {
    for (name, edit) in edits {
        match edit {
            Some((_, document)) => documents.insert(name.clone(), Arc::clone(document)),
            None => documents.remove(name),
        };
    }
    documents
}

/// Edits as the store takes them.
fn sources(edits: BTreeMap<String, Edit>) -> Vec<(String, Option<(String, String)>)> {
    let edits = edits.into_iter();
    edits
        .map(|(name, edit)| (name, edit.map(|(source, _)| (source.file, source.text))))
        .collect()
}

fn nothing_staged() -> DaemonError {
    DaemonError::Invalid("nothing is being rolled out".into())
}

impl Staged {
    /// What the store has of it.
    fn load(store: &Store) -> Result<Option<Staged>, DaemonError> {
        let Some(stored) = store.stage()? else {
            return Ok(None);
        };
        let mut edits = BTreeMap::new();
        for (name, source) in stored.edits {
            let edit = match source {
                Some((file, text)) => {
                    let document = Document::parse(&file, &text);
                    let document = document.map_err(|e| DaemonError::Invalid(e.to_string()))?;
                    Some((SourceText { file, text }, Arc::new(document)))
                }
                None => None,
            };
            edits.insert(name, edit);
        }
        Ok(Some(Staged {
            vms: stored.vms,
            since_ns: stored.since_ns,
            until_ns: stored.until_ns,
            edits,
        }))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.edits.keys().map(String::as_str).collect();
        names.join(", ")
    }
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
