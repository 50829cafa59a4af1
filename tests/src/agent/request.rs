// SPDX-License-Identifier: GPL-3.0-only
//! What a session asks an agent to do.

use std::time::Duration;

/// A session's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `dom0`, or a domain's name.
    pub target: String,
    /// How long dom0's agent may wait for the target's agent to be there.
    pub patience: Duration,
    /// What to do there.
    pub action: Action,
}

/// What to do on the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run a program: its name (looked up in PATH) and arguments.
    Exec(Vec<String>),
    /// Write the session's input to a file with these permission bits, in place of an older one.
    Write {
        /// Absolute path on the target.
        path: String,
        /// Permission bits, as in chmod.
        mode: u32,
    },
    /// Send a file's bytes as output.
    Read {
        /// Absolute path on the target.
        path: String,
    },
}

impl Request {
    /// As bytes: NUL-ended strings, which no argument or path can hold inside.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = vec![self.target.clone(), self.patience.as_millis().to_string()];
        match &self.action {
            Action::Exec(argv) => {
                fields.push("exec".into());
                fields.extend(argv.iter().cloned());
            }
            Action::Write { path, mode } => {
                fields.extend(["write".into(), path.clone(), mode.to_string()]);
            }
            Action::Read { path } => fields.extend(["read".into(), path.clone()]),
        }
        fields
            .into_iter()
            .flat_map(|field| field.into_bytes().into_iter().chain([0]))
            .collect()
    }

    /// The inverse of [`Request::encode`]; nothing if the bytes are not a request.
    pub fn decode(bytes: &[u8]) -> Option<Request> {
        let text = std::str::from_utf8(bytes.strip_suffix(&[0])?).ok()?;
        let mut fields = text.split('\0').map(str::to_owned);
        let target = fields.next()?;
        let patience = Duration::from_millis(fields.next()?.parse().ok()?);
        let action = match fields.next()?.as_str() {
            "exec" => Action::Exec(fields.collect()),
            "write" => Action::Write {
                path: fields.next()?,
                mode: fields.next()?.parse().ok()?,
            },
            "read" => Action::Read { path: fields.next()? },
            _ => return None,
        };
        Some(Request {
            target,
            patience,
            action,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_command_line_survives(argv in prop::collection::vec("[^\0]{0,20}", 1..6)) {
            let request = Request {
                target: "web1".into(),
                patience: Duration::from_millis(1500),
                action: Action::Exec(argv),
            };
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Request::decode(&bytes);
        }
    }
}
