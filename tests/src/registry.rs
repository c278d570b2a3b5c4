//! A real registry for a test, images for it made by real tools, and a proxy that makes it misbehave.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

pub use crate::oci_layout::Layout;
use crate::tool::text;
pub use crate::tool::tool;
use crate::{DEADLINE, eventually};

/// How a registry is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// Plain HTTP, for everybody.
    None,
    /// TLS with a CA of its own, and a password.
    TlsAndPassword,
}

/// User of a protected registry.
pub const USER: &str = "tester";
/// Password of a protected registry.
pub const PASSWORD: &str = "pass:word";

/// A registry: Debian's `docker-registry`, in a directory of its own.
#[derive(Debug)]
pub struct Registry {
    dir: tempfile::TempDir,
    process: Child,
    /// Its name in references.
    pub name: String,
    protection: Protection,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

impl Registry {
    /// Starts one.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(protection: Protection) -> Registry {
        let dir = tempfile::tempdir().expect("make a directory");
        // Another test may take the port in between: then there is another one.
        for _ in 0..10 {
            let port =
                TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).expect("a port").port();
            if let Some(process) = serve(dir.path(), port, protection) {
                return Registry { dir, process, name: format!("127.0.0.1:{port}"), protection };
            }
        }
        panic!("no port for a registry");
    }

    /// A file with the certificate that its own is signed with.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A whole reference.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.name)
    }

    /// What the daemon must be told of it.
    #[must_use]
    pub fn config(&self) -> String {
        match self.protection {
            Protection::None => format!("[registry.\"{}\"]\nplain_http = true\n", self.name),
            Protection::TlsAndPassword => format!("[registry.\"{}\"]\nca = {:?}\n", self.name, self.ca()),
        }
    }

    /// Copies an image of a layout into it.
    ///
    /// # Panics
    /// If that fails.
    pub fn push(&self, layout: &Layout, tag: &str, name: &str, more: &[&str]) {
        let from = format!("oci:{}:{tag}", layout.path());
        let to = format!("docker://{}", self.reference(name));
        let credentials = format!("{USER}:{PASSWORD}");
        let mut arguments = vec!["copy", "--quiet", "--dest-tls-verify=false"];
        if self.protection == Protection::TlsAndPassword {
            arguments.extend(["--dest-creds", &credentials]);
        }
        arguments.extend(more);
        arguments.extend([from.as_str(), to.as_str()]);
        tool("skopeo", &arguments);
    }
}

impl Registry {
    /// Digest and size of an image's manifest.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn manifest(&self, name: &str) -> (String, usize) {
        let image = format!("docker://{}", self.reference(name));
        let digest = tool("skopeo", &["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &image]);
        let size = tool("skopeo", &["inspect", "--tls-verify=false", "--raw", &image]).len();
        (digest.trim().to_owned(), size)
    }

    /// Binds images of a repository, each with its processor, to one for several platforms.
    ///
    /// # Panics
    /// If the registry refuses it.
    pub fn bind(&self, repository: &str, tag: &str, images: &[(&str, &str)]) {
        let entry = |(architecture, name): &(&str, &str)| {
            let (digest, size) = self.manifest(&format!("{repository}:{name}"));
            format!(
                r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
            )
        };
        let kind = "application/vnd.oci.image.index.v1+json";
        let entries = images.iter().map(entry).collect::<Vec<_>>().join(",");
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{entries}]}}"#);
        let url = format!("http://{}/v2/{repository}/manifests/{tag}", self.name);
        let header = format!("Content-Type: {kind}");
        tool("curl", &["-sSf", "-X", "PUT", "-H", &header, "--data-binary", &index, &url]);
    }
}

fn serve(dir: &Path, port: u16, protection: Protection) -> Option<Child> {
    let mut config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        text(&dir.join("data"))
    );
    if protection == Protection::TlsAndPassword {
        certify(dir);
        let at = |name: &str| text(&dir.join(name)).to_owned();
        config.push_str(&format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            at("server.pem"),
            at("server.key")
        ));
        let line = tool("htpasswd", &["-Bbn", USER, PASSWORD]);
        std::fs::write(dir.join("htpasswd"), line.trim()).expect("write the passwords");
        config.push_str(&format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", at("htpasswd")));
    }
    let path = dir.join("config.yml");
    std::fs::write(&path, config).expect("write the settings");
    let mut process = Command::new("docker-registry");
    process.args(["serve", text(&path)]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = process.spawn().expect("docker-registry; see scripts/dependencies test");
    let mut ended = false;
    eventually("the registry listens", DEADLINE, || {
        ended = process.try_wait().expect("look after the registry").is_some();
        ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (!ended).then_some(process)
}

/// A CA, and a server's certificate of it.
fn certify(dir: &Path) {
    let at = |name: &str| text(&dir.join(name)).to_owned();
    let (ca, ca_key, key, request, server) =
        (at("ca.pem"), at("ca.key"), at("server.key"), at("r"), at("server.pem"));
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca_arguments = ["-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", &ca_key, "-out", &ca];
    tool("openssl", &[&["req"], &new_key[..], &ca_arguments[..]].concat());
    tool(
        "openssl",
        &[&["req"], &new_key[..], &["-subj", "/CN=registry", "-keyout", &key, "-out", &request]].concat(),
    );
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("write the extensions");
    let extensions = at("ext");
    let sign =
        ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    tool("openssl", &[&sign[..], &["-extfile", &extensions, "-out", &server]].concat());
}

/// What a proxy does to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misdeed {
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
    pub fn start(registry: &Registry, misdeed: Misdeed) -> Proxy {
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
    misdeed: Misdeed,
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
    if misdeed == Misdeed::Limit && before < 2 {
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        return refuse(&client, "429 Too Many Requests", "Retry-After: 1\r\n", body);
    }
    if misdeed == Misdeed::Token {
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
    if misdeed == Misdeed::Redirect && is_blob {
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
    misdeed: Misdeed,
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
        Misdeed::Endless if path.contains("/manifests/") => {
            client.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{",
            )?;
            loop {
                client.write_all(&[b' '; 4096])?;
            }
        }
        Misdeed::Longer if blob && body.len() > 1000 => {
            client.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            client.write_all(body)?;
            client.write_all(body)?;
            return Ok(body.len() * 2);
        }
        Misdeed::Lie if blob && body.len() > 1000 => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Misdeed::Cut(most) if blob => {
            client.write_all(head)?;
            let part = &body[..body.len().min(most)];
            client.write_all(part)?;
            return Ok(part.len());
        }
        Misdeed::Slow if blob => {
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
