//! `tern pages`: manual pages and completions for a package, from the descriptions of the command line itself.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::{Shell, generate_to};

use crate::error::{CommandError, Exit};

/// Writes manual pages and shell completions into a folder, for whoever makes a package
#[derive(Args, Debug)]
#[command(hide = true)]
pub struct PagesArgs {
    /// Folder; it gets man1 and completions
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes all pages of `command`.
///
/// # Errors
/// If the folder cannot be written.
pub fn run(args: &PagesArgs, command: &mut clap::Command) -> Result<(), CommandError> {
    let failed = |error: io::Error| {
        CommandError::from_error(Exit::CannotCreate, &error)
            .while_doing(format!("writing pages into '{}'", args.folder.display()))
    };
    let made = |name: &str| {
        let folder = args.folder.join(name);
        std::fs::create_dir_all(&folder).map(|()| folder).map_err(failed)
    };
    let (pages, completions) = (made("man1")?, made("completions")?);
    command.build();
    write_pages(command, &pages).map_err(failed)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, command, "tern", &completions).map_err(failed)?;
    }
    Ok(())
}

/// A page for `command` and one for each command inside it, but for those that are hidden and `help`.
fn write_pages(command: &clap::Command, folder: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    std::fs::write(folder.join(format!("{name}.1")), page)?;
    let inside = command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help");
    inside.into_iter().try_for_each(|inner| write_pages(inner, folder))
}
