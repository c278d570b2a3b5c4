//! The owner of a port of this host, from `/proc/net/tcp`: for people who wonder why theirs is taken.

use std::path::Path;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of the kernel's `net/tcp_states.h`).
const LISTEN: &str = "0A";
/// Most processes that are looked at.
const MOST_PROCESSES: usize = 20_000;

/// The process that listens on a port, on whatever address, e.g. `python3 (pid 123)`; `None` if it cannot be seen.
#[must_use]
pub fn process(port: u16) -> Option<String> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().find_map(|table| listening_inode(table, port))?;
    let socket = format!("socket:[{inode}]");
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let entries = std::fs::read_dir("/proc").ok()?.flatten().filter(|entry| is_process(&entry.file_name()));
    let holder =
        entries.take(MOST_PROCESSES).map(|entry| entry.path()).find(|path| has_open(path, &socket))?;
    let name = std::fs::read_to_string(holder.join("comm")).ok()?;
    Some(format!("{} (pid {})", name.trim(), holder.file_name()?.to_string_lossy()))
}

fn has_open(process: &Path, socket: &str) -> bool {
    let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == socket)
}

/// The inode of the socket that listens on a port, from a table as in `/proc/net/tcp` (see proc(5)).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, _, state, _, _, _, _, _, inode] = fields.as_slice() else { return None };
        let (_, number) = local.rsplit_once(':')?;
        let matches = *state == LISTEN && u16::from_str_radix(number, 16) == Ok(port);
        if matches { inode.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 0
";

    #[test]
    fn only_a_socket_that_listens_holds_a_port() {
        assert_eq!(listening_inode(TABLE, 8080), Some(4242));
        assert_eq!(listening_inode(TABLE, 8081), None);
    }

    #[test]
    fn a_process_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let holder = process(address.port()).unwrap();
        assert!(holder.ends_with(&format!("(pid {})", std::process::id())), "{holder}");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(sl\n)?[0-9A-F: \n]{0,200}", port: u16) {
            let _found = listening_inode(&text, port);
        }
    }
}
