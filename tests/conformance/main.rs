//! The promises that every backend keeps, each tried on the backend that is named: `conformance BACKEND [PROMISE [FIRST]]`, the
//! first one being 0.
//!
//! A promise that takes a capability is left out only where the backend says that it lacks it (`aegis status`). Prints a line
//! for each promise, which `docs/BACKENDS.md` is made from, and fails if one is broken.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics, and tells of itself"
)]

mod bench;
mod promises;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use bench::Bench;
use promises::PROMISES;

/// What a promise takes of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing but a guest.
    Nothing,
    /// A kernel, root and devices of the guest's own.
    Guest,
    /// Machines that are saved.
    Save,
}

/// Something that users rely on.
struct Promise {
    /// What is promised, as a clause.
    text: &'static str,
    need: Need,
    /// Tries it; panics if it is broken.
    attempt: fn(&Bench),
}

/// How many promises may be kept at the second try only. The outer machine in which KVM is emulated was seen to lose a machine in
/// one of some hundred starts; each that is lost is told of.
const MOST_UNSTEADY: u32 = 2;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(backend) = arguments.next() else {
        println!("usage: conformance BACKEND [PART OF A PROMISE [NUMBER OF THE FIRST]]");
        return ExitCode::from(2);
    };
    let wanted = arguments.next().unwrap_or_default();
    let first = arguments.next().map_or(0, |number| number.parse().expect("the number of a promise"));
    let bench = Bench::start(&backend);
    let (mut kept, mut unsteady, mut broken, mut skipped) = (0, 0, 0, 0);
    for promise in PROMISES.iter().skip(first).filter(|promise| promise.text.contains(&wanted)) {
        if !bench.has(promise.need) {
            skipped += 1;
            println!("skipped  {} (the backend lacks {:?})", promise.text, promise.need);
            continue;
        }
        let attempt = || {
            let result = catch_unwind(AssertUnwindSafe(|| (promise.attempt)(&bench)));
            bench.clear();
            if result.is_err() {
                bench.report();
            }
            result.is_ok()
        };
        let begun = Instant::now();
        let outcome = match (attempt(), unsteady < MOST_UNSTEADY) {
            (true, _) => {
                kept += 1;
                "kept    "
            }
            (false, true) if attempt() => {
                unsteady += 1;
                "UNSTEADY"
            }
            (false, _) => {
                broken += 1;
                "BROKEN  "
            }
        };
        println!("{outcome} {} ({} ms)", promise.text, begun.elapsed().as_millis());
    }
    println!("{backend}: {kept} kept, {unsteady} kept at the second try, {broken} broken, {skipped} skipped");
    drop(bench);
    if broken == 0 && kept > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
