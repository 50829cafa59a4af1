// SPDX-License-Identifier: GPL-3.0-only
//! What dom0 knows of a guest beside its name: labels, and what Xen says of it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::VmId;
use crate::index::Anchor;
use crate::ruleset::Ruleset;

/// The most labels that one source gives a guest: all documents together, or xenstore.
pub const MAX_LABELS: usize = 64;
/// The longest key or value of a label, in bytes.
pub const MAX_LABEL: usize = 63;

/// Why a text is not a key or value of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the {what} of a label; use 1 to {MAX_LABEL} of a-z, A-Z, 0-9, - _ and ., a letter or digit at both ends"
)]
pub struct LabelError {
    /// `key` or `value`.
    pub what: &'static str,
    /// The text, cut where it is long.
    pub text: String,
}

impl LabelError {
    fn check(what: &'static str, text: &str) -> Result<(), LabelError> {
        match is_plain(text) {
            true => Ok(()),
            false => Err(LabelError {
                what,
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

/// Whether a text may be the key or the value of a label.
pub fn is_plain(text: &str) -> bool {
    let ends = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
        && bytes.iter().all(|b| ends(b) || matches!(b, b'-' | b'_' | b'.'))
}

/// Where a label is said. Prints as `set shop ("web*")`, or as the node of xenstore.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LabelFrom {
    /// In a policy set.
    Set {
        /// The set.
        set: Arc<str>,
        /// The pattern that it says it of.
        pattern: Arc<str>,
    },
    /// In this node of xenstore.
    Xenstore(Arc<str>),
}

impl fmt::Display for LabelFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelFrom::Set { set, pattern } => write!(f, "set {set} (\"{pattern}\")"),
            LabelFrom::Xenstore(node) => f.write_str(node),
        }
    }
}

/// One label of a guest. Prints as `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    key: Box<str>,
    value: Box<str>,
    from: LabelFrom,
    /// What rules that ask for it are filed under.
    anchor: Anchor,
}

impl Label {
    /// A label.
    ///
    /// # Errors
    /// A key or a value that is not plain text: see [`is_plain`].
    pub fn new(key: &str, value: &str, from: LabelFrom) -> Result<Label, LabelError> {
        LabelError::check("key", key)?;
        LabelError::check("value", value)?;
        Ok(Label {
            key: key.into(),
            value: value.into(),
            from,
            anchor: Anchor::label(key, value),
        })
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its value.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Where it is said.
    pub fn from(&self) -> &LabelFrom {
        &self.from
    }

    pub(crate) fn anchor(&self) -> Anchor {
        self.anchor
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

/// The value of a key among labels sorted by key.
pub(crate) fn value_of<'l>(labels: &'l [Label], key: &str) -> Option<&'l str> {
    let at = labels.binary_search_by(|label| (*label.key).cmp(key)).ok()?;
    labels.get(at).map(|label| &*label.value)
}

/// How a guest is virtualised, in the words of `type=` in xl.cfg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestType {
    /// Paravirtualised.
    Pv,
    /// By the processor, with nothing emulated.
    Pvh,
    /// By the processor, with the devices of a PC.
    Hvm,
}

impl GuestType {
    /// All of them.
    pub const ALL: [GuestType; 3] = [GuestType::Pv, GuestType::Pvh, GuestType::Hvm];

    /// The word in documents and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            GuestType::Pv => "pv",
            GuestType::Pvh => "pvh",
            GuestType::Hvm => "hvm",
        }
    }
}

impl fmt::Display for GuestType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is known of a guest beside who it is. None of it is the guest's own word.
///
/// What documents say of labels is in it once a ruleset has been asked: see [`Ruleset::known`]. A ruleset decides by the labels that
/// are in it, and looks for no others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Facts {
    /// How it is virtualised; `None`: not known.
    pub guest_type: Option<GuestType>,
    /// Its pool of processors; `None`: not known.
    pub pool: Option<Box<str>>,
    /// Of xenstore, by key.
    given: Arc<[Label]>,
    /// All that hold, by key.
    labels: Arc<[Label]>,
    /// Those that hold where a change is rolled out at the other end of a flow, and not here.
    beside: Option<Arc<[Label]>>,
}

impl Facts {
    /// What Xen says, and labels of xenstore: of two of one key the first counts, of all of them [`MAX_LABELS`] by key.
    pub fn new(guest_type: Option<GuestType>, pool: Option<Box<str>>, mut given: Vec<Label>) -> Facts {
        given.sort_by(|a, b| a.key.cmp(&b.key));
        given.dedup_by(|b, a| a.key == b.key);
        given.truncate(MAX_LABELS);
        let given: Arc<[Label]> = given.into();
        Facts {
            guest_type,
            pool,
            labels: Arc::clone(&given),
            given,
            beside: None,
        }
    }

    /// The labels that it has, by key.
    pub fn labels(&self) -> &[Label] {
        &self.labels
    }

    /// The same in a flow that is decided by the policy as it will be (`after`), or as it was.
    pub(crate) fn labels_in(&self, after: bool) -> &[Label] {
        match &self.beside {
            Some(beside) if after => beside,
            _ => &self.labels,
        }
    }

    /// All that it may have in one flow or another.
    pub(crate) fn all_labels(&self) -> impl Iterator<Item = &[Label]> {
        std::iter::once(&*self.labels).chain(self.beside.as_deref())
    }
}

impl Ruleset {
    /// A guest with the labels that it has by this ruleset: what documents say of it, then what xenstore does. It is for this
    /// ruleset alone to decide on; for another, it is asked again.
    pub fn known(&self, vm: &VmId) -> VmId {
        let of = |after| self.by_vm(after).labels.with(vm, &vm.facts.given);
        let is_after = self.is_after_for(Some(vm));
        let labels = of(is_after);
        let beside = (self.rollout.is_some() && !is_after).then(|| of(true));
        if labels == vm.facts.labels && beside == vm.facts.beside {
            return vm.clone();
        }
        VmId {
            facts: Arc::new(Facts {
                labels,
                beside,
                ..(*vm.facts).clone()
            }),
            ..vm.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_plain() {
        for good in ["a", "tier", "App-1", "v1.2_x", &"x".repeat(63)] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "-a", "a-", ".a", "a b", "a/b", "é", "a*", &"x".repeat(64)] {
            assert!(!is_plain(bad), "{bad}");
        }
        let error = Label::new("tier", "a b", LabelFrom::Xenstore("/x".into())).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("`a b` is not the value of a label; use 1 to 63 of ")
        );
    }

    #[test]
    fn the_first_of_a_key_counts_and_the_number_is_bounded() {
        let label =
            |key: &str, value: &str| Label::new(key, value, LabelFrom::Xenstore("/x".into())).unwrap();
        let facts = Facts::new(
            None,
            None,
            vec![label("b", "1"), label("a", "2"), label("b", "3")],
        );
        let shown: Vec<String> = facts.labels().iter().map(Label::to_string).collect();
        assert_eq!(shown, ["a=2", "b=1"]);
        assert_eq!(value_of(facts.labels(), "b"), Some("1"));
        assert_eq!(value_of(facts.labels(), "c"), None);
        let many = (0..100).map(|n| label(&format!("k{n:03}"), "v")).collect();
        assert_eq!(Facts::new(None, None, many).labels().len(), MAX_LABELS);
    }
}
