//! The promises that every backend keeps, each tried on the backend that is named: `conformance BACKEND [PROMISE]`.
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

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(backend) = arguments.next() else {
        println!("usage: conformance BACKEND [PART OF A PROMISE]");
        return ExitCode::from(2);
    };
    let wanted = arguments.next().unwrap_or_default();
    let bench = Bench::start(&backend);
    let (mut kept, mut broken, mut skipped) = (0, 0, 0);
    for promise in PROMISES.iter().filter(|promise| promise.text.contains(&wanted)) {
        if !bench.has(promise.need) {
            skipped += 1;
            println!("skipped  {} (the backend lacks {:?})", promise.text, promise.need);
            continue;
        }
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| (promise.attempt)(&bench)));
        bench.clear();
        let took = begun.elapsed().as_millis();
        if result.is_ok() {
            kept += 1;
            println!("kept     {} ({took} ms)", promise.text);
        } else {
            broken += 1;
            println!("BROKEN   {} ({took} ms)", promise.text);
            bench.report();
        }
    }
    println!("{backend}: {kept} kept, {broken} broken, {skipped} skipped");
    drop(bench);
    if broken == 0 && kept > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
