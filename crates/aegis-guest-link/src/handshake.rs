//! The greeting at the beginning of a session, on either pipe.

use aegis_guest_protocol::frame::{self, Decoder, GUEST_MARKER, HOST_MARKER, Item, MAX_PAYLOAD, Nonce};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::LinkError;

/// A greeted pipe: the stream, and what arrived behind the greeting.
pub(crate) struct Greeted {
    pub(crate) stream: UnixStream,
    pub(crate) decoder: Decoder,
}

pub(crate) async fn greet(
    mut stream: UnixStream,
    nonce: Nonce,
    returning: bool,
) -> Result<Greeted, LinkError> {
    if returning {
        // Completes whatever frame the last session left unfinished; see the protocol crate.
        stream.write_all(&vec![0; MAX_PAYLOAD]).await?;
    }
    stream.write_all(&frame::greeting(&HOST_MARKER, &nonce)).await?;
    let mut decoder = Decoder::new(GUEST_MARKER);
    loop {
        while let Some(item) = decoder.next_item() {
            if item == Item::Greeting(nonce) {
                return Ok(Greeted { stream, decoder });
            }
        }
        if stream.read_buf(decoder.buffer_mut()).await? == 0 {
            return Err(LinkError::Closed);
        }
    }
}
