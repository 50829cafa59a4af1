// SPDX-License-Identifier: GPL-3.0-only
//! Types and client of policyd's API
