//! A machine of libkrun's whose process runs, or has just ended.

use std::io;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::configuration::socket_name;
use crate::monitor::Monitor;
use crate::vsock::directory::{Patience, SocketDirectory};
use crate::{End, Endpoint, Machine, MachineHandle, VmmError};

#[derive(Debug)]
pub(super) struct LibkrunMachine {
    monitor: Monitor,
    sockets: SocketDirectory,
    handle: MachineHandle,
}

impl LibkrunMachine {
    pub(super) fn new(monitor: Monitor, sockets: SocketDirectory, handle: MachineHandle) -> LibkrunMachine {
        LibkrunMachine { monitor, sockets, handle }
    }
}

/// Connects to a socket whose connections go to a port of the guest, as soon as somebody there takes one and says a byte.
async fn connect(sockets: &SocketDirectory, name: &str) -> io::Result<UnixStream> {
    let mut patience = Patience::new();
    loop {
        let mut stream = sockets.connect(name).await?;
        match stream.read(&mut [0]).await {
            Ok(1) => return Ok(stream),
            // Nobody listens there yet.
            Ok(_) | Err(_) => patience.wait().await,
        }
    }
}

#[async_trait]
impl Machine for LibkrunMachine {
    fn handle(&self) -> MachineHandle {
        self.handle.clone()
    }

    async fn dial(&self, endpoint: Endpoint) -> Result<UnixStream, VmmError> {
        let connecting = async { connect(&self.sockets, &socket_name(endpoint)).await };
        self.monitor.while_it_lives("connect to the machine", connecting).await
    }

    /// libkrun knows no pause: all threads of its process stand still, those that execute the guest among them.
    async fn pause(&self) -> Result<(), VmmError> {
        self.monitor.suspend().map_err(VmmError::io("stop the machine's process"))
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.monitor.proceed().map_err(VmmError::io("continue the machine's process"))
    }

    async fn is_paused(&self) -> Result<bool, VmmError> {
        Ok(self.monitor.is_suspended())
    }

    async fn stop(&self) {
        self.monitor.process.kill().await;
    }

    async fn ended(&self) -> End {
        self.monitor.ended().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_counts_when_the_guest_has_taken_it_and_what_it_says_next_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockets");
        let sockets = SocketDirectory::make(&path).unwrap();
        let name = socket_name(Endpoint::Control);
        let listener = UnixListener::bind(path.join(&name)).unwrap();
        let monitor = async {
            // What libkrun does for a port on which nobody listens.
            drop(listener.accept().await.unwrap());
            let (mut guest, _) = listener.accept().await.unwrap();
            guest.write_all(b"\0hello").await.unwrap();
        };
        let (stream, ()) = tokio::join!(connect(&sockets, &name), monitor);
        let mut said = String::new();
        stream.unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }
}
