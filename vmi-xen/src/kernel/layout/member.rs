// SPDX-License-Identifier: GPL-3.0-only
//! How a group of offsets is written down, and looked up in BTF.

use super::{Group, LayoutError};
use crate::kernel::btf::{BitField, Btf, Member, MissingMember};

/// Value of one field of an offset structure, from a member's description.
pub(super) trait FromMember: Sized {
    fn from_member(member: Member) -> Self;
}

impl FromMember for u64 {
    fn from_member(member: Member) -> Self {
        u64::from(member.offset)
    }
}

/// The size of a member in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromMember for Size {
    fn from_member(member: Member) -> Self {
        Self(u64::from(member.size))
    }
}

/// A member that may be a bit-field and whose size differs between kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scalar {
    /// Offset in bytes.
    pub offset: u64,
    /// Size in bytes, 8 at most.
    pub size: u8,
    /// Set if it is a bit-field.
    pub bits: Option<BitField>,
}

impl FromMember for Scalar {
    fn from_member(member: Member) -> Self {
        Self {
            offset: u64::from(member.offset),
            size: member.size.min(8) as u8,
            bits: member.bits,
        }
    }
}

/// An array in a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Offset of the first element in bytes.
    pub offset: u64,
    /// Number of elements.
    pub count: u32,
}

impl FromMember for Array {
    fn from_member(member: Member) -> Self {
        Self {
            offset: u64::from(member.offset),
            count: member.count,
        }
    }
}

/// Defines a structure of offsets and how each is found in BTF. Of several
/// paths the first that exists is taken: names that changed between versions.
macro_rules! offsets {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident : $ty:ty = $($path:literal)|+ ,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $(
                #[doc = concat!("`", $($path, "` ",)+)]
                $(#[$field_doc])*
                pub $field: $ty,
            )*
        }

        impl $name {
            pub(super) fn resolve(
                btf: &$crate::kernel::btf::Btf<'_>,
            ) -> $crate::kernel::layout::Group<Self> {
                use $crate::kernel::layout::member::{FromMember, first};
                Ok(Self {
                    $($field: FromMember::from_member(first(btf, &[$($path),+])?),)*
                })
            }
        }
    };
}

pub(super) use offsets;

/// Of several paths the first that exists.
pub(super) fn first(btf: &Btf<'_>, paths: &[&str]) -> Result<Member, MissingMember> {
    let mut missing = None;
    for path in paths {
        match btf.member(path) {
            Ok(member) => return Ok(member),
            Err(error) => missing = missing.or(Some(error)),
        }
    }
    Err(missing.unwrap_or(MissingMember { path: String::new() }))
}

/// Looks up the size in bytes of a type.
pub(super) fn size(name: &'static str) -> impl Fn(&Btf<'_>) -> Group<u64> {
    move |btf| {
        let missing = || {
            LayoutError::Missing(MissingMember {
                path: name.to_owned(),
            })
        };
        btf.size_of(name).map(u64::from).ok_or_else(missing)
    }
}

/// Looks up the offset of a member.
pub(super) fn offset(path: &'static str) -> impl Fn(&Btf<'_>) -> Group<u64> {
    move |btf| Ok(u64::from(btf.member(path)?.offset))
}
