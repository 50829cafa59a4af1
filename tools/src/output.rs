// SPDX-License-Identifier: GPL-3.0-only
//! Standard output, as text or as JSON.

use std::io::{self, BufWriter, Stdout, Write};

use serde::Serialize;

use crate::error::ToolError;

/// Where answers go.
pub struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    /// `json`: machines read it.
    pub fn new(json: bool) -> Self {
        Output {
            json,
            out: BufWriter::new(io::stdout()),
        }
    }

    /// Writes a whole answer: what `text` makes, or the value as indented JSON.
    pub fn answer<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), ToolError> {
        if self.json {
            serde_json::to_writer_pretty(&mut self.out, value).map_err(io::Error::from)?;
            self.out.write_all(b"\n")?;
        } else {
            self.out.write_all(text(value).as_bytes())?;
        }
        Ok(())
    }

    /// Writes one of a stream of values, at once: a line of text, or of JSON.
    pub fn line<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), ToolError> {
        if self.json {
            serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        } else {
            self.out.write_all(text(value).as_bytes())?;
        }
        self.out.write_all(b"\n")?;
        // Whoever follows wants to see it now.
        self.out.flush()?;
        Ok(())
    }

    /// Writes a file as it is.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), ToolError> {
        Ok(self.out.write_all(bytes)?)
    }

    /// Writes what is still held back.
    pub fn finish(&mut self) -> Result<(), ToolError> {
        Ok(self.out.flush()?)
    }
}
