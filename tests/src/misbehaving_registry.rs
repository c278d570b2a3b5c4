//! A proxy before a registry that misbehaves in one way, and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use crate::registry::Registry;

/// What a proxy does to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Nothing.
    None,
    /// Breaks each body of a blob off after so many bytes.
    Cut(usize),
    /// Changes a byte in the middle of blobs.
    Lie,
    /// Sends a manifest without an end.
    Endless,
    /// Sends blobs that are longer than promised.
    Longer,
    /// Answers the first two requests of each kind with 429.
    Limit,
    /// Sends those who want blobs elsewhere: to itself, by another path.
    Redirect,
    /// Wants a token, which it gives to the user with the password.
    Token,
    /// Is slow: waits between pieces of blobs.
    Slow,
}

/// One request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// Its header `Range`.
    pub range: Option<String>,
    /// Bytes of the body that it was answered with.
    pub sent: usize,
}

/// A proxy in front of a registry.
#[derive(Debug)]
pub struct Proxy {
    /// Its name in references.
    pub name: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Proxy {
    /// Starts one, which ends with the test's process.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start(registry: &Registry, misdeed: Misbehaviour) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = listener.local_addr().expect("an address").to_string();
        let (seen, upstream) = (Arc::<Mutex<Vec<Seen>>>::default(), registry.name.clone());
        let (all, own) = (Arc::clone(&seen), name.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (all, own, upstream) = (Arc::clone(&all), own.clone(), upstream.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no failure.
                    let _gone = answer(client, &upstream, &own, misdeed, &all);
                });
            }
        });
        Proxy { name, seen }
    }

    /// What the daemon must be told of it.
    #[must_use]
    pub fn config(&self) -> String {
        format!("[registry.\"{}\"]\nplain_http = true\n", self.name)
    }

    /// All requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A request's first line and the headers that matter here.
struct Request {
    path: String,
    range: Option<String>,
    authorization: Option<String>,
    headers: String,
}

fn read_request(client: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(client.try_clone()?);
    let (mut line, mut headers) = (String::new(), String::new());
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
    // As asked of a forward proxy.
    let path = path
        .strip_prefix("http://")
        .and_then(|rest| rest.find('/').map(|at| rest[at..].to_owned()))
        .unwrap_or(path);
    let mut request = Request { path, range: None, authorization: None, headers: String::new() };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        let value = line.split_once(':').map(|(_, value)| value.trim().to_owned());
        if lower.starts_with("range:") {
            request.range = value;
        } else if lower.starts_with("authorization:") {
            request.authorization = value;
        } else if !lower.starts_with("host:") && !lower.starts_with("connection:") {
            headers.push_str(&line);
        }
    }
    request.headers = headers;
    Ok(request)
}

fn refuse(mut client: &TcpStream, status: &str, headers: &str, body: &str) -> std::io::Result<()> {
    let len = body.len();
    write!(client, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}")
}

fn answer(
    client: TcpStream,
    upstream: &str,
    own: &str,
    misdeed: Misbehaviour,
    seen: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let mut request = read_request(&client)?;
    let is_blob = request.path.contains("/blobs/");
    let (before, number) = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.iter().filter(|one| one.path.contains("/blobs/") == is_blob).count();
        seen.push(Seen { path: request.path.clone(), range: request.range.clone(), sent: 0 });
        (before, seen.len() - 1)
    };
    if misdeed == Misbehaviour::Limit && before < 2 {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        return refuse(&client, "429 Too Many Requests", "Retry-After: 1\r\n", body);
    }
    if misdeed == Misbehaviour::Token {
        if request.path.starts_with("/token") {
            // What `tester:pass:word` is in base64.
            let known = request.authorization.as_deref() == Some("Basic dGVzdGVyOnBhc3M6d29yZA==");
            let scoped = request.path.contains("scope=repository%3A");
            return match known && scoped {
                true => refuse(&client, "200 OK", "", r#"{"token":"secret-token","expires_in":60}"#),
                false => refuse(&client, "401 Unauthorized", "", "{}"),
            };
        }
        if request.authorization.as_deref() != Some("Bearer secret-token") {
            let name =
                request.path.trim_start_matches("/v2/").split("/manifests/").next().unwrap_or_default();
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:{name}:pull\"\r\n"
            );
            return refuse(&client, "401 Unauthorized", &challenge, "{}");
        }
    }
    if misdeed == Misbehaviour::Redirect && is_blob {
        match request.path.strip_prefix("/elsewhere") {
            None => {
                let to = format!("Location: http://{own}/elsewhere{}\r\n", request.path);
                return refuse(&client, "307 Temporary Redirect", &to, "");
            }
            Some(path) => request.path = path.to_owned(),
        }
    }
    let sent = forward(&client, upstream, &request, misdeed)?;
    if let Some(one) = seen.lock().unwrap_or_else(PoisonError::into_inner).get_mut(number) {
        one.sent = sent;
    }
    client.shutdown(Shutdown::Both)
}

fn forward(
    mut client: &TcpStream,
    upstream: &str,
    request: &Request,
    misdeed: Misbehaviour,
) -> std::io::Result<usize> {
    let mut server = TcpStream::connect(upstream)?;
    let range = request.range.as_ref().map(|range| format!("Range: {range}\r\n")).unwrap_or_default();
    let (path, headers) = (&request.path, &request.headers);
    write!(server, "GET {path} HTTP/1.1\r\nHost: {upstream}\r\nConnection: close\r\n{range}{headers}\r\n")?;
    let mut whole = Vec::new();
    server.read_to_end(&mut whole)?;
    let end = whole.windows(4).position(|four| four == b"\r\n\r\n").map_or(whole.len(), |at| at + 4);
    let (head, body) = whole.split_at_mut(end);
    let blob = path.contains("/blobs/") && head.starts_with(b"HTTP/1.1 20");
    match misdeed {
        Misbehaviour::Endless if path.contains("/manifests/") => {
            client.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{",
            )?;
            loop {
                client.write_all(&[b' '; 4096])?;
            }
        }
        Misbehaviour::Longer if blob && body.len() > 1000 => {
            client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            client.write_all(body)?;
            client.write_all(body)?;
            return Ok(body.len() * 2);
        }
        Misbehaviour::Lie if blob && body.len() > 1000 => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Misbehaviour::Cut(most) if blob => {
            client.write_all(head)?;
            let part = &body[..body.len().min(most)];
            client.write_all(part)?;
            return Ok(part.len());
        }
        Misbehaviour::Slow if blob => {
            client.write_all(head)?;
            for piece in body.chunks(16 << 10) {
                client.write_all(piece)?;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            return Ok(body.len());
        }
        _ => {}
    }
    client.write_all(head)?;
    client.write_all(body)?;
    Ok(body.len())
}
