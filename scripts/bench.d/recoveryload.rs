//! What scripts/bench-recovery needs beside the shell.
//!
//! Usage:
//! - `recoveryload small DIR FILES`: makes FILES files of 1 to 8 KiB, a hundred a directory;
//! - `recoveryload large DIR MIB`: makes four files, MIB in all;
//! - `recoveryload wait DIR FILE`: makes and removes a file in DIR each ten milliseconds until FILE is gone, and
//!   prints the milliseconds that the slowest of these changes took.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

const A_DIRECTORY: u64 = 100;
const LARGE_FILES: u64 = 4;
const EACH: Duration = Duration::from_millis(10);

/// Bytes that no filesystem makes smaller: xorshift, from a seed that is not zero.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

fn small(root: &Path, files: u64) -> io::Result<()> {
    for number in 0..files {
        let dir = root.join(format!("dir{}", number / A_DIRECTORY));
        if number % A_DIRECTORY == 0 {
            fs::create_dir_all(&dir)?;
        }
        let len = 1024 + number.wrapping_mul(2_654_435_761) % 7169;
        File::create_new(dir.join(format!("file{number}")))?.write_all(&noise(number + 1, len as usize))?;
    }
    Ok(())
}

fn large(root: &Path, mib: u64) -> io::Result<()> {
    let content = noise(1, 1 << 20);
    for number in 0..LARGE_FILES {
        let mut file = File::create_new(root.join(format!("file{number}")))?;
        for _ in 0..mib / LARGE_FILES {
            file.write_all(&content)?;
        }
    }
    Ok(())
}

/// The longest that a change had to wait, in milliseconds.
fn slowest_change(dir: &Path, until_gone: &Path) -> io::Result<u128> {
    let path = dir.join("waits");
    let mut slowest = Duration::ZERO;
    while until_gone.exists() {
        let start = Instant::now();
        File::create_new(&path)?;
        slowest = slowest.max(start.elapsed());
        fs::remove_file(&path)?;
        std::thread::sleep(EACH);
    }
    Ok(slowest.as_millis())
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [what, dir, more] = arguments else {
        return Err("usage: recoveryload small DIR FILES | large DIR MIB | wait DIR FILE".into());
    };
    let dir = Path::new(dir);
    match what.as_str() {
        "small" => small(dir, more.parse()?)?,
        "large" => large(dir, more.parse()?)?,
        "wait" => println!("{}", slowest_change(dir, Path::new(more))?),
        _ => return Err(format!("there is no \"{what}\" here").into()),
    }
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&arguments) {
        eprintln!("recoveryload: {error}");
        std::process::exit(1);
    }
}
