// SPDX-License-Identifier: GPL-3.0-only
//! What people write and what it means: documents, validation, decisions
