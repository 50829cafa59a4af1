// SPDX-License-Identifier: GPL-3.0-only
use super::*;
use proptest::prelude::*;

/// Where the block of bytes lies in the guest.
const BLOCK: u64 = 0xffff_ffff_8200_0000;
/// kallsyms_relative_base.
const BASE: u64 = 0xffff_ffff_8100_0000;
/// Symbols with these indexes are per-CPU: small absolute values.
const PER_CPU: usize = 10;

/// The ways kernels have stored their tables, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Era {
    Before6_2,
    Before6_4,
    Before6_15,
    Before7_0,
    Now,
}

const ERAS: [Era; 5] = [
    Era::Before6_2,
    Era::Before6_4,
    Era::Before6_15,
    Era::Before7_0,
    Era::Now,
];

/// A compressor of our own: every printable character stands for itself, and
/// some other bytes for words.
fn tokens() -> Vec<String> {
    (0..=255u8)
        .map(|byte| match byte {
            0x21..=0x7e => char::from(byte).to_string(),
            0x80 => "sym_".to_owned(),
            0x81 => "Tsym_".to_owned(),
            _ => format!("unused_{byte:02x}"),
        })
        .collect()
}

fn symbol_name(index: usize) -> String {
    match index {
        // Longer than one byte of length can tell.
        77 => format!("Tsym_{}", "x".repeat(300)),
        _ => format!("Tsym_{index}"),
    }
}

fn symbol_address(era: Era, index: usize) -> u64 {
    match era {
        Era::Before7_0 | Era::Now => BASE + 0x40 * index as u64,
        _ if index < PER_CPU => 0x1000 + index as u64,
        _ => BASE + 0x40 * index as u64,
    }
}

fn compressed(name: &str) -> Vec<u8> {
    let rest = name.strip_prefix("Tsym_").expect("prefix");
    let mut entry = vec![0x81];
    entry.extend_from_slice(rest.as_bytes());
    entry
}

/// Lays the tables out as the kernel's own script would.
fn image(era: Era, count: usize, before: usize) -> Vec<u8> {
    let align = if era == Era::Now { 4 } else { 8 };
    let mut names = Vec::new();
    let mut markers = Vec::new();
    for index in 0..count {
        if index % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let entry = compressed(&symbol_name(index));
        if entry.len() > 0x7f {
            names.push(entry.len() as u8 & 0x7f | 0x80);
            names.push((entry.len() >> 7) as u8);
        } else {
            names.push(entry.len() as u8);
        }
        names.extend(entry);
    }
    let mut token_table = Vec::new();
    let mut token_index = Vec::new();
    for token in tokens() {
        token_index.extend((token_table.len() as u16).to_le_bytes());
        token_table.extend_from_slice(token.as_bytes());
        token_table.push(0);
    }
    // Three bytes a symbol, of no interest here.
    let seqs: Vec<u8> = (0..count * 3).map(|i| i as u8).collect();

    let mut bytes: Vec<u8> = (0..before).map(|i| (i * 7) as u8 | 1).collect();
    let mut put = |table: &[u8]| {
        bytes.resize(bytes.len().next_multiple_of(align), 0);
        let at = bytes.len();
        bytes.extend_from_slice(table);
        at
    };
    let offsets = |at: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|index| {
                let address = symbol_address(era, index);
                let value = match era {
                    Era::Now => address.wrapping_sub(BLOCK + at as u64 + index as u64 * 4),
                    Era::Before7_0 => address - BASE,
                    _ if address < BASE => address,
                    _ => (BASE - 1).wrapping_sub(address),
                };
                (value as u32).to_le_bytes()
            })
            .collect()
    };
    let count_bytes = (count as u32).to_le_bytes();
    let old = matches!(era, Era::Before6_2 | Era::Before6_4);
    if old {
        put(&offsets(0));
        put(&BASE.to_le_bytes());
    }
    put(&count_bytes);
    put(&names);
    put(&markers);
    if era == Era::Before6_4 {
        put(&seqs);
    }
    put(&token_table);
    let at = put(&token_index);
    if !old {
        let at = (at + token_index.len()).next_multiple_of(align);
        put(&offsets(at));
        if era != Era::Now {
            put(&BASE.to_le_bytes());
        }
        put(&seqs);
    }
    bytes
}

/// Decodes as the caller does: takes the reading under which a symbol whose
/// address is known comes out right.
fn decode(bytes: &[u8], era: Era) -> Option<Symbols> {
    let found = Kallsyms::find(bytes)?;
    let known = found.position("sym_4000")?;
    let candidate = found
        .candidates()
        .into_iter()
        .find(|&candidate| found.address(candidate, BLOCK, known) == Some(symbol_address(era, 4000)))?;
    Some(found.into_symbols(candidate, BLOCK))
}

#[test]
fn every_era_decodes() {
    for era in ERAS {
        // Counts at and around a multiple of what a marker covers.
        for count in [4608, 5000, 5119, 5120, 5121] {
            let bytes = image(era, count, 4096);
            let symbols = decode(&bytes, era).unwrap_or_else(|| panic!("{era:?} {count}"));
            assert_eq!(symbols.len(), count, "{era:?}");
            for index in [0, 5, 77, 4000, count - 1] {
                let name = symbol_name(index);
                let name = &name[1..];
                let address = symbol_address(era, index);
                assert_eq!(symbols.address(name), Some(address), "{era:?} {name}");
            }
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_is() {
    assert!(Kallsyms::find(&[]).is_none());
    assert!(Kallsyms::find(&[0; 4096]).is_none());
    // A token index alone proves nothing.
    let ramp: Vec<u8> = (0..256u16).flat_map(|i| (i * 3).to_le_bytes()).collect();
    assert!(Kallsyms::find(&ramp).is_none());
}

#[test]
fn a_cut_table_gives_fewer_symbols_and_no_panic() {
    let whole = image(Era::Before7_0, 5000, 64);
    for cut in (0..whole.len()).step_by(997) {
        let _ = decode(&whole[..cut], Era::Before7_0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn damaged_tables_do_not_panic(
        era in prop::sample::select(ERAS.to_vec()),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
    ) {
        let mut bytes = image(era, 4700, 128);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = decode(&bytes, era);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
        let _ = Kallsyms::find(&bytes);
    }
}

/// Bytes that are the same wherever one starts: nearly every place fits nearly to its end.
#[test]
fn repeating_bytes_do_not_keep_it_busy() {
    const MARKERS: u32 = 788;
    let mut block = (MARKERS * 256).to_le_bytes().repeat(260_000);
    // No entry ends where the table does.
    block.extend([0xff; 32]);
    block.extend(0u32.to_le_bytes());
    for marker in 0..MARKERS - 1 {
        block.extend((1038 + marker * 1024).to_le_bytes());
    }
    let mut index = Vec::new();
    for byte in 0..=u8::MAX {
        index.extend((u16::from(byte) * 2).to_le_bytes());
        block.extend([if byte.is_ascii_graphic() { byte } else { b'x' }, 0]);
    }
    block.extend(index);
    let start = std::time::Instant::now();
    assert!(Kallsyms::find(&block).is_none());
    // A second at most; tried out to the end it is an hour.
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}
