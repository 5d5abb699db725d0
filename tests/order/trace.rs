//! Reads what `strace -f -y -xx` writes: one system call after another, with all strings and all
//! paths of descriptors in hexadecimal.
//!
//! A call has two places in the order of the trace: where it began and where it ended. The tracer
//! sees a call begin before the kernel does it, and lets it return only after it has seen the end,
//! so "ended before that one began" is true of the calls themselves.

use std::collections::HashMap;

/// One finished system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// Line numbers of its beginning and its end.
    pub began: usize,
    pub ended: usize,
    /// What stands between the parentheses, undecoded.
    arguments: String,
    pub result: i64,
}

impl Call {
    /// The descriptor that is argument `index`, and the path that it is open on.
    pub fn descriptor(&self, index: usize) -> Option<(i32, String)> {
        let (number, rest) = self.argument(index)?.split_once('<')?;
        let path = String::from_utf8_lossy(&hex(rest.split('>').next()?)).into_owned();
        Some((number.parse().ok()?, path))
    }

    /// All bytes of all quoted strings: the data of a write, also of one from several buffers.
    pub fn data(&self) -> Vec<u8> {
        self.arguments.split('"').skip(1).step_by(2).flat_map(hex).collect()
    }

    /// The last number among the arguments, which for the writes at a place is that place.
    pub fn offset(&self) -> Option<u64> {
        let from_the_right = self.arguments.rsplit(", ");
        // pwritev2 has flags, a word or a number, behind the offset.
        from_the_right.skip(usize::from(self.name == "pwritev2")).find_map(|argument| argument.parse().ok())
    }

    /// Whether a flag is among the arguments.
    pub fn says(&self, flag: &str) -> bool {
        self.arguments.contains(flag)
    }

    fn argument(&self, index: usize) -> Option<&str> {
        self.arguments.split(", ").nth(index)
    }
}

/// All calls that came to an end, in the order in which they ended.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (line_number, line) in trace.lines().enumerate() {
        let Some((pid, event)) = line.trim_start().split_once(' ') else { continue };
        let event = event.trim_start();
        if let Some(begin) = event.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, (line_number, begin.to_owned()));
            continue;
        }
        let (began, text) = match event.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, rest)) => match unfinished.remove(pid) {
                Some((began, begin)) => (began, begin + rest),
                None => continue,
            },
            None => (line_number, event.to_owned()),
        };
        calls.extend(call(&text, began, line_number));
    }
    calls
}

fn call(text: &str, began: usize, ended: usize) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    let number = result.split(|c: char| c != '-' && !c.is_ascii_digit()).next()?;
    let arguments = arguments.trim_end().strip_suffix(')')?.to_owned();
    Some(Call { name: name.to_owned(), began, ended, arguments, result: number.parse().ok()? })
}

/// The bytes of `\x61\x62`.
fn hex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).filter_map(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok()).collect()
}

#[test]
fn calls_that_overlap_are_put_together() {
    let trace = "10  pwrite64(5<\\x2f\\x61>, \"\\x01\\xff\", 2, 4096 <unfinished ...>\n\
                 11  syncfs(6<\\x2f>) = 0\n\
                 10  <... pwrite64 resumed>) = 2\n\
                 12  fsync(7<\\x2f\\x62>) = -1 EIO (Input/output error)\n\
                 12  +++ exited with 0 +++\n";
    let calls = parse(trace);
    let names: Vec<_> =
        calls.iter().map(|call| (call.name.as_str(), call.began, call.ended, call.result)).collect();
    assert_eq!(names, [("syncfs", 1, 1, 0), ("pwrite64", 0, 2, 2), ("fsync", 3, 3, -1)]);
    assert_eq!(calls[1].descriptor(0), Some((5, "/a".to_owned())));
    assert_eq!(calls[1].data(), [1, 255]);
    assert_eq!(calls[1].offset(), Some(4096));
}
