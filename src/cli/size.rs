//! Sizes and legs as people write and read them.

use crate::bitmap::ChunkSize;
use crate::legs::LegId;

const UNITS: [(&str, u64); 4] = [("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

/// "4M", "64KiB" or "65536" in bytes.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim().to_ascii_uppercase();
    let unit = unit.trim_end_matches("IB").trim_end_matches('B');
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// A chunk size for clap and for mount options.
pub fn chunk(text: &str) -> Result<ChunkSize, String> {
    bytes(text)
        .and_then(ChunkSize::new)
        .ok_or_else(|| format!("'{text}' is not a power of two from 64K to 1G, such as 4M"))
}

/// A leg for clap.
pub fn leg(text: &str) -> Result<LegId, String> {
    match text {
        "A" | "a" => Ok(LegId::A),
        "B" | "b" => Ok(LegId::B),
        _ => Err(format!("'{text}' is neither A nor B")),
    }
}

/// "1.5 GiB": the largest unit that gives at least 1, with one decimal unless it is 0.
pub fn human(bytes: u64) -> String {
    let Some((name, unit)) = UNITS.iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} B");
    };
    let text = format!("{:.1}", bytes as f64 / *unit as f64);
    format!("{} {name}iB", text.strip_suffix(".0").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("4M", Some(4 << 20)),
            ("4MiB", Some(4 << 20)),
            ("64k", Some(64 << 10)),
            ("1 G", Some(1 << 30)),
            ("65536", Some(65536)),
            ("", None),
            ("M", None),
            ("4X", None),
            ("-4M", None),
            ("99999999999999999999", None),
            ("99999999T", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
        assert!(chunk("3M").is_err() && chunk("32K").is_err() && chunk("64K").is_ok());
    }

    #[test]
    fn sizes_are_written_as_people_read_them() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (4 << 20, "4 MiB"), (3 << 29, "1.5 GiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }
}
