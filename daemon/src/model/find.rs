//! Where a model, and the recipe that trains one, are looked for when none is named.

use std::path::{Path, PathBuf};

use super::OpenError;

/// Environment variable that names the default model file.
pub const MODEL_VARIABLE: &str = "TERN_MODEL";

/// The bundled model.
const BUNDLED: &str = "tern-log-i2_s.gguf";

/// Where packages put models.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/share/tern/models", "/usr/lib/tern/models"];

/// Where packages put the recipe.
const SYSTEM_RECIPE: &str = "/usr/share/tern/train";

/// The file that `$TERN_MODEL` names, else the bundled model: in a folder `models` beside the program or above it (a
/// build in the repository), in the repository the program was built from, or where packages put models.
///
/// # Errors
/// [`OpenError::NoDefault`] with every place that was looked at. A file that `$TERN_MODEL` names is not looked at here.
pub fn default_model() -> Result<PathBuf, OpenError> {
    if let Some(named) = std::env::var_os(MODEL_VARIABLE).filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let looked_at = places(std::env::current_exe().ok().as_deref());
    match looked_at.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => Err(OpenError::NoDefault { looked_at }),
    }
}

/// Every folder in which the recipe of training may be: like the bundled model, in `models/train` or where packages put it.
pub fn recipe_folders() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let mut folders: Vec<PathBuf> = Vec::new();
    push_new(&mut folders, model_folders(program.as_deref()).map(|folder| folder.join("train")));
    push_new(&mut folders, [SYSTEM_RECIPE.into()]);
    folders
}

/// Every place of the bundled model, in the order in which it is looked for.
fn places(program: Option<&Path>) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let folders = model_folders(program).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    push_new(&mut places, folders.map(|folder| folder.join(BUNDLED)));
    places
}

/// The repository's folder `models`, wherever the program is built.
fn model_folders(program: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    // target/release/tern is three levels below the repository, a cross-compiled build or a test one more.
    let above = program.into_iter().flat_map(|program| program.ancestors().skip(1).take(4));
    let folders = above.map(|folder| folder.join("models"));
    folders.chain([Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("models")])
}

fn push_new(places: &mut Vec<PathBuf>, more: impl IntoIterator<Item = PathBuf>) {
    for place in more {
        if !places.contains(&place) {
            places.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_in_the_repository_finds_the_repositorys_model() {
        let found = places(Some(Path::new("/home/u/tern/target/release/tern")));
        let expected = Path::new("/home/u/tern/models").join(BUNDLED);
        assert!(found.contains(&expected), "{found:?}");
        assert!(found.iter().all(|place| place.is_absolute()), "{found:?}");
        assert_eq!(found.last().and_then(|place| place.parent()), Some(Path::new("/usr/lib/tern/models")));
        assert!(places(None).len() >= SYSTEM_FOLDERS.len());
        assert!(recipe_folders().iter().any(|folder| folder.join("finetune.py").is_file()));
        assert_eq!(recipe_folders().last(), Some(&PathBuf::from(SYSTEM_RECIPE)));
    }
}
