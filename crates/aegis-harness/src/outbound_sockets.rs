//! Connections of this guest to somewhere outside, from `/proc/net/tcp` and `tcp6`.

/// State of an established connection (`TCP_ESTABLISHED` of the kernel's `net/tcp_states.h`).
const ESTABLISHED: &str = "01";

/// How many established connections in a table (see proc(5)) lead somewhere else than to this machine itself.
#[must_use]
pub fn outward(table: &str) -> u32 {
    let count = table.lines().skip(1).filter(|line| leads_outside(line).unwrap_or(false)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn leads_outside(line: &str) -> Option<bool> {
    let mut fields = line.split_ascii_whitespace().skip(2);
    let (remote, state) = (fields.next()?, fields.next()?);
    let (address, _port) = remote.rsplit_once(':')?;
    Some(state == ESTABLISHED && !is_loopback(address))
}

/// Whether an address is this machine's own, as the kernel prints it: hexadecimal, each 32 bits in the order of its
/// bytes in memory, which is little endian on all machines that we run on.
fn is_loopback(address: &str) -> bool {
    match address.len() {
        8 => address.ends_with("7F"),
        32 => {
            let v6 = address == "00000000000000000000000001000000";
            // ::ffff:127.0.0.0/8
            v6 || (address.starts_with("0000000000000000FFFF0000") && address.ends_with("7F"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_established_connections_to_elsewhere_count() {
        let line =
            |remote: &str, state: &str| format!("   0: 0100007F:1F90 {remote}:01BB {state} 0 0 0 0 0 1\n");
        let table = [
            "  sl  local_address rem_address   st\n".to_owned(),
            line("0100007F", "01"),
            line("0101007F", "01"),
            line("08080808", "01"),
            line("08080808", "06"),
            line("00000000", "0A"),
            line("00000000000000000000000001000000", "01"),
            line("0000000000000000FFFF00000100007F", "01"),
            line("B80D0120000000000000000001000000", "01"),
        ]
        .concat();
        assert_eq!(outward(&table), 2);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(sl\n)?[0-9A-F: \n]{0,300}") {
            let _count = outward(&text);
        }
    }
}
