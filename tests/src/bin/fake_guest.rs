//! A guest without a machine, for the fake monitor: the real harness on this host, behind the sockets of a machine.
//!
//! Its ports never tell the harness that the host has gone or come back, which is the worst that a port may do: only
//! the greeting of a new session tells. With [`STRANGER`] in its environment it is the guest of another era, which has
//! no version of the protocol in common with anybody; with [`DEAF`] it hears nothing of its first host but the greeting.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::path::PathBuf;
use std::rc::Rc;

use aegis_guest_protocol::frame::{self, Decoder, Frame, GUEST_MARKER, HOST_MARKER, Item, Kind};
use aegis_guest_protocol::messages::{Hello, agree};
use aegis_guest_protocol::rpc::{Message, RpcError};
use aegis_harness::platform::Platform;
use aegis_sys::listening::Listens;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// Makes the guest a stranger.
const STRANGER: &str = "AEGIS_FAKE_GUEST_STRANGER";
/// Where it opens the socket of its own instance, if anywhere.
const OWN_API: &str = "AEGIS_FAKE_GUEST_API";
/// Makes the guest hard of hearing.
const DEAF: &str = "AEGIS_FAKE_GUEST_DEAF";
/// What a stranger speaks.
const STRANGE_VERSIONS: (u32, u32) = (7000, 9000);

/// This host as a guest: nothing is mounted, set or ended but what the harness itself started.
#[derive(Debug)]
struct Host;

impl Platform for Host {
    fn prepare_root(&self, _hostname: &str) -> Result<(), RpcError> {
        Ok(())
    }

    fn listens(&self) -> Option<Listens> {
        None
    }

    /// This host works for others, too.
    fn busy_ms(&self) -> Option<u64> {
        None
    }

    fn outward_connections(&self) -> u32 {
        0
    }

    fn own_api(&self) -> Option<PathBuf> {
        std::env::var_os(OWN_API).map(PathBuf::from)
    }

    /// This and the next only leave a trace on the console, where a test looks for their order.
    fn freeze(&self, frozen: bool) {
        trace(if frozen { "freeze" } else { "thaw" });
    }

    fn set_clock(&self, _unix_time_ns: u64) {
        trace("clock");
    }

    fn add_entropy(&self, _bytes: &[u8]) {}

    fn oom_kills(&self) -> u64 {
        0
    }

    fn signal_everyone(&self, groups: &[u32], signal: i32) {
        for group in groups {
            // One that has ended needs no signal.
            let _gone = aegis_sys::guest::signal_group(*group, signal);
        }
    }

    fn anyone_left(&self, groups: &[u32]) -> bool {
        !groups.is_empty()
    }

    fn release_root(&self) -> bool {
        true
    }
}

fn trace(word: &str) {
    use std::io::Write;
    // Without a console nobody looks for it.
    let _mute = writeln!(io::stderr(), "trace: {word}");
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(async {
        let [control, bulk] = aegis_vmm::fake::GUEST_FDS;
        if std::env::var_os(STRANGER).is_some() {
            return tokio::try_join!(estrange(listen(control)?), estrange(listen(bulk)?)).map(drop);
        }
        aegis_harness::serve(port(control)?, port(bulk)?, Rc::new(Host)).await
    }))
}

fn listen(number: i32) -> io::Result<UnixListener> {
    let listener = StdListener::from(aegis_sys::child::inherited(number)?);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Greets whoever greets, and has no version in common with whoever says hello.
async fn estrange(listener: UnixListener) -> io::Result<()> {
    loop {
        let (mut host, _) = listener.accept().await?;
        let mut decoder = Decoder::new(HOST_MARKER);
        while host.read_buf(decoder.buffer_mut()).await? > 0 {
            while let Some(item) = decoder.next_item() {
                match item {
                    Item::Greeting(nonce) => {
                        host.write_all(&frame::greeting(&GUEST_MARKER, &nonce)).await?;
                    }
                    Item::Frame(said) => host.write_all(&refusal(&said)?).await?,
                    _ => {}
                }
            }
        }
    }
}

fn refusal(said: &Frame) -> io::Result<Vec<u8>> {
    let Message::Request { id, params, .. } = Message::parse(&said.payload).map_err(io::Error::other)? else {
        return Ok(Vec::new());
    };
    let hello: Hello = serde_json::from_value(params)?;
    let result = agree((hello.oldest, hello.newest), STRANGE_VERSIONS).map(|version| version.into());
    let answer = Message::Response { id, result }.to_json().map_err(io::Error::other)?;
    Ok([&frame::header(Kind::Rpc, 0, answer.len())[..], &answer].concat())
}

/// The guest's end of a port whose host end listens on an inherited descriptor.
fn port(number: i32) -> io::Result<OwnedFd> {
    let listener = listen(number)?;
    let (host, guest) = std::os::unix::net::UnixStream::pair()?;
    host.set_nonblocking(true)?;
    let mut inside = UnixStream::from_std(host)?;
    let mut deaf = std::env::var_os(DEAF).is_some();
    tokio::task::spawn_local(async move {
        while let Ok((mut outside, _)) = listener.accept().await {
            if std::mem::take(&mut deaf) {
                let _broken = greet_only(&mut inside, &mut outside).await;
                continue;
            }
            // Ends when the host disconnects; the next connection goes on in the middle of whatever was said.
            let _broken = carry(&mut inside, &mut outside).await;
        }
    });
    Ok(guest.into())
}

/// Passes on the greetings of both, and loses all that the host says then.
async fn greet_only(inside: &mut UnixStream, outside: &mut UnixStream) -> io::Result<()> {
    let mut greeting = [0; frame::GREETING_LEN];
    outside.read_exact(&mut greeting).await?;
    inside.write_all(&greeting).await?;
    inside.read_exact(&mut greeting).await?;
    outside.write_all(&greeting).await?;
    tokio::io::copy(outside, &mut tokio::io::sink()).await.map(drop)
}

/// Both directions, neither waiting for the other: a host that writes before it reads would otherwise hang.
async fn carry(inside: &mut UnixStream, outside: &mut UnixStream) -> io::Result<()> {
    let ((mut from_guest, mut to_guest), (mut from_host, mut to_host)) = (inside.split(), outside.split());
    tokio::select! {
        ended = copy(&mut from_guest, &mut to_host) => ended,
        ended = copy(&mut from_host, &mut to_guest) => ended,
    }
}

async fn copy(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count]).await?,
        }
    }
}
