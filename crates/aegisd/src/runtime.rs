//! The runtime and its limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Threads for work that blocks.
const BLOCKING: usize = 16;

/// How long the system may take to start a thread.
const THREAD_START: Duration = Duration::from_secs(5);

/// How long a thread that has nothing to do is kept.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// The runtime, with all threads that it will ever have.
///
/// Started when they are needed, they might be refused then: by a limit on processes, or for want of memory. A runtime
/// that gets no thread for work that blocks panics, or leaves the work waiting for ever.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(BLOCKING).thread_keep_alive(FOR_EVER).enable_all();
    let runtime = builder.build()?;
    let (arrive, arrived) = std::sync::mpsc::channel();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..BLOCKING {
        let (arrive, gate) = (arrive.clone(), Arc::clone(&gate));
        runtime.spawn_blocking(move || {
            // Whoever waits for all of them may have given up.
            let _late = arrive.send(());
            drop(gate.lock());
        });
    }
    let there = (0..BLOCKING).take_while(|_| arrived.recv_timeout(THREAD_START).is_ok()).count();
    drop(held);
    if there == 0 {
        return Err(std::io::Error::other("the system gives it no threads"));
    }
    Ok(runtime)
}

/// Takes as many descriptors as the system allows: each connection takes one.
pub(crate) fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer there are fewer connections at a time, and that is said then.
    let _fewer = setrlimit(Resource::Nofile, limit);
}
