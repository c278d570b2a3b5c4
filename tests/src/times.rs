//! How long each test had a daemon, for the sums of `scripts/test-times`.

use std::io::Write;
use std::time::Instant;

/// Takes the time of the test that it is made in; notes it when dropped, in the file that `AEGIS_TEST_TIMES` names.
#[derive(Debug)]
pub(crate) struct TestTime {
    test: String,
    began: Instant,
}

impl TestTime {
    /// Begins now. A thread of a test has the test's name.
    pub(crate) fn start() -> TestTime {
        let test = std::thread::current().name().unwrap_or("other").to_owned();
        TestTime { test, began: Instant::now() }
    }
}

impl Drop for TestTime {
    fn drop(&mut self) {
        let Some(path) = std::env::var_os("AEGIS_TEST_TIMES") else { return };
        let line = format!("{} {}\n", self.test, self.began.elapsed().as_millis());
        let file = std::fs::File::options().append(true).create(true).open(path);
        // The times decide nothing.
        let _untold = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
