//! Which servers are to be sent something that lasts.
//!
//! Whose devices changed is remembered until one task has found the servers in the rooms of that user: of
//! a burst of changes each user is looked at once. At a start, and after the store was opened again, every
//! server is looked at for which messages wait, or that has not been told of everything that concerns it.

use std::{collections::BTreeSet, mem, sync::Weak};

use smol::channel::Receiver;

use super::{Parts, Sender, durable::Durable};
use crate::{
    rooms::{self, servers},
    store::{ServerNum, UserNum},
    users::{self, to_device},
};

/// How many servers are looked at in one scan.
const SLICE: usize = 50;

/// Of what servers may not have heard.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Users of this server whose devices changed.
    pub(super) users: BTreeSet<UserNum>,
    /// Anything.
    all: bool,
}

/// Addresses those who may not have heard of something, until the sender is gone.
pub(super) async fn work(sender: &Weak<Parts>, woken: &Receiver<()>) {
    while woken.recv().await.is_ok() {
        let Some(parts) = sender.upgrade() else {
            return;
        };
        let sender = Sender(parts);
        let unheard = mem::take(&mut sender.lock().unheard);
        if let Err(error) = sender.address_all(unheard).await {
            log::error!("other servers have to wait for their messages: {error}");
        }
    }
}

impl Sender {
    /// Something that lasts waits for `server`.
    pub(super) fn address(&self, server: ServerNum) {
        match self.0.store.read(|s| servers::name(s, server)) {
            Ok(name) if self.0.client.may_ask(&name) => {
                let new = || self.destination(server, None);
                self.lock().destinations.entry(server).or_insert_with(new);
            }
            Ok(_) => {}
            Err(error) => log::error!("a server has to wait for its messages: {error}"),
        }
    }

    /// The servers that `user` shares rooms with are to hear of a change of the user's devices, if it is
    /// a user of this one.
    pub(super) fn list_changed(&self, user: UserNum) {
        match self.0.store.read(|s| users::id_of(s, user)) {
            Ok(user_id) if self.0.local.has(&user_id) => {
                self.lock().unheard.users.insert(user);
                self.wake_addressing();
            }
            Ok(_) => {}
            Err(error) => log::error!("other servers do not hear of a device: {error}"),
        }
    }

    /// Every server may have missed something.
    pub(super) fn look_at_all(&self) {
        self.lock().unheard.all = true;
        self.wake_addressing();
    }

    fn wake_addressing(&self) {
        // Who is woken already looks at everything.
        let _ = self.0.unheard.try_send(());
    }

    async fn address_all(&self, unheard: Unheard) -> Result<(), rooms::Error> {
        if unheard.all {
            let waiting = |s: &_| Ok(to_device::servers_with_outbound(s)?);
            let waiting = self.scan("for whom messages wait", waiting).await?;
            waiting.into_iter().for_each(|server| self.address(server));
            let all = self.scan("other servers", servers::all).await?;
            let all: Vec<_> = all.into_iter().map(|(server, _)| server).collect();
            for slice in all.chunks(SLICE) {
                self.address_untold(slice.to_vec()).await?;
            }
        }
        for user in unheard.users {
            let scan = move |s: &_| servers::sharing_rooms(s, user);
            let servers = self.scan("who hears of a device", scan).await?;
            servers.into_iter().for_each(|server| self.address(server));
        }
        Ok(())
    }

    /// Addresses those of `servers` that have not been told of everything.
    async fn address_untold(&self, servers: Vec<ServerNum>) -> Result<(), rooms::Error> {
        let scan = move |s: &_| {
            let mut untold = Vec::new();
            for server in servers {
                let durable = Durable::next(s, server, 1)?;
                if durable.is_to_be_noted() {
                    untold.push(server);
                }
            }
            Ok(untold)
        };
        let untold = self.scan("who has not heard of devices", scan).await?;
        untold.into_iter().for_each(|server| self.address(server));
        Ok(())
    }
}
