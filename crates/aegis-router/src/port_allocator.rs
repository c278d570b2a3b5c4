//! Allocation of public ports for those who do not care which.
//!
//! Not by binding to port 0: the system chooses from the range that it also gives to outgoing connections, and one of
//! those may have the number while the daemon is away. What is chosen here is still free when it comes back.

use std::ops::RangeInclusive;

/// Where the numbers begin; below it are those that people choose.
const FIRST: u16 = 20_000;
/// The range of outgoing connections, unless the system says otherwise (`ip_local_port_range` in ip(7)).
const OUTGOING: RangeInclusive<u16> = 32_768..=60_999;

/// All ports that may be chosen, beginning at a random one.
pub(crate) fn candidates() -> impl Iterator<Item = u16> {
    let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    order(outgoing(&told), random())
}

fn random() -> u16 {
    let mut bytes = [0; 2];
    // Cannot fail for so few bytes once the system is up; any number will do.
    let _filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    u16::from_ne_bytes(bytes)
}

/// The range in the text of `ip_local_port_range`. One that leaves too few others is as good as none.
fn outgoing(text: &str) -> RangeInclusive<u16> {
    let mut numbers = text.split_ascii_whitespace().map_while(|word| word.parse::<u16>().ok());
    let range = numbers.next().zip(numbers.next()).map_or(OUTGOING, |(first, last)| first..=last);
    if order(range.clone(), 0).count() < 1000 { OUTGOING } else { range }
}

fn order(outgoing: RangeInclusive<u16>, start: u16) -> impl Iterator<Item = u16> {
    let all = (FIRST..=u16::MAX).filter(move |port| !outgoing.contains(port));
    let count = all.clone().count().max(1);
    let skipped = usize::from(start) % count;
    all.cycle().skip(skipped).take(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_choice_is_in_the_range_of_outgoing_connections(first: u16, last: u16, start: u16) {
            let range = outgoing(&format!("{first}\t{last}\n"));
            let all: Vec<u16> = order(range.clone(), start).collect();
            prop_assert!(all.len() >= 1000);
            prop_assert!(all.iter().all(|port| *port >= FIRST && !range.contains(port)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            let _range = outgoing(&text);
        }
    }
}
