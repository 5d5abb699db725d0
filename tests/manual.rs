//! The man pages tell what the program does: every command, flag, mount option and exit code of
//! the code stands in them. And scripts/install puts them and the programs in place. Needs nothing.

use std::path::Path;
use std::process::Command;

use mirrorfs::cli::exit::Exit;
use mirrorfs::daemon::events;
use mirrorfs::options::TABLE;

/// A page as it reads, without the escapes of roff.
fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man").join(name);
    std::fs::read_to_string(path).unwrap().replace("\\-", "-").replace("\\e", "\\")
}

#[test]
fn every_mount_option_is_described_as_the_table_does() {
    let page = page("mount.mirrorfs.8");
    for option in TABLE {
        let entry = format!(".TP\n.B {}\n{}\n", option.synopsis(), option.help);
        assert!(page.contains(&entry), "missing or different:\n{entry}");
    }
    let (before, _) = page.split_once(".SH EXIT CODES").unwrap();
    assert_eq!(before.matches("\n.TP\n.B ").count(), TABLE.len() + 4, "the four are -s, -f, -n and -v");
}

#[test]
fn every_command_and_flag_is_described() {
    let page = page("mirrorfs.8");
    for command in mirrorfs::cli::command().get_subcommands() {
        let name = command.get_name();
        let start =
            page.find(&format!(".SS mirrorfs {name} ")).unwrap_or_else(|| panic!("no section for {name}"));
        let section = page[start + 1..].split("\n.S").next().unwrap();
        for argument in command.get_arguments() {
            let flags = [
                argument.get_long().map(|long| format!("--{long}")),
                argument.get_short().map(|s| format!("-{s}")),
            ];
            for flag in flags.into_iter().flatten().filter(|flag| flag != "--help" && flag != "-h") {
                assert!(section.contains(&flag), "{name} {flag} is not described");
            }
        }
    }
}

#[test]
fn the_synopsis_has_every_command_with_its_flags() {
    let page = page("mirrorfs.8");
    let synopsis = page.split(".SH SYNOPSIS").nth(1).unwrap().split(".SH").next().unwrap();
    for command in mirrorfs::cli::command().get_subcommands() {
        let name = command.get_name();
        let line = synopsis.lines().find(|line| line.starts_with(&format!(".B mirrorfs {name} ")));
        let line =
            line.unwrap_or_else(|| panic!("{name} is missing")).replace("\\fB", "").replace("\\fR", "");
        for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
            let flag = match (argument.get_long(), argument.get_short()) {
                (_, Some(short)) => format!("-{short}"),
                (Some(long), None) => format!("--{long}"),
                (None, None) => continue,
            };
            assert!(line.contains(&flag), "{name} {flag} is missing in: {line}");
        }
    }
}

#[test]
fn the_pages_have_the_sections_one_looks_for() {
    for (name, sections) in [
        (
            "mirrorfs.8",
            &[
                "SYNOPSIS",
                "COMMANDS",
                "UNMOUNTING",
                "SIGNALS",
                "ENVIRONMENT",
                "EXIT CODES",
                "FILES",
                "EXAMPLES",
            ] as &[&str],
        ),
        ("mount.mirrorfs.8", &["SYNOPSIS", "OPTIONS", "EXIT CODES", "EVENTS", "EXAMPLES", "ENVIRONMENT"]),
    ] {
        let page = page(name);
        for section in sections {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}");
        }
    }
}

#[test]
fn every_exit_code_is_described() {
    let page = page("mirrorfs.8");
    for exit in Exit::ALL {
        let entry = format!(".TP\n.B {}\n{exit:?}. ", exit as u8);
        assert!(page.contains(&entry), "missing:\n{entry}");
    }
}

#[test]
fn every_event_is_described_as_the_table_does() {
    let page = page("mount.mirrorfs.8");
    for event in events::name::TABLE {
        let entry = format!(".TP\n.B {:?}\n{}\n", event.name, event.help);
        assert!(page.contains(&entry), "missing or different:\n{entry}");
    }
    let section = page.split(".SH EVENTS").nth(1).unwrap().split("\n.SH").next().unwrap();
    assert_eq!(section.matches("\n.TP\n").count(), events::name::TABLE.len());
}

#[test]
fn uninstalling_leaves_what_was_there_before() {
    let scratch = tempfile::tempdir().unwrap();
    let built = scratch.path().join("release");
    std::fs::create_dir(&built).unwrap();
    for name in ["mirrorfs", "mount-mirrorfs"] {
        std::fs::write(built.join(name), "").unwrap();
    }
    // Stands in for cargo: what is built is not the point here.
    let cargo = scratch.path().join("cargo");
    std::fs::write(&cargo, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let root = scratch.path().join("root");
    std::fs::create_dir_all(root.join("usr/share/man/man8")).unwrap();
    std::fs::write(root.join("usr/share/man/man8/other.8"), "").unwrap();
    let run = |words: &[&str]| {
        let path = format!("{}:{}", scratch.path().display(), std::env::var("PATH").unwrap());
        let status = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install"))
            .args(words)
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", scratch.path())
            .env("PREFIX", "/usr")
            // As a packager writes it: seen from where the script is called.
            .env("DESTDIR", "root")
            .current_dir(scratch.path())
            .status();
        assert!(status.unwrap().success());
    };
    run(&[]);
    let installed = [
        "usr/bin/mirrorfs",
        "sbin/mount.mirrorfs",
        "sbin/mount.fuse.mirrorfs",
        "usr/share/man/man8/mirrorfs.8",
    ];
    for file in installed {
        assert!(root.join(file).exists(), "{file}");
    }
    run(&["--uninstall"]);
    let files = Command::new("find").arg(&root).args(["!", "-type", "d"]).output().unwrap();
    assert_eq!(String::from_utf8(files.stdout).unwrap().lines().count(), 1, "only other.8 is left");
}
