//! Both ends of a gRPC conversation by a library that people use: messages are bytes, and the server says each again.

use std::convert::Infallible;
use std::net::TcpListener as StdListener;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Any failure.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many small messages are sent, one by one, and how long after one the next.
const SMALL: usize = 100;
const PAUSE: Duration = Duration::from_millis(30);
/// How many large ones follow at once, and how large they are.
const LARGE: usize = 500;
const SIZE: usize = 64 << 10;

/// Messages as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Plain;
    type Decoder = Plain;

    fn encoder(&mut self) -> Plain {
        Plain
    }

    fn decoder(&mut self) -> Plain {
        Plain
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Says everything again to whoever connects.
///
/// # Errors
/// If it cannot be served.
pub async fn serve(listener: StdListener) -> Result<(), Failure> {
    listener.set_nonblocking(true)?;
    let incoming = TcpListenerStream::new(TcpListener::from_std(listener)?);
    let again = tower::service_fn(|request: Request<Streaming<Bytes>>| async {
        Ok::<_, Status>(Response::new(request.into_inner()))
    });
    let service = tower::service_fn(move |request| async move {
        Ok::<_, Infallible>(tonic::server::Grpc::new(Plain).streaming(again, request).await)
    });
    Ok(Server::builder().serve_with_incoming(service, incoming).await?)
}

/// Talks for a while, and tells how many messages and bytes came back.
///
/// # Errors
/// If something does not come back as it was sent.
pub async fn talk(to: &str) -> Result<(usize, usize), Failure> {
    let channel = Endpoint::from_shared(to.to_owned())?.connect().await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let (say, said) = mpsc::channel(4);
    let speaker = tokio::spawn(async move {
        for number in 0..SMALL + LARGE {
            let message = if number < SMALL {
                tokio::time::sleep(PAUSE).await;
                Bytes::from(number.to_string())
            } else {
                Bytes::from(vec![u8::try_from(number % 256).unwrap_or(0); SIZE])
            };
            if say.send(message).await.is_err() {
                return;
            }
        }
    });
    let path = PathAndQuery::from_static("/aegis.test.Peer/Talk");
    let mut answers =
        client.streaming(Request::new(ReceiverStream::new(said)), path, Plain).await?.into_inner();
    let (mut count, mut bytes) = (0, 0);
    while let Some(answer) = answers.message().await? {
        let expected = if count < SMALL { count.to_string().len() } else { SIZE };
        if answer.len() != expected {
            return Err(format!("message {count} came back as {} bytes", answer.len()).into());
        }
        (count, bytes) = (count + 1, bytes + answer.len());
    }
    speaker.await?;
    Ok((count, bytes))
}
