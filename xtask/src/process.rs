// SPDX-License-Identifier: Apache-2.0
//! Runs other programs, for every verb: says what it runs, and names the command in each error.
//!
//! No command sees the variables that `cargo run` sets for xtask itself, because they would make nested builds look
//! out of date.

use std::{
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Set by cargo for the process it runs; meaningless, and harmful to fingerprints, in a nested build.
const OWN_PACKAGE: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME"];

/// Prints the command, runs it with inherited output, and fails unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    announce(command);
    let status = spawn(command)?
        .wait()
        .with_context(|| format!("wait for `{}`", render(command)))?;
    expect_success(command, status)
}

/// Runs the command quietly and returns its standard output; the error carries its standard error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = spawn(command)?
        .wait_with_output()
        .with_context(|| format!("wait for `{}`", render(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` ended with {}: {}",
            render(command),
            output.status,
            stderr.trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of `{}` is not UTF-8", render(command)))
}

/// Prints the command, runs it and hands each line of its standard output to `on_line`.
pub(crate) fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    announce(command);
    command.stdout(Stdio::piped());
    let mut child = spawn(command)?;
    let stdout = child.stdout.take().context("standard output was not piped")?;
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    // Tests may print anything, so lines are bytes until they are parsed.
    while lines
        .read_until(b'\n', &mut line)
        .with_context(|| format!("read from `{}`", render(command)))?
        > 0
    {
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    child
        .wait()
        .with_context(|| format!("wait for `{}`", render(command)))
}

/// The file that `program` names in `PATH` or in the system folders that a user's `PATH` often lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn spawn(command: &mut Command) -> Result<Child> {
    for (name, _) in env::vars_os() {
        let ours = OWN_PACKAGE
            .iter()
            .any(|prefix| name.as_encoded_bytes().starts_with(prefix.as_bytes()));
        if ours {
            command.env_remove(name);
        }
    }
    command
        .spawn()
        .with_context(|| format!("start `{}`", render(command)))
}

fn expect_success(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{}` ended with {status}", render(command))
}

fn announce(command: &Command) {
    eprintln!("+ {}", render(command));
}

/// The command as a shell would take it, without what [`spawn`] removes.
fn render(command: &Command) -> String {
    // `PATH` is long, and at most a folder was put in front of it.
    let variables = command
        .get_envs()
        .filter(|(name, _)| *name != "PATH")
        .filter_map(|(name, value)| {
            // Cargo's own separator is unreadable; the plain variable means the same.
            let name = name
                .to_string_lossy()
                .replace("CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS");
            Some(format!("{name}={}", quote(value?)))
        });
    let program = Path::new(command.get_program());
    let words = std::iter::once(quote(program.as_os_str())).chain(command.get_args().map(quote));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy().replace('\x1f', " ");
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_commands_can_be_pasted() {
        let mut command = Command::new("/usr/bin/cargo");
        command
            .env("CARGO_ENCODED_RUSTFLAGS", "-C\x1flinker=x")
            .args(["test", "--", "it's"]);
        assert_eq!(
            render(&command),
            r"RUSTFLAGS='-C linker=x' /usr/bin/cargo test -- 'it'\''s'"
        );
    }

    #[test]
    fn errors_name_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"]))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "`sh -c 'exit 3'` ended with exit status: 3");
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 4"]))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("exit status: 4: why"), "{error}");
    }

    #[test]
    fn streamed_lines_reach_the_caller_whatever_their_bytes() {
        let mut seen = Vec::new();
        let status = stream(Command::new("printf").arg(r"one\n\377two"), |line| {
            seen.push(line.to_owned());
        });
        assert!(status.unwrap().success());
        assert_eq!(seen, ["one", "\u{fffd}two"]);
    }
}
