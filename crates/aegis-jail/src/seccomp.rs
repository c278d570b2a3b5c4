//! The part of a profile that seccomp enforces: an allowlist of system calls (`seccomp(2)`).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What an argument of a call has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The argument of this number, its lower 32 bits, is this.
    Is(u8, u64),
    /// The argument of this number has all these bits.
    Has(u8, u64),
    /// The argument of this number has none of these bits.
    Lacks(u8, u64),
    /// The argument of this number is the process that makes the call.
    OwnProcess(u8),
    /// All of these hold.
    All(&'static [Argument]),
}

/// What stands for the own process in a filter that is made before there is one: more than any has (`PID_MAX_LIMIT` of
/// `linux/threads.h`), and no constant of a call.
pub(crate) const OWN_PROCESS: u32 = 0x7a11_0bad;

/// A system call that is allowed: with any arguments, or with those of one of several alternatives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    number: i64,
    alternatives: Vec<Argument>,
}

/// Bits of `clone`'s flags that make a thread and not a process (`linux/sched.h`).
pub const THREADS_ONLY: u64 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;

impl Call {
    /// A call with any arguments.
    #[must_use]
    pub fn any(number: i64) -> Call {
        Call { number, alternatives: Vec::new() }
    }

    /// A call with one of these arguments.
    #[must_use]
    pub fn with(number: i64, alternatives: impl IntoIterator<Item = Argument>) -> Call {
        Call { number, alternatives: alternatives.into_iter().collect() }
    }

    /// To map memory (`mmap(2)`), but none that is shared and of no file: `RLIMIT_DATA` does not count that.
    #[must_use]
    pub fn memory_of_its_own() -> Call {
        let (shared, anonymous) = (libc::MAP_SHARED as u64, libc::MAP_ANONYMOUS as u64);
        Call::with(libc::SYS_mmap, [Argument::Lacks(3, shared), Argument::Lacks(3, anonymous)])
    }

    /// Its number (`syscalls(2)`).
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Calls with any arguments.
    pub fn all(numbers: &[i64]) -> impl Iterator<Item = Call> {
        numbers.iter().map(|number| Call::any(*number))
    }
}

/// `FIOSETOWN` and `SIOCSPGRP` of `asm-generic/sockios.h`: who is sent signals for a socket.
const FILE_OWNERS: [u64; 2] = [0x8901, 0x8902];
/// `F_SETOWN`, `F_SETSIG` and `F_SETOWN_EX` of `asm-generic/fcntl.h`: the same for any file, and which signal.
const F_SETOWN: u64 = 8;
const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;

/// `F_SETLEASE` and `F_NOTIFY` of `linux/fcntl.h`: whoever opens a file waits for who has a lease on it.
const F_SETLEASE: u64 = 1024;
const F_NOTIFY: u64 = 1026;
/// Locks on parts of files, of processes and of open files, as of `asm-generic/fcntl.h`: they keep others from theirs, also
/// those of who may only read.
const LOCKS: [u64; 6] = [5, 6, 7, 36, 37, 38];

type Failure = seccompiler::BackendError;

fn conditions(argument: Argument) -> Result<Vec<SeccompCondition>, Failure> {
    let (index, compare, value) = match argument {
        Argument::OwnProcess(index) => (index, SeccompCmpOp::Eq, OWN_PROCESS.into()),
        Argument::Is(index, value) => (index, SeccompCmpOp::Eq, value),
        Argument::Has(index, bits) => (index, SeccompCmpOp::MaskedEq(bits), bits),
        Argument::Lacks(index, bits) => (index, SeccompCmpOp::MaskedEq(bits), 0),
        Argument::All(all) => {
            let each = all.iter().map(|argument| conditions(*argument)).collect::<Result<Vec<_>, _>>()?;
            return Ok(each.concat());
        }
    };
    Ok(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, compare, value)?])
}

fn rule(argument: Argument) -> Result<SeccompRule, Failure> {
    SeccompRule::new(conditions(argument)?)
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(u32::try_from(number).unwrap_or(1))
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, Failure> {
    let filter = SeccompFilter::new(rules, others, these, std::env::consts::ARCH.try_into()?)?;
    filter.try_into()
}

/// The filters for these calls, in the order in which they are to be installed.
///
/// Some calls fail as they do on a kernel that does not know them. `clone3` hides its flags behind a pointer that no filter can follow;
/// the C library falls back to `clone`, whose flags can be judged.
pub(crate) fn programs(calls: &[Call]) -> Result<[BpfProgram; 2], Failure> {
    // Whoever is told that a file can be read is told by a signal, and says himself who that is.
    let owner = |request: u64| rule(Argument::Is(1, request));
    let owners = FILE_OWNERS.into_iter().map(owner).collect::<Result<Vec<_>, _>>()?;
    let signals = [F_SETOWN, F_SETSIG, F_SETOWN_EX].into_iter();
    let others = signals.chain([F_SETLEASE, F_NOTIFY]).chain(LOCKS);
    let others = others.map(owner).collect::<Result<Vec<_>, _>>()?;
    let unknown = BTreeMap::from([
        (libc::SYS_clone3, Vec::new()),
        (libc::SYS_ioctl, owners),
        (libc::SYS_fcntl, others),
    ]);
    let without_clone3 = compile(unknown, SeccompAction::Allow, errno(libc::ENOSYS))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    for call in calls {
        let alternatives = call.alternatives.iter().map(|argument| rule(*argument));
        rules.entry(call.number).or_default().extend(alternatives.collect::<Result<Vec<_>, _>>()?);
    }
    Ok([without_clone3, compile(rules, errno(libc::EPERM), SeccompAction::Allow)?])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_list_of_calls_is_a_filter(
            numbers in proptest::collection::vec((0i64..460, proptest::option::of((0u8..6, any::<u32>()))), 0..60),
        ) {
            let calls: Vec<Call> = numbers
                .into_iter()
                .map(|(number, argument)| match argument {
                    Some((index, value)) => Call::with(number, [Argument::Is(index, value.into())]),
                    None => Call::any(number),
                })
                .collect();
            prop_assert!(programs(&calls).is_ok());
        }
    }
}
