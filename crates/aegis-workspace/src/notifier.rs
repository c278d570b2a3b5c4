//! Notifies the guest of what others change in its directories, and not of what it changes itself.
//!
//! This process does one thing after the other, so whatever happens while it carries out a request to the names that the
//! request is about is the guest's own doing, and whatever happened before is not. Nothing is sent that the guest has no
//! room for, nor while the pipe has none: a guest that stands still holds nobody up.

use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use aegis_guest_protocol::changes::WINDOW;
use aegis_guest_protocol::frame::{HEADER_LEN, Kind, header};

use rustix::fs::inotify::ReadFlags;

use crate::export::{Export, happenings};
use crate::fd_cache::SideEffects;
use crate::fuse_request::{Operation, Request};
use crate::inode_table::Place;
use crate::notification_queue::NotificationQueue;
use crate::watcher::{Directory, Event, Watcher};

/// Most nodes that are looked at for directories when another server's place is taken.
const MOST_LOOKED_AT: usize = 65_536;

/// How many changes the guest may be sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Credit {
    window: u32,
    sent: u64,
    taken: u64,
}

impl Credit {
    fn is_there(self) -> bool {
        self.sent - self.taken < u64::from(self.window)
    }

    /// The guest has taken so many. It may say what it likes.
    fn take(&mut self, consumed: u64) {
        self.taken = self.taken.max(consumed.min(self.sent));
    }
}

/// What the guest is told.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// None where the host has no room for one.
    watcher: Option<Watcher>,
    queue: NotificationQueue,
    credit: Credit,
    complained: bool,
}

impl Notifier {
    pub(crate) fn new(watcher: Option<Watcher>) -> Notifier {
        Notifier {
            watcher,
            queue: NotificationQueue::default(),
            credit: Credit::default(),
            complained: false,
        }
    }

    /// Readable when something has been changed.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watcher.as_ref().map(Watcher::fd)
    }

    /// The guest's other end is another one, and has not said what it takes.
    pub(crate) fn pause(&mut self) {
        self.credit = Credit::default();
    }

    /// The guest takes so many changes at a time. What it knows is watched from now on.
    pub(crate) fn begin(&mut self, window: u32, exports: &mut [Export]) {
        self.credit = Credit { window: window.min(WINDOW), ..Credit::default() };
        for (number, export) in exports.iter_mut().enumerate() {
            for id in export.known().into_iter().take(MOST_LOOKED_AT) {
                if self.watcher.as_ref().is_none_or(Watcher::is_full) {
                    break;
                }
                self.watch((number, id), export);
            }
        }
    }

    /// The guest has dealt with so many changes.
    pub(crate) fn take(&mut self, consumed: u64) {
        self.credit.take(consumed);
    }

    fn watch(&mut self, directory: Directory, export: &mut Export) {
        if let Some(watcher) = self.watcher.as_mut().filter(|_| self.credit.window > 0) {
            watcher.watch(directory, || export.watchable(directory.1));
        }
    }

    /// What has happened until now was not the guest.
    pub(crate) fn notice(&mut self, exports: &mut [Export]) {
        let events = self.watcher.as_mut().map(Watcher::take).unwrap_or_default();
        self.learn(&events, exports);
    }

    /// A request is about to be carried out.
    pub(crate) fn before(&mut self, number: usize, request: &Request<'_>, exports: &mut [Export]) {
        self.notice(exports);
        if let (Operation::Lookup { .. } | Operation::List { .. }, Some(export)) =
            (&request.operation, exports.get_mut(number))
        {
            // Before it is looked at: what is changed after that is told.
            self.watch((number, request.node), export);
        }
    }

    /// A request has been carried out, and has led to this beside its answer.
    pub(crate) fn after(
        &mut self,
        number: usize,
        request: &Request<'_>,
        news: &SideEffects,
        exports: &mut [Export],
    ) {
        let mut events = self.watcher.as_mut().map(Watcher::take).unwrap_or_default();
        let Some(export) = exports.get_mut(number) else { return };
        if !events.is_empty() {
            let concerns = export.concerns(request, &news.closed);
            events.iter_mut().for_each(|event| disown(event, number, &concerns));
        }
        for id in &news.directories {
            self.watch((number, *id), export);
        }
        let forgotten: &[(u64, u64)] = match &request.operation {
            Operation::Forget { times } => &[(request.node, *times)],
            Operation::BatchForget(all) => all,
            _ => &[],
        };
        for (id, _) in forgotten {
            if let Some(watcher) = self.watcher.as_mut().filter(|_| export.has_forgotten(*id)) {
                watcher.forget((number, *id));
            }
        }
        self.learn(&events, exports);
    }

    fn learn(&mut self, events: &[Event], exports: &mut [Export]) {
        if events.is_empty() {
            return;
        }
        for (number, export) in (0u32..).zip(exports) {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            for happening in happenings(events, index) {
                if let Some(change) = export.learn(happening) {
                    self.queue.push(number, change);
                }
            }
        }
    }

    /// Whether there is something to send, and the guest has room for it.
    pub(crate) fn is_due(&self) -> bool {
        self.credit.is_there() && !self.queue.is_empty()
    }

    /// The next frame to send.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        if !self.credit.is_there() {
            return None;
        }
        let (number, change) = self.queue.pop()?;
        let change = change.encode()?;
        self.credit.sent += 1;
        let mut frame = Vec::with_capacity(HEADER_LEN + change.len());
        frame.extend(header(Kind::Rpc, number, change.len()));
        frame.extend(change);
        Some(frame)
    }

    /// Why the guest is not told all, if that is so: said once.
    pub(crate) fn complaint(&mut self) -> Option<&'static str> {
        let complaint = match &mut self.watcher {
            Some(watcher) => watcher.complaint(),
            None => {
                Some("the host has no room for one more who watches files (fs.inotify.max_user_instances)")
            }
        };
        let lost = (self.queue.take_lost() > 0).then_some("more was changed than the guest could take");
        let complaint = complaint.or(lost)?;
        (!std::mem::replace(&mut self.complained, true)).then_some(complaint)
    }
}

/// Takes out of an event what a request of export `number`'s has done itself.
fn disown(event: &mut Event, number: usize, concerns: &[(Place, ReadFlags)]) {
    let Event { directories, what, name, .. } = event;
    directories.retain(|(export, directory)| {
        *export != number
            || !concerns.iter().any(|(place, done)| {
                place.parent == *directory && place.name.as_bytes() == name && what.intersects(*done)
            })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_under_way_than_the_guest_takes_whatever_it_says() {
        let mut credit = Credit::default();
        assert!(!credit.is_there(), "a guest that says nothing is told nothing");
        credit.window = 2;
        credit.sent = 2;
        assert!(!credit.is_there());
        credit.take(u64::MAX);
        assert_eq!(credit.taken, 2);
        credit.take(0);
        assert!(credit.taken == 2 && credit.is_there());
    }
}
