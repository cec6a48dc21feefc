//! Who sends a message, and how much of a queue they may have.

use ruma::UserId;

/// Of a device's queue: what one account can have that shares a room with the owner, and one that does not.
const SHARE_PART: u64 = 4;
const UNRELATED_SHARE_PART: u64 = 10;

/// The rooms that a sender shares with the owner of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharedRooms {
    None,
    /// Only rooms that anybody may join.
    Open,
    /// One that not everybody may join.
    Closed,
}

impl SharedRooms {
    const ALL: [Self; 3] = [Self::None, Self::Open, Self::Closed];

    /// The first character of a stored sender.
    fn sign(self) -> char {
        match self {
            Self::None => '-',
            Self::Open => '+',
            Self::Closed => '*',
        }
    }

    pub(super) fn of_stored(sender: &str) -> Self {
        let all = Self::ALL.into_iter();
        let mut of_sign = all.filter(|shared| sender.starts_with(shared.sign()));
        of_sign.next().unwrap_or(Self::None)
    }
}

/// Whoever sends a message, as a text that is stored with it: a sign for the [`SharedRooms`]; the account; and
/// behind a blank the user, if the account is their server.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) text: String,
    pub(super) shared: SharedRooms,
}

impl Sender {
    pub(super) fn local(user: &UserId, shared: SharedRooms) -> Self {
        let text = format!("{}{user}", shared.sign());
        Self { text, shared }
    }

    pub(super) fn remote(user: &UserId, shared: SharedRooms) -> Self {
        let text = format!("{}{} {user}", shared.sign(), user.server_name());
        Self { text, shared }
    }

    pub(super) fn is_of_same_account(&self, stored: &str) -> bool {
        account(stored) == account(&self.text)
    }
}

/// The account of a stored sender, with its sign: what it has under another sign is counted separately.
pub(super) fn account(sender: &str) -> &str {
    sender.split(' ').next().unwrap_or_default()
}

/// What is in a queue, as it matters for one sender.
pub(super) struct Usage {
    shared: SharedRooms,
    /// By the shared rooms of the senders.
    sums: [u64; 3],
    pub(super) of_account: u64,
    /// If the account is a server.
    of_user: Option<u64>,
    /// What senders who share no more rooms than these can have together.
    parts: [u64; 3],
    /// What an account can have.
    pub(super) max_share: u64,
}

impl Usage {
    /// In the queue of a device, in which all `senders` have `max` units at most.
    pub(super) fn of_device<'a>(
        max: u64,
        sender: &Sender,
        senders: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        let part = match sender.shared {
            SharedRooms::None => UNRELATED_SHARE_PART,
            SharedRooms::Open | SharedRooms::Closed => SHARE_PART,
        };
        Self::new([max / 4, max / 2, max], max / part, sender, senders)
    }

    /// The same in the queue of another server.
    pub(super) fn of_server<'a>(
        max: u64,
        sender: &Sender,
        senders: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        Self::new([max; 3], max, sender, senders)
    }

    fn new<'a>(
        parts: [u64; 3],
        max_share: u64,
        sender: &Sender,
        senders: impl Iterator<Item = (&'a str, u64)>,
    ) -> Self {
        let is_server = account(&sender.text) != sender.text;
        let mut usage = Self {
            shared: sender.shared,
            sums: [0; 3],
            of_account: 0,
            of_user: is_server.then_some(0),
            parts,
            max_share,
        };
        for (other, units) in senders {
            usage.sums[SharedRooms::of_stored(other) as usize] += units;
            if sender.is_of_same_account(other) {
                usage.of_account += units;
            }
            if let Some(of_user) = usage.of_user.as_mut().filter(|_| other == sender.text) {
                *of_user += units;
            }
        }
        usage
    }

    /// What senders with the same shared rooms have.
    pub(super) fn of_equals(&self) -> u64 {
        self.sums[self.shared as usize]
    }

    /// What they can have, as those who share more rooms do not give way.
    pub(super) fn capacity(&self) -> u64 {
        let (mut capacity, mut of_others) = (self.parts[self.shared as usize], 0);
        for more in self.shared as usize + 1..self.parts.len() {
            of_others += self.sums[more];
            capacity = capacity.min(self.parts[more].saturating_sub(of_others));
        }
        capacity
    }

    /// Whether the sender may have so much more, if only those who share fewer rooms give way.
    pub(super) fn fits(&self, added: u64) -> bool {
        let of_other_accounts = self.of_equals() - self.of_account;
        let share = self
            .max_share
            .min(half_of_free(self.capacity(), of_other_accounts));
        let is_in_share = self.of_account + added <= share;
        let is_in_share_of_user = self.of_user.is_none_or(|of_user| {
            of_user + added <= half_of_free(share, self.of_account - of_user)
        });
        is_in_share && is_in_share_of_user
    }

    /// Whether those who share fewer rooms have to give way.
    pub(super) fn displaces(&self, added: u64) -> bool {
        let parts = self.parts.iter().enumerate().skip(self.shared as usize);
        let sum = |last| self.sums[..=last].iter().sum::<u64>() + added;
        parts.into_iter().any(|(last, part)| sum(last) > *part)
    }
}

/// What one may have if that is no more than remains free.
fn half_of_free(max: u64, of_others: u64) -> u64 {
    max.saturating_sub(of_others) / 2
}
