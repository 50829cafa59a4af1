// SPDX-License-Identifier: GPL-3.0-only
//! Safe, owned handles over Xen's toolstack libraries
