//! The client's end: `aegis-grpc-peer http://HOST:PORT`.

use std::io::Write;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let to = std::env::args().nth(1).unwrap_or_default();
    let (words, code) = match aegis_grpc_peer::talk(&to).await {
        Ok((count, bytes)) => (format!("{count} messages, {bytes} bytes"), ExitCode::SUCCESS),
        Err(error) => (format!("failed: {error}"), ExitCode::FAILURE),
    };
    // Whoever does not read it sees the exit code.
    let _unread = writeln!(std::io::stdout(), "{words}");
    code
}
