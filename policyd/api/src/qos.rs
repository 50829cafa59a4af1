// SPDX-License-Identifier: GPL-3.0-only
//! Shaping of vifs, as the API tells it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What shapes here, and what it did.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Qos {
    /// The qdiscs that were chosen, and what better ones the kernel lacks.
    pub shaper: String,
    /// Covered vifs that are shaped, or are not although policy says so.
    pub vifs: Vec<ShapedVif>,
}

/// A vif.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ShapedVif {
    /// Name of the domain.
    pub domain: String,
    /// Interface name in dom0, as `vif3.0`.
    pub vif: String,
    /// Why it is not shaped as policy says, with the remedy.
    pub problem: Option<String>,
    /// From the guest, then to it; of each the total first.
    pub classes: Vec<ShapedClass>,
}

/// A class at a vif, in one direction.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ShapedClass {
    /// `out`: from the guest; `in`: to it.
    pub direction: String,
    /// `SET/CLASS`; `total`, or `default` for what is in no class.
    pub class: String,
    /// `realtime`, `interactive`, `default` or `bulk`; none for the total.
    pub priority: Option<String>,
    /// Bits per second that it has in any case.
    pub rate: u64,
    /// Bits per second that it does not go beyond.
    pub ceiling: u64,
    /// Bytes sent since it was made.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets dropped because too many waited.
    pub drops: u32,
    /// Bytes that wait.
    pub backlog_bytes: u32,
    /// Packets that wait.
    pub backlog_packets: u32,
}
