// SPDX-License-Identifier: GPL-3.0-only
//! The file of an export: a line that says how long the rest is and what its checksum is, then JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chain::{Chain, sha256};
use crate::control::{Author, Generation, Version};

/// The form that is written, and read.
pub const FORMAT: u32 = 1;

/// A set that was in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedSet {
    /// Its text and file.
    #[serde(flatten)]
    pub version: Version,
    /// Generation that brought it.
    pub generation: u64,
    /// Nanoseconds since 1970.
    pub applied_ns: u64,
    /// Who applied it.
    pub by: Author,
}

/// All sets, their history and the audit log, as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The generation that was in force.
    pub generation: u64,
    /// When it was made, nanoseconds since 1970.
    pub made_ns: u64,
    /// The sets in force, by name.
    pub sets: BTreeMap<String, ExportedSet>,
    /// The generations that were kept, the oldest first.
    pub history: Vec<Generation>,
    /// Texts by their SHA-256, each as the list of its parts. Those in force are all here; of older ones what was asked for.
    pub texts: BTreeMap<String, Vec<String>>,
    /// Parts of texts by their SHA-256.
    pub parts: BTreeMap<String, String>,
    /// The audit log, or the end of it.
    pub audit: Chain,
}

/// Why a file is no export that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// It does not begin as one.
    #[error("this is no export of xmesh: its first line is not that of one")]
    Foreign,
    /// A later version wrote it.
    #[error(
        "this export has form {0}; this version reads form {FORMAT}: use the xmesh and policyd that wrote it, or newer ones"
    )]
    Newer(u32),
    /// The end is missing, or there is more.
    #[error(
        "the export has {has} bytes after its first line and should have {should}: it was cut short or added to; use another copy"
    )]
    Length {
        /// Bytes there are.
        has: usize,
        /// Bytes there should be.
        should: usize,
    },
    /// It was changed.
    #[error("the export's checksum is wrong: it was changed or damaged; use another copy")]
    Checksum,
    /// Its parts do not fit each other.
    #[error("the export contradicts itself: {0}; use another copy")]
    Inconsistent(String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    xmesh_export: u32,
    bytes: usize,
    sha256: String,
}

impl Export {
    /// The file.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] if it has no JSON form, which its types rule out.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ExportError> {
        let json = |e: serde_json::Error| ExportError::Inconsistent(e.to_string());
        let body = serde_json::to_vec(self).map_err(json)?;
        let header = Header {
            xmesh_export: FORMAT,
            bytes: body.len(),
            sha256: sha256(&body),
        };
        let mut file = serde_json::to_vec(&header).map_err(json)?;
        file.push(b'\n');
        file.extend_from_slice(&body);
        Ok(file)
    }

    /// Reads and checks a file: checksum, every text, and that the audit log is whole.
    ///
    /// # Errors
    /// Why it cannot be trusted.
    pub fn from_bytes(file: &[u8]) -> Result<Export, ExportError> {
        let export = Export::from_bytes_unverified(file)?;
        export
            .audit
            .verify()
            .map_err(|broken| ExportError::Inconsistent(broken.to_string()))?;
        Ok(export)
    }

    /// The same, without a check of the audit log.
    ///
    /// # Errors
    /// Why it cannot be trusted.
    pub fn from_bytes_unverified(file: &[u8]) -> Result<Export, ExportError> {
        let end = file
            .iter()
            .position(|b| *b == b'\n')
            .ok_or(ExportError::Foreign)?;
        let (head, body) = (&file[..end], &file[end + 1..]);
        let header: Header = serde_json::from_slice(head).map_err(|_| ExportError::Foreign)?;
        if header.xmesh_export != FORMAT {
            return Err(ExportError::Newer(header.xmesh_export));
        }
        if header.bytes != body.len() {
            return Err(ExportError::Length {
                has: body.len(),
                should: header.bytes,
            });
        }
        if header.sha256 != sha256(body) {
            return Err(ExportError::Checksum);
        }
        let export: Export =
            serde_json::from_slice(body).map_err(|e| ExportError::Inconsistent(e.to_string()))?;
        for set in export.sets.values() {
            export.text(&set.version.text)?;
        }
        Ok(export)
    }

    /// A text by its SHA-256.
    ///
    /// # Errors
    /// [`ExportError::Inconsistent`] if it is not here, or not what its SHA-256 says.
    pub fn text(&self, id: &str) -> Result<String, ExportError> {
        let missing = || ExportError::Inconsistent(format!("text {id} is not in it"));
        let mut text = String::new();
        for part in self.texts.get(id).ok_or_else(missing)? {
            text.push_str(self.parts.get(part).ok_or_else(missing)?);
        }
        if sha256(text.as_bytes()) != id {
            return Err(ExportError::Inconsistent(format!(
                "text {id} has another checksum"
            )));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Export {
        let text = "policy: a\n";
        let id = sha256(text.as_bytes());
        Export {
            generation: 3,
            sets: [(
                "a".to_owned(),
                ExportedSet {
                    version: Version {
                        text: id.clone(),
                        file: "a.yaml".into(),
                    },
                    generation: 3,
                    applied_ns: 1,
                    by: Author::default(),
                },
            )]
            .into(),
            texts: [(id.clone(), vec![id.clone()])].into(),
            parts: [(id, text.to_owned())].into(),
            ..Export::default()
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let file = export().to_bytes().unwrap();
        assert_eq!(Export::from_bytes(&file).unwrap(), export());
        for i in 0..file.len() {
            let mut bad = file.clone();
            bad[i] ^= 1;
            assert!(Export::from_bytes(&bad).is_err(), "byte {i}");
        }
        for end in 0..file.len() {
            assert!(Export::from_bytes(&file[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_text_that_is_missing_is_named() {
        let mut bad = export();
        bad.parts.clear();
        let error = Export::from_bytes(&bad.to_bytes().unwrap()).unwrap_err();
        assert!(matches!(error, ExportError::Inconsistent(_)), "{error}");
    }
}
