//! Who is at the other end, and whether they may be.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use super::claim::SocketError;
use crate::config::socket::{Account, SocketSection};

/// The process at the other end of a connection, as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId {
    /// Its user.
    pub user: u32,
    /// Its first group.
    pub group: u32,
    /// The process; 0 if it is in a container that hides it.
    pub process: i32,
}

impl PeerId {
    /// Asks the system, which nobody can lie to.
    ///
    /// # Errors
    /// If it does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = getsockopt(stream, sockopt::PeerCredentials)?;
        Ok(PeerId { user: found.uid(), group: found.gid(), process: found.pid() })
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, group {}, process {}", self.user, self.group, self.process)
    }
}

/// Those who may stay connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Whoever the file's permissions let in.
    Anyone,
    /// Of those, these.
    Listed {
        /// Users.
        users: Vec<u32>,
        /// Groups of which they are members.
        groups: Vec<u32>,
    },
}

impl Allowed {
    /// Whom the configuration names.
    ///
    /// # Errors
    /// If it names somebody whom this machine does not know.
    pub fn of(section: &SocketSection) -> Result<Self, SocketError> {
        if section.allow_users.is_none() && section.allow_groups.is_none() {
            return Ok(Allowed::Anyone);
        }
        let numbers = |key, accounts: &Option<Vec<Account>>, number: fn(&Account) -> Option<u32>| {
            let accounts = accounts.iter().flatten();
            let number = |account: &Account| {
                number(account).ok_or(SocketError::NoAccount { key, account: account.clone() })
            };
            accounts.map(number).collect::<Result<Vec<_>, _>>()
        };
        Ok(Allowed::Listed {
            users: numbers("socket.allow_users", &section.allow_users, user_number)?,
            groups: numbers("socket.allow_groups", &section.allow_groups, group_number)?,
        })
    }

    /// Whether this one may. Membership is looked up now: who was put into a group need not wait for a restart.
    pub fn admits(&self, peer: PeerId) -> bool {
        match self {
            Allowed::Anyone => true,
            Allowed::Listed { users, groups } => {
                users.contains(&peer.user)
                    || groups.contains(&peer.group)
                    || !groups.is_empty() && member_of(peer).iter().any(|group| groups.contains(group))
            }
        }
    }
}

/// All groups of a user that the machine knows; none of one that it does not.
fn member_of(peer: PeerId) -> Vec<u32> {
    let user = User::from_uid(Uid::from_raw(peer.user)).ok().flatten();
    let name = user.and_then(|user| CString::new(user.name).ok());
    let groups = name.and_then(|name| getgrouplist(&name, Gid::from_raw(peer.group)).ok());
    groups.unwrap_or_default().into_iter().map(Gid::as_raw).collect()
}

fn user_number(account: &Account) -> Option<u32> {
    match account {
        Account::Number(number) => Some(*number),
        Account::Name(name) => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
    }
}

/// The number of the group that the socket's file is given to.
///
/// # Errors
/// If there is no such group.
pub fn group_of_file(group: &Account) -> Result<u32, SocketError> {
    let no_account = || SocketError::NoAccount { key: "socket.group", account: group.clone() };
    group_number(group).ok_or_else(no_account)
}

fn group_number(account: &Account) -> Option<u32> {
    match account {
        Account::Number(number) => Some(*number),
        Account::Name(name) => Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(users: Option<&[&str]>, groups: Option<&[&str]>) -> SocketSection {
        let accounts = |names: &[&str]| names.iter().map(|name| Account::Name((*name).into())).collect();
        SocketSection {
            allow_users: users.map(accounts),
            allow_groups: groups.map(accounts),
            ..SocketSection::default()
        }
    }

    #[test]
    fn only_those_listed_are_admitted_once_there_is_a_list() {
        let peer = |user, group| PeerId { user, group, process: 1 };
        let anyone = Allowed::of(&section(None, None)).expect("nobody is named");
        assert!(anyone.admits(peer(4711, 4711)));
        let nobody = Allowed::of(&section(Some(&[]), None)).expect("nobody is named");
        assert!(!nobody.admits(peer(0, 0)));
        let root = Allowed::of(&section(Some(&["root"]), None)).expect("there is always root");
        assert!(root.admits(peer(0, 4711)) && !root.admits(peer(4711, 0)));
        let group = Allowed::Listed { users: vec![], groups: vec![0, 4712] };
        assert!(group.admits(peer(4711, 4712)) && !group.admits(peer(4711, 4713)));
        // Root's entry in the database has the first group 0, whatever the process has now.
        assert!(member_of(peer(0, 4713)).contains(&4713));
        assert!(member_of(peer(4711, 4713)).is_empty());
    }

    #[test]
    fn an_account_that_does_not_exist_is_named() {
        let error = Allowed::of(&section(None, Some(&["no-such-group"]))).expect_err("it does not exist");
        let words = error.to_string();
        assert!(words.contains("socket.allow_groups") && words.contains("no-such-group"), "{words}");
    }
}
