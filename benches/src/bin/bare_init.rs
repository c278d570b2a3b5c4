//! `/init` of the yardstick's machine: says that user space has begun, then pours zeroes into a port if asked to.

use std::io::Write;

/// Bytes that the yardstick for throughput pours.
const POURED: usize = 200 << 20;

fn main() {
    // The kernel has opened the console for us. Nobody is left to tell if any of this fails: the host waits in vain.
    let _mute = std::io::stdout().write_all(b"@user\n");
    if std::env::args().any(|argument| argument == "pour")
        && let Err(error) = pour()
    {
        let _mute = writeln!(std::io::stdout(), "@failed {error}");
    }
    loop {
        std::thread::park();
    }
}

fn pour() -> std::io::Result<()> {
    rustix::mount::mount("dev", "/dev", "devtmpfs", rustix::mount::MountFlags::empty(), None)?;
    let mut port = loop {
        let found = std::fs::read_dir("/dev")?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("vport"));
        if let Some(found) = found {
            break std::fs::File::options().write(true).open(found.path())?;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let zeroes = vec![0; 64 << 10];
    let mut left = POURED;
    while left > 0 {
        let count = port.write(zeroes.get(..left.min(zeroes.len())).unwrap_or_default())?;
        left -= count;
    }
    Ok(())
}
