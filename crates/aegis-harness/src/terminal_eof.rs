//! The end of file of a terminal's input, as its programs are told of it.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp};
use tokio::io::unix::AsyncFd;

use crate::async_fd::{Ended, write_all};

/// The end-of-file character of a terminal in its initial settings (control-D).
const END_OF_FILE: &[u8] = &[4];
/// After how long a terminal whose input has ended is looked at again, at first and later: nothing tells of its mode.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often in a row it must be read key by key: by then its program has seen all keys.
const LOOKS: u32 = 5;

/// A terminal with its session.
#[derive(Debug)]
pub struct Terminal {
    /// The host's side.
    pub fd: Rc<AsyncFd<OwnedFd>>,
    /// The process that leads the session.
    pub leader: u32,
    /// Whether that has ended.
    pub ended: Ended,
}

/// Whether an input whose last byte this is, if it had any, ends within a line.
fn is_within_line(last: Option<u8>) -> bool {
    last.is_some_and(|last| !matches!(last, b'\n' | b'\r'))
}

impl Terminal {
    /// Tells the programs that there will be no more input after this byte.
    ///
    /// Whoever reads lines is told by a character; within a line the first one only hands over what there is of it. Whoever
    /// reads keys takes it for the end where a line begins, as shells do at their prompt, and does not get one that came before
    /// he began to read keys. If he goes on within a line, the terminal is hung up, as one that is closed.
    pub async fn end(mut self, last: Option<u8>) {
        let (by_key, within_line) = (self.is_read_by_key(), is_within_line(last));
        self.tell(if within_line { 2 } else { 1 }).await;
        if by_key && !within_line {
            return;
        }
        self.until_read_by_key().await;
        if *self.ended.borrow() {
            return;
        }
        if within_line { self.hang_up() } else { self.tell(1).await }
    }

    async fn tell(&self, times: usize) {
        for _ in 0..times {
            let _gone = write_all(&self.fd, END_OF_FILE).await;
        }
    }

    /// Waits until it has been read key by key for a while, or its session has ended.
    async fn until_read_by_key(&mut self) {
        let (mut looks, mut wait) = (0, LOOK.0);
        while looks < LOOKS {
            tokio::select! {
                _ = self.ended.wait_for(|over| *over) => return,
                () = tokio::time::sleep(wait) => {}
            }
            (looks, wait) =
                if self.is_read_by_key() { (looks + 1, LOOK.0) } else { (0, (wait * 2).min(LOOK.1)) };
        }
    }

    fn is_read_by_key(&self) -> bool {
        tcgetattr(self.fd.get_ref()).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ICANON))
    }

    /// Tells whoever a terminal that is closed tells: the session's leader and who is in the foreground.
    fn hang_up(&self) {
        let foreground = tcgetpgrp(self.fd.get_ref()).ok();
        let foreground = foreground.and_then(|group| u32::try_from(group.as_raw_nonzero().get()).ok());
        for group in
            [Some(self.leader), foreground.filter(|group| *group != self.leader)].into_iter().flatten()
        {
            // It may have ended in this very moment.
            let _gone = aegis_sys::guest::signal_group(group, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_ends_within_a_line_unless_its_last_key_ended_one() {
        for (last, within) in [(None, false), (Some(b'\n'), false), (Some(b'\r'), false), (Some(b't'), true)]
        {
            assert_eq!(is_within_line(last), within, "{last:?}");
        }
    }
}
