//! The commands that the README tells people to type.

use anyhow::{Context, Result, ensure};

/// The heading of its part, and what a command begins with that is not for the
/// machine that shaper is installed on.
const HEADING: &str = "## Install";
const ELSEWHERE: [&str; 2] = ["git ", "cargo "];

/// The commands of the first `sh` block below the heading, line by line, without
/// those that build.
///
/// # Errors
/// When there is none that installs a package.
pub(super) fn commands(readme: &str) -> Result<Vec<String>> {
    let mut lines = readme
        .lines()
        .skip_while(|line| !line.starts_with(HEADING))
        .skip_while(|line| *line != "```sh")
        .skip(1);
    let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
    ensure!(
        !block.is_empty() && lines.next().is_some(),
        "no ```sh block below `{HEADING}`"
    );
    let commands: Vec<String> = block
        .into_iter()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| !ELSEWHERE.iter().any(|word| line.starts_with(word)))
        .map(str::to_owned)
        .collect();
    commands
        .iter()
        .find(|line| line.contains(".deb"))
        .context("the README installs no package")?;
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_those_of_the_first_block_below_the_heading() {
        let text = "# x\n```sh\nls\n```\n## Install, and more\ntext\n```sh\ncargo xtask dist\n\
                    sudo apt install ./x.deb   # why\n\n# not this\nsudo shaper top\n```\n\
                    ```sh\nother\n```\n";
        assert_eq!(
            commands(text).unwrap(),
            ["sudo apt install ./x.deb   # why", "sudo shaper top"]
        );
        assert!(commands("## Install\n```sh\nls\n```\n.").is_err());
        assert!(commands("## Install\n").is_err());
    }
}
