//! The right to a socket: its place in the file system, or a listener that systemd passed.

use std::error::Error;
use std::fmt;
use std::fs::{File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;

use super::peers::{self, Allowed};
use crate::config::socket::{Account, SocketSection};

/// A socket that cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum SocketError {
    /// Another daemon has it.
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is something else in its place.
    NotASocket {
        /// The place.
        path: PathBuf,
    },
    /// There is no such user or group.
    NoAccount {
        /// The key with its section.
        key: &'static str,
        /// What it says.
        account: Account,
    },
    /// The socket's file may not be given to the group.
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: Account,
        /// What the system said.
        error: io::Error,
    },
    /// What systemd passed is no listening Unix socket.
    Passed {
        /// What it is.
        error: io::Error,
    },
    /// The system refused something.
    Io {
        /// What was done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse { path } => write!(
                f,
                "another daemon answers on '{}'; stop it, or choose another socket with --socket",
                path.display()
            ),
            SocketError::NotASocket { path } => write!(
                f,
                "'{}' is there and is not a socket; remove it, or choose another socket with --socket",
                path.display()
            ),
            SocketError::NoAccount { key, account } => {
                write!(f, "{key} names {account}, which this machine does not know; create it or leave it out")
            }
            SocketError::Group { path, group, .. } => write!(
                f,
                "cannot give '{}' to the group {group} (socket.group); start as root or as a member of it",
                path.display()
            ),
            SocketError::Passed { .. } => f.write_str(
                "the first socket that systemd passed cannot be used; give the socket unit one ListenStream= path",
            ),
            SocketError::Io { doing, path, .. } => write!(f, "cannot {doing} '{}'", path.display()),
        }
    }
}

impl Error for SocketError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SocketError::Group { error, .. }
            | SocketError::Passed { error }
            | SocketError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// An error while `doing` something to `path`.
fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |error| SocketError::Io { doing, path, error }
}

/// The right to a socket: no other daemon has it while this is held.
#[derive(Debug)]
pub struct Claim {
    source: Source,
    allowed: Allowed,
}

#[derive(Debug)]
enum Source {
    /// A place to make the socket in.
    Place(Place),
    /// Its owner made it, said who may connect, and will hand it to the next daemon.
    Passed { listener: UnixListener, path: PathBuf },
}

/// A place for a socket. Nobody else has it while this is held.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    mode: u32,
    group: Option<(Account, u32)>,
    /// Locked. Two daemons that both find a dead socket must not remove each other's new one.
    _lock: File,
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Listening {
    /// It never blocks.
    pub socket: UnixListener,
    /// Who may stay connected.
    pub allowed: Allowed,
    /// Removes the socket's file and then gives up its place.
    pub place: Option<HeldPlace>,
    /// Where clients find it.
    pub path: PathBuf,
}

/// The place of a socket that is listened on. Its file is removed with it.
#[derive(Debug)]
pub struct HeldPlace(Place);

impl Claim {
    /// Claims what `section` says, or what systemd passed instead. A socket in the place on which nobody answers any
    /// more is removed.
    ///
    /// # Errors
    /// If somebody does, or the place is taken or cannot be written, or an account in `section` does not exist.
    pub fn take(section: &SocketSection) -> Result<Claim, SocketError> {
        let allowed = Allowed::of(section)?;
        let source = match passed()? {
            Some(passed) => passed,
            None => Source::Place(Place::take(&section.path, section.mode, section.group.as_ref())?),
        };
        Ok(Claim { source, allowed })
    }

    /// Where clients will find it.
    pub fn path(&self) -> &Path {
        match &self.source {
            Source::Place(place) => &place.path,
            Source::Passed { path, .. } => path,
        }
    }

    /// Listens.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen(self) -> Result<Listening, SocketError> {
        let path = self.path().to_owned();
        let (socket, place) = match self.source {
            Source::Passed { listener, .. } => {
                listener.set_nonblocking(true).map_err(failed("listen on", &path))?;
                (listener, None)
            }
            Source::Place(place) => {
                let (socket, place) = place.bind()?;
                (socket, Some(place))
            }
        };
        Ok(Listening { socket, allowed: self.allowed, place, path })
    }
}

impl Place {
    /// Takes the place `path` for a socket with these permissions and, if given, of this group. A socket there on which
    /// nobody answers any more is removed.
    ///
    /// # Errors
    /// If somebody does, the place is taken or cannot be written, or there is no such group.
    pub fn take(path: &Path, mode: u32, group: Option<&Account>) -> Result<Place, SocketError> {
        let group = group.map(|group| Ok((group.clone(), peers::group_of_file(group)?))).transpose()?;
        if let Some(folder) =
            path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        {
            let mut builder = std::fs::DirBuilder::new();
            builder.mode(0o755).create(folder).map_err(failed("create the folder", folder))?;
        }
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock_path = PathBuf::from(lock_path);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed("create the lock", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SocketError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock_path)(error)),
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path)(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse { path: path.to_owned() }),
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(failed("remove the dead socket", path))?;
                    log::info!("removed the socket of a daemon that is gone");
                }
                Err(error) => return Err(failed("connect to", path)(error)),
            },
        }
        Ok(Place { path: path.to_owned(), mode, group, _lock: lock })
    }

    /// Listens there, without ever blocking.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn bind(self) -> Result<(UnixListener, HeldPlace), SocketError> {
        let socket = UnixListener::bind(&self.path).map_err(failed("listen on", &self.path))?;
        let held = HeldPlace(self);
        held.0.admit()?;
        // A client may go between being seen and being accepted; waiting for the next one would miss the wake-up.
        socket.set_nonblocking(true).map_err(failed("listen on", &held.0.path))?;
        Ok((socket, held))
    }

    /// Gives the new socket its group and its permissions, in this order: the permissions are meant for that group.
    fn admit(&self) -> Result<(), SocketError> {
        if let Some((group, number)) = &self.group {
            std::os::unix::fs::chown(&self.path, None, Some(*number)).map_err(|error| {
                SocketError::Group { path: self.path.clone(), group: group.clone(), error }
            })?;
        }
        std::fs::set_permissions(&self.path, Permissions::from_mode(self.mode))
            .map_err(failed("set the permissions of", &self.path))
    }
}

impl Drop for HeldPlace {
    fn drop(&mut self) {
        // Somebody may have removed the socket, or its whole folder, before us.
        if let Err(error) = std::fs::remove_file(&self.0.path)
            && error.kind() != ErrorKind::NotFound
        {
            log::warn!("cannot remove the socket '{}': {error}", self.0.path.display());
        }
    }
}

/// The socket that systemd opened for us, if it did (`sd_listen_fds(3)`).
fn passed() -> Result<Option<Source>, SocketError> {
    let mut all = ListenFd::from_env();
    if all.len() > 1 {
        log::warn!("systemd passed {} sockets; only the first is used", all.len());
    }
    let listener = all.take_unix_listener(0).map_err(|error| SocketError::Passed { error })?;
    let Some(listener) = listener else { return Ok(None) };
    let address = listener.local_addr().map_err(|error| SocketError::Passed { error })?;
    let path = address.as_pathname().map_or_else(|| PathBuf::from("(no path)"), Path::to_owned);
    log::info!("listening on '{}', which systemd passed", path.display());
    Ok(Some(Source::Passed { listener, path }))
}
