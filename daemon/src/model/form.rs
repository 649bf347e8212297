//! How the kernels get at a model's weights: where they are mapped, or moved into the layout of the kernels first.
//!
//! A large model is packed once into the state directory and mapped from there ever after; a small one is moved in memory
//! each time, which takes milliseconds. What cannot be packed (no state directory, no room) is used as it is, and the log
//! says what that costs. A directory as Hugging Face publishes models can only be used packed.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tern_kernels::Layout;
use tern_runtime::gguf::Gguf;
use tern_runtime::head::HeadKind;
use tern_runtime::map::MappedFile;
use tern_runtime::model::{Config, file_layout, repacked_bytes};

use super::{EngineChoice, Host, Need, OpenError, reading};
use crate::checkpoint::Checkpoint;
use crate::error::{CommandError, Exit};
use crate::packing::{PackError, Packed, Recipe, packed, source_note};
use crate::progress::Progress;
use crate::replace::check_room;
use crate::tune::Load;
use crate::unfinished::Unfinished;
use crate::{figures, state};

/// A model whose matrices take no more than this is moved in memory: at half a nanosecond a weight it takes less time than
/// a person notices.
const SMALL_BYTES: usize = 64 << 20;

/// How the kernels get at a model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Where the file is mapped; nothing is copied.
    Mapped(Layout),
    /// From a packed copy, mapped; nothing is copied into memory.
    Packed(PathBuf),
    /// Moved into the kernels' layout in memory.
    Moved {
        /// The layout.
        to: Layout,
        /// What that takes.
        bytes: usize,
    },
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Form::Mapped(layout) => write!(f, "weights used where they are mapped, {}", layout.name()),
            Form::Packed(path) => write!(f, "weights mapped from the packed copy '{}'", path.display()),
            Form::Moved { to, bytes } => {
                write!(f, "weights moved into {} of memory, {}", figures::bytes(*bytes as u64), to.name())
            }
        }
    }
}

/// Opens `path` in the form that suits `choice` and this machine: the file to map, how it is used, and with what.
///
/// # Errors
/// If the file is no model, or the choice cannot be had.
pub fn open(path: &Path, choice: &EngineChoice) -> Result<(MappedFile, Form, Host), OpenError> {
    let folder = state::folder().map(|folder| folder.join("packed"));
    if path.is_dir() {
        return open_checkpoint(path, choice, folder);
    }
    open_with(path, choice, folder, SMALL_BYTES)
}

/// What a start with `path` asks of this machine, and the layout that its weights then stay in.
///
/// # Errors
/// If it is no model, or the choice makes no sense of it.
pub fn asked(path: &Path, choice: &EngineChoice) -> Result<(Load, Option<Layout>), OpenError> {
    if path.is_dir() {
        check_directory(path, choice)?;
        let load = Checkpoint::open(path).map_err(PackError::from).and_then(|checkpoint| checkpoint.load());
        let unusable = |error| OpenError::Packed { path: path.to_owned(), error: Box::new(error) };
        return Ok((load.map_err(unusable)?, None));
    }
    let map = MappedFile::open(path).map_err(OpenError::File)?;
    let unusable = |error| OpenError::Model { path: path.to_owned(), error };
    let (gguf, _) = reading::parse(path, map.bytes(), choice.i2s_blocks)?;
    let load = Config::read(&gguf).and_then(|config| Load::of(&gguf, &config)).map_err(unusable)?;
    // The weights of a packed file stay as they are.
    Ok((load, file_layout(&gguf).filter(|_| choice.no_pack || matches!(packed(&gguf), Ok(Some(_))))))
}

/// Refuses what only a file can be used with.
///
/// # Errors
/// If `choice` asks for it.
pub fn check_directory(path: &Path, choice: &EngineChoice) -> Result<(), OpenError> {
    let option = match choice {
        EngineChoice { no_pack: true, .. } => "--no-pack (pack = false in a configuration)",
        EngineChoice { i2s_blocks: Some(_), .. } => "--i2s-blocks",
        _ => return Ok(()),
    };
    Err(OpenError::Directory { path: path.to_owned(), option })
}

/// Opens the checkpoint in the directory `path`, which is packed once into `folder`: there is no other way to use it.
fn open_checkpoint(
    path: &Path,
    choice: &EngineChoice,
    folder: Option<PathBuf>,
) -> Result<(MappedFile, Form, Host), OpenError> {
    check_directory(path, choice)?;
    let unusable = |error: PackError| OpenError::Packed { path: path.to_owned(), error: Box::new(error) };
    let checkpoint = Checkpoint::open(path).map_err(|error| unusable(error.into()))?;
    let load = checkpoint.load().map_err(unusable)?;
    let host = choice.host(Need { layout: None, load: Some(load), may_try: true })?;
    let recipe = Recipe { layout: host.set.layout, int8_head: choice.head != Some(HeadKind::File) };
    let failed = |error: CommandError| OpenError::Unpacked { path: path.to_owned(), why: error.to_string() };
    let make = Making {
        path,
        stem: checkpoint.name(),
        note: checkpoint.note(),
        bytes: checkpoint.header(&recipe).map_err(unusable)?.file_bytes(),
        identity: checkpoint.identity(&recipe).map_err(unusable)?,
        recipe,
    };
    let (map, place) = make
        .packed(folder, |out, progress| {
            checkpoint.pack(&recipe, host.threads, out, |bytes| progress.add(bytes))
        })
        .map_err(failed)?;
    Ok((map, Form::Packed(place), host))
}

/// As [`open`], with packed copies in `folder` and models up to `small_bytes` moved in memory.
fn open_with(
    path: &Path,
    choice: &EngineChoice,
    folder: Option<PathBuf>,
    small_bytes: usize,
) -> Result<(MappedFile, Form, Host), OpenError> {
    let map = MappedFile::open(path).map_err(OpenError::File)?;
    let unusable = |error| OpenError::Model { path: path.to_owned(), error };
    let (gguf, as_read) = reading::parse(path, map.bytes(), choice.i2s_blocks)?;
    reading::check_blocks(path, &gguf, choice.i2s_blocks)?;
    let layout = file_layout(&gguf);
    let is_packed = match packed(&gguf) {
        Ok(packed) => packed.is_some(),
        Err(error) => return Err(OpenError::Packed { path: path.to_owned(), error: Box::new(error) }),
    };
    let stays = layout.filter(|_| is_packed || choice.no_pack);
    let config = Config::read(&gguf).map_err(unusable)?;
    let load = Load::of(&gguf, &config).map_err(unusable)?;
    let host = choice.host(Need { layout: stays, load: Some(load), may_try: true })?;
    let form = match layout {
        Some(layout) if layout == host.set.layout => Form::Mapped(layout),
        _ => {
            let bytes = repacked_bytes(&gguf, host.set.layout).map_err(unusable)?;
            Form::Moved { to: host.set.layout, bytes }
        }
    };
    let Form::Moved { to, bytes } = form else { return Ok((map, form, host)) };
    if is_packed || choice.no_pack || bytes <= small_bytes {
        return Ok((map, form, host));
    }
    let mut note =
        source_note(path, &gguf, &map.bytes()[..(gguf.data_at_bytes() as usize).min(map.bytes().len())]);
    note += &reading::note(&as_read);
    match copy(
        path,
        &gguf,
        &note,
        Recipe { layout: to, int8_head: choice.head != Some(HeadKind::File) },
        &host,
        folder,
    ) {
        Ok((copy, place)) => Ok((copy, Form::Packed(place), host)),
        Err(why) => {
            log::warn!(
                "the model is used as it is, moved into {} of memory at every start, because it cannot be packed once: {why}",
                figures::bytes(bytes as u64)
            );
            Ok((map, form, host))
        }
    }
}

/// The packed copy of `gguf` in the state directory, made now if it is not there.
fn copy(
    path: &Path,
    gguf: &Gguf<'_>,
    note: &str,
    recipe: Recipe,
    host: &Host,
    folder: Option<PathBuf>,
) -> Result<(MappedFile, PathBuf), CommandError> {
    let failed = |error: PackError| CommandError::from_error(Exit::CannotCreate, &error);
    let make = Making {
        path,
        stem: path.file_stem().map_or_else(Default::default, |stem| stem.to_string_lossy().into_owned()),
        note: note.to_owned(),
        bytes: recipe.file_bytes(gguf, note).map_err(failed)?,
        identity: recipe.identity(gguf, note).map_err(failed)?,
        recipe,
    };
    make.packed(folder, |out, progress| {
        recipe.write(gguf, note, host.threads, out, |bytes| progress.add(bytes))
    })
}

/// A packed copy to be made, or found.
struct Making<'a> {
    /// What it is made of.
    path: &'a Path,
    /// What its name begins with.
    stem: String,
    /// What it says of its source.
    note: String,
    /// Its size.
    bytes: u64,
    /// What tells an unfinished one from others.
    identity: String,
    recipe: Recipe,
}

impl Making<'_> {
    /// The copy in `folder`, made by `write` if it is not there.
    fn packed(
        &self,
        folder: Option<PathBuf>,
        write: impl FnOnce(Unfinished, &Progress) -> Result<Unfinished, PackError>,
    ) -> Result<(MappedFile, PathBuf), CommandError> {
        let failed = |error: &dyn std::error::Error| CommandError::from_error(Exit::CannotCreate, error);
        let no_folder = || {
            let message = "there is no state directory; set STATE_DIRECTORY or HOME, or run tern pack";
            CommandError::new(Exit::CannotCreate, message)
        };
        let folder = folder.ok_or_else(no_folder)?;
        let head = if self.recipe.int8_head { "int8-head" } else { "file-head" };
        let place = folder.join(format!("{}.{}.{head}.gguf", self.stem, self.recipe.layout.name()));
        if let Some(map) = existing(&place, &self.note) {
            return Ok((map, place));
        }
        fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
        let file = Unfinished::begin(&place, &self.identity)?;
        check_room(&place, self.bytes.saturating_sub(file.resumed_bytes()))?;
        let (from, to, size) = (self.path.display(), place.display(), figures::bytes(self.bytes));
        log::info!("packing '{from}' once into '{to}', {size}");
        let began = Instant::now();
        let progress = Progress::bytes("packing the model once", self.bytes);
        write(file, &progress).map_err(|error| failed(&error))?.keep()?;
        drop(progress);
        log::info!("packed in {:.1} s", began.elapsed().as_secs_f64());
        let map = MappedFile::open(&place).map_err(|error| failed(&error))?;
        Ok((map, place))
    }
}

/// The copy at `place`, if it was made from the file that `note` describes.
fn existing(place: &Path, note: &str) -> Option<MappedFile> {
    let map = MappedFile::open(place).ok()?;
    let gguf = Gguf::parse(map.bytes()).ok()?;
    let is_it = matches!(packed(&gguf), Ok(Some(Packed { source, .. })) if source == note);
    is_it.then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");

    /// A machine whose best kernels read another layout than the file has.
    fn other_layout() -> EngineChoice {
        EngineChoice { kernels: Some("scalar-t5ri8".into()), ..EngineChoice::default() }
    }

    fn opened(path: &Path, choice: &EngineChoice, folder: Option<&Path>, small_bytes: usize) -> Form {
        let (map, form, host) =
            open_with(path, choice, folder.map(Path::to_owned), small_bytes).expect("it opens");
        let gguf = Gguf::parse(map.bytes()).expect("it is a model");
        let in_place = file_layout(&gguf) == Some(host.set.layout);
        assert_eq!(in_place, !matches!(form, Form::Moved { .. }), "{form}");
        form
    }

    #[test]
    fn a_large_model_is_packed_once_and_again_when_it_changes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (model, copies) = (folder.path().join("model.gguf"), folder.path().join("packed"));
        fs::copy(TINY, &model).expect("the fixture is there");
        let first = opened(&model, &other_layout(), Some(&copies), 0);
        let Form::Packed(copy) = &first else { panic!("{first}") };
        let changed = || fs::metadata(copy).and_then(|copy| copy.modified()).expect("it is there");
        let made = changed();
        assert_eq!(opened(&model, &other_layout(), Some(&copies), 0), first);
        assert_eq!(changed(), made);
        // The same bytes, written later: nobody can tell without reading all of them.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&model, fs::read(TINY).expect("the fixture is there")).expect("a copy");
        assert_eq!(opened(&model, &other_layout(), Some(&copies), 0), first);
        assert!(changed() > made);
        // The copy is a model like any other, and is used as it is.
        assert_eq!(opened(copy, &other_layout(), Some(&copies), 0), Form::Mapped(Layout::T5R));
        assert_eq!(fs::read_dir(&copies).expect("it is there").count(), 1);
    }

    #[test]
    fn small_models_and_those_that_cannot_be_packed_are_moved_in_memory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let moved = |form| matches!(form, Form::Moved { to: Layout::T5R, bytes } if bytes > 0);
        let model = Path::new(TINY);
        assert!(moved(opened(model, &other_layout(), Some(folder.path()), SMALL_BYTES)));
        let as_it_is = EngineChoice { no_pack: true, ..other_layout() };
        assert!(moved(opened(model, &as_it_is, Some(folder.path()), 0)));
        assert!(moved(opened(model, &other_layout(), None, 0)));
        // A file where the folder should be.
        assert!(moved(opened(model, &other_layout(), Some(&model.join("packed")), 0)));
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
    }

    #[test]
    fn a_file_that_fits_the_kernels_is_mapped() {
        let choice = EngineChoice { kernels: Some("scalar-t2i8".into()), ..EngineChoice::default() };
        assert_eq!(opened(Path::new(TINY), &choice, None, 0), Form::Mapped(Layout::T2B128));
    }
}
