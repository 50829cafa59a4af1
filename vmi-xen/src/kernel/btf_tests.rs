// SPDX-License-Identifier: GPL-3.0-only
use super::*;
use proptest::prelude::*;

/// Builds BTF by hand, so that the parser is not tested against itself.
#[derive(Default)]
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    fn new() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    fn push(&mut self, words: &[u32]) -> u32 {
        for word in words {
            self.types.extend_from_slice(&word.to_le_bytes());
        }
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, size: u32) -> u32 {
        let name = self.name(name);
        self.push(&[name, KIND_INT << 24, size, size * 8])
    }

    fn modifier(&mut self, kind: u32, name: &str, ty: u32) -> u32 {
        let name = self.name(name);
        self.push(&[name, kind << 24, ty])
    }

    fn array(&mut self, element: u32, count: u32) -> u32 {
        self.push(&[0, KIND_ARRAY << 24, 0, element, element, count])
    }

    fn composite(
        &mut self,
        kind: u32,
        flag: bool,
        name: &str,
        size: u32,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let name = self.name(name);
        let mut words = vec![
            name,
            u32::from(flag) << 31 | kind << 24 | members.len() as u32,
            size,
        ];
        for (member, ty, offset) in members {
            words.extend([self.name(member), *ty, *offset]);
        }
        self.push(&words)
    }

    fn finish(self) -> Vec<u8> {
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let types = self.types.len() as u32;
        for word in [24, 0, types, types, self.strings.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(self.types);
        bytes.extend(self.strings);
        bytes
    }
}

fn sample() -> Vec<u8> {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let pointer = b.modifier(KIND_PTR, "", int);
    let typedef = b.modifier(KIND_TYPEDEF, "count_t", int);
    let constant = b.modifier(KIND_CONST, "", typedef);
    let array = b.array(pointer, 5);
    let anonymous = b.composite(
        KIND_UNION,
        false,
        "",
        8,
        &[("left", pointer, 0), ("right", int, 0)],
    );
    let inner = b.composite(
        KIND_STRUCT,
        false,
        "inner",
        16,
        &[("x", int, 0), ("", anonymous, 64)],
    );
    b.composite(
        KIND_STRUCT,
        true,
        "outer",
        96,
        &[
            ("first", constant, 0),
            ("flag", int, 3 << 24 | 35),
            ("in", inner, 64),
            ("list", array, 192),
            ("", anonymous, 512),
        ],
    );
    b.finish()
}

#[test]
fn members_by_path() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let offset = |path| btf.member(path).unwrap().offset;
    assert_eq!(offset("outer.first"), 0);
    assert_eq!(offset("outer.in"), 8);
    assert_eq!(offset("outer.in.x"), 8);
    assert_eq!(offset("outer.in.left"), 16);
    assert_eq!(offset("outer.right"), 64);
    let list = btf.member("outer.list").unwrap();
    assert_eq!((list.offset, list.size, list.count), (24, 40, 5));
    assert_eq!(btf.size_of("outer"), Some(96));
    assert_eq!(btf.size_of("count_t"), Some(4));
}

#[test]
fn bit_fields_tell_shift_and_width() {
    let bytes = sample();
    let flag = Btf::parse(&bytes).unwrap().member("outer.flag").unwrap();
    assert_eq!(flag.offset, 4);
    assert_eq!(flag.bits, Some(BitField { shift: 3, width: 3 }));
}

#[test]
fn what_is_missing_is_named() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    for path in ["outer.nothing", "nothing.x", "outer.first.x", "outer", ""] {
        assert_eq!(btf.member(path).unwrap_err().path, path);
    }
}

#[test]
fn cyclic_types_end() {
    let mut b = Builder::new();
    b.modifier(KIND_TYPEDEF, "loop", 2);
    b.modifier(KIND_CONST, "", 1);
    // Contains itself twice, anonymously: 2^n members if followed blindly.
    b.composite(
        KIND_STRUCT,
        false,
        "self",
        8,
        &[("", 3, 0), ("", 3, 0), ("", 3, 0)],
    );
    let bytes = b.finish();
    let btf = Btf::parse(&bytes).unwrap();
    assert!(btf.member("loop.x").is_err());
    assert!(btf.member("self.x").is_err());
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if bytes.len() >= 4 {
            bytes[..4].copy_from_slice(&[0x9f, 0xeb, 1, 0]);
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            let _ = btf.member("a.b.c");
        }
    }

    #[test]
    fn mutated_btf_does_not_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = sample();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(btf) = Btf::parse(&bytes) {
            for path in ["outer.in.left", "outer.list", "inner.right", "count_t.x"] {
                let _ = btf.member(path);
            }
            let _ = btf.size_of("outer");
        }
    }
}

/// Many types of one name, all of which contain the same large one.
#[test]
fn types_of_one_name_share_the_effort() {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let members: Vec<_> = (0..60_000).map(|at| ("m", int, at)).collect();
    let large = b.composite(KIND_STRUCT, false, "", 4, &members);
    for _ in 0..20_000 {
        b.composite(KIND_STRUCT, false, "twin", 4, &[("", large, 0)]);
    }
    let bytes = b.finish();
    let btf = Btf::parse(&bytes).unwrap();
    let start = std::time::Instant::now();
    assert!(btf.member("twin.nothing").is_err());
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

/// One name without an end, given to many types.
#[test]
fn endless_names_are_not_read_to_the_end() {
    let mut b = Builder::new();
    b.strings = vec![b'x'; 8 << 20];
    for _ in 0..200_000 {
        b.push(&[1, KIND_TYPEDEF << 24, 0]);
    }
    let bytes = b.finish();
    let start = std::time::Instant::now();
    assert!(Btf::parse(&bytes).is_ok());
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
