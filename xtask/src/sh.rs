//! Running other programs, and where things are.

use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};

/// The root of this workspace.
pub fn workspace() -> Result<PathBuf> {
    // Where the command is run, not where it was compiled: a checkout may move.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map(Path::to_path_buf)
        .with_context(|| format!("{} has no parent", manifest.display()))
}

/// The target directory this program was built into.
pub fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot find this program's own path")?;
    exe.ancestors()
        .nth(2)
        .map(Path::to_path_buf)
        .with_context(|| format!("{} is not in a target directory", exe.display()))
}

/// A release binary of this workspace.
pub fn release_bin(name: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join("release").join(name))
}

/// The cargo that runs this program, in the workspace's root.
pub fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(workspace()?);
    Ok(command)
}

/// Whether this process is root.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Fails with what to type when this process is not root.
pub fn need_root(command: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!(
        "`cargo xtask {command}` makes network namespaces and loads kernel programs, so it needs \
         root: sudo -E env \"PATH=$PATH\" cargo xtask {command}"
    )
}

/// Finds an executable on PATH or in the directories of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_executable(file))
}

/// Whether the file is there and may be executed.
pub fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs a command with our own input and output; fails when it does.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if status.success() {
        return Ok(());
    }
    bail!("{} failed ({status})", name(command))
}

/// Runs a command with our own input and output.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    command
        .status()
        .map_err(|error| not_started(command, error))
}

/// Becomes the command, so that Ctrl-C and the terminal are its alone and the
/// shell waits until it has cleaned up. Returns only when it can't be started.
pub fn exec(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    not_started(command, error)
}

/// Runs a command and returns what it prints.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(command, error))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}): {}",
            name(command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, prints its standard output as it comes and gives each line
/// to `see`. The command stays in our process group, so Ctrl-C ends both.
pub fn stream(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| not_started(command, error))?;
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line.context("cannot read the output of a command")?;
            let line = String::from_utf8_lossy(&line);
            see(&line);
            // A reader that went away must not keep the tests from ending.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
    child.wait().context("cannot wait for a command")
}

/// Our own exit code for what a command ended with: a signal is 128 and its
/// number, as in a shell.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    format!("`{line}`")
}

fn not_started(command: &Command, error: std::io::Error) -> anyhow::Error {
    anyhow!("{} could not be started: {error}", name(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_every_line_and_the_status() {
        let mut lines = Vec::new();
        let status = stream(
            Command::new("sh").args(["-c", "echo one; printf two; exit 3"]),
            |line| lines.push(line.to_owned()),
        )
        .unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo broken >&2; exit 1"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`sh -c"), "{text}");
        assert!(text.contains("broken"), "{text}");
    }

    #[test]
    fn finds_programs() {
        assert!(find_program("sh").is_some());
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
