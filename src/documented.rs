//! Reads docs/ON-DISK-FORMAT.md, so that tests can hold it against the code.

use std::ops::Range;

/// The lines under a heading, up to the next one.
fn section(heading: &str) -> Vec<String> {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ON-DISK-FORMAT.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let lines: Vec<String> = lines.take_while(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "no section {heading}");
    lines
}

/// The rows of a byte map: where a field lies and what it is called.
pub fn byte_map(heading: &str) -> Vec<(Range<usize>, String)> {
    let rows = section(heading).into_iter().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let (offset, len) = (cells.next()?.parse::<usize>().ok()?, cells.next()?.parse::<usize>().ok()?);
        Some((offset..offset + len, cells.next()?.to_owned()))
    });
    let rows: Vec<_> = rows.collect();
    for (row, next) in rows.iter().zip(&rows[1..]) {
        assert_eq!(row.0.end, next.0.start, "{} and {} touch", row.1, next.1);
    }
    rows
}

/// The hex dump under a heading: `len` bytes of the file from `start` on; what it leaves out is zero.
pub fn dump(heading: &str, start: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for line in section(heading) {
        let Some((address, rest)) = line.split_once(": ") else { continue };
        let Ok(address) = usize::from_str_radix(address, 16) else { continue };
        let digits: String = rest.split("  ").next().unwrap().split(' ').collect();
        for (at, pair) in digits.as_bytes().chunks_exact(2).enumerate() {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes[address - start + at] = u8::from_str_radix(pair, 16).unwrap();
        }
    }
    bytes
}

/// Asserts that only bytes of the row `name`, or of a row called CRC32C, tell the two apart, and some do.
pub fn assert_differ_in(name: &str, map: &[(Range<usize>, String)], one: &[u8], other: &[u8]) {
    let (row, _) = map.iter().find(|(_, called)| called == name).unwrap_or_else(|| panic!("no row {name}"));
    let crc = map.iter().find(|(_, called)| called == "CRC32C").map_or(0..0, |(row, _)| row.clone());
    let differ: Vec<usize> =
        (0..one.len()).filter(|&at| one[at] != other[at] && !crc.contains(&at)).collect();
    assert!(!differ.is_empty(), "{name} is not in the bytes");
    assert!(differ.iter().all(|at| row.contains(at)), "{name}: {row:?} in the docs, {differ:?} in the code");
}
