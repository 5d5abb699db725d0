//! Words as a shell takes them, for the commands that messages tell the user to type.

use std::ffi::OsStr;

/// `word` so that a shell takes it for one word. Bytes that are not UTF-8 are replaced.
pub fn quoted(word: impl AsRef<OsStr>) -> String {
    let word = word.as_ref().to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:,@%=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_it_for_one_word() {
        for (word, shown) in [
            ("/mnt/m", "/mnt/m"),
            ("/mnt/größe", "/mnt/größe"),
            ("/mnt/a b", "'/mnt/a b'"),
            ("/mnt/$(x)", "'/mnt/$(x)'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(word), shown);
        }
    }
}
