//! Opening model files: what is mapped, and what is refused with which words.
#![cfg(unix)]

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use tern_runtime::gguf::Gguf;
use tern_runtime::map::MappedFile;

fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

#[test]
fn a_model_is_mapped_whole() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/oracle/gguf/tiny-i2_s.gguf");
    let map = MappedFile::open(path).unwrap();
    assert!(map.bytes() == fs::read(path).unwrap());
    assert_eq!(Gguf::parse(map.bytes()).unwrap().tensor_count(), 24);
}

#[test]
fn a_replaced_model_stays_readable() {
    let (path, new) = (scratch("replaced.gguf"), scratch("replaced.gguf.new"));
    fs::write(&path, b"old bytes").unwrap();
    let map = MappedFile::open(&path).unwrap();
    fs::write(&new, b"new").unwrap();
    fs::rename(&new, &path).unwrap();
    assert_eq!(map.bytes(), b"old bytes");
    assert_eq!(MappedFile::open(&path).unwrap().bytes(), b"new");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let refusal = |path: &PathBuf| MappedFile::open(path).map(|_| ()).unwrap_err();
    let missing = refusal(&scratch("not-there.gguf"));
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().contains("no such file"));

    let directory = refusal(&scratch("."));
    assert_eq!(directory.kind(), ErrorKind::InvalidInput);
    assert!(directory.to_string().contains("it is a directory"));

    let empty = scratch("empty.gguf");
    fs::write(&empty, b"").unwrap();
    assert!(refusal(&empty).to_string().contains("it is empty"));

    assert!(refusal(&PathBuf::from("/dev/null")).to_string().contains("not a regular file"));
}

#[test]
fn an_unreadable_model_says_permission() {
    use std::os::unix::fs::PermissionsExt;
    let path = scratch("unreadable.gguf");
    fs::write(&path, b"GGUF").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    match MappedFile::open(&path) {
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::PermissionDenied);
            assert!(e.to_string().contains("permission denied"));
        }
        // Root may read what nobody may read; then it is mapped like any other file.
        Ok(map) => assert_eq!(map.bytes(), b"GGUF"),
    }
    fs::remove_file(&path).unwrap();
}
