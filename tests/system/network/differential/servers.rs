//! Real servers, each with a host `good.example` and a host `evil.example`, on ports of the loopback interface.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use aegis_tests::{DEADLINE, eventually};

const NODE: &str = "const http = require('http');
http.createServer({ insecureHTTPParser: true, requireHostHeader: false, keepAlive: true }, (request, response) => {
  const target = /^[a-z]+:\\/\\/([^\\/?]*)/i.exec(request.url);
  request.resume(); response.end('served:' + (request.headers.host || '').trim() + ' served:' + (target ? target[1].split('@').pop() : ''));
}).listen(+process.argv[2], '127.0.0.1');";

const NODE_HTTP2: &str = "const http2 = require('http2');
http2.createServer({}, (request, response) => {
  request.resume(); response.end('served:' + (request.authority || '') + ' served:' + (request.headers.host || ''));
}).listen(+process.argv[2], '127.0.0.1');";

const PYTHON: &str = "import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def reply(self):
        host = (self.headers or {}).get('Host') or ''
        target = self.path.split('://', 1)[1].split('/')[0].split('@')[-1] if '://' in self.path else ''
        body = f'served:{host.strip()} served:{target}'.encode('utf-8', 'replace')
        # As many a handler: it looks for a body only where it expects one.
        if self.command in ('POST', 'PUT'): self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_OPTIONS = do_FOO = reply
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()";

/// One of them.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    pub(super) port: u16,
    process: Child,
}

/// All of them. They end with it.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) all: Vec<Server>,
    _dir: tempfile::TempDir,
}

/// A port that nobody has.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(super) fn write(dir: &Path, name: &str, text: &str) -> String {
    let file = dir.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

/// Name, program and arguments of each.
pub(super) type Start = (&'static str, &'static str, Vec<String>);

fn nginx(dir: &Path, port: u16) -> Start {
    nginx_with(dir, port, "")
}

/// Speaks nothing else.
fn nginx_http2(dir: &Path, port: u16) -> Start {
    nginx_with(dir, port, "http2")
}

fn nginx_with(dir: &Path, port: u16, protocol: &str) -> Start {
    let at = dir.display();
    let text = format!(
        "daemon off; pid {at}/nginx.pid; error_log {at}/nginx.log; worker_processes 1; events {{}}
        http {{ access_log off; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
        ignore_invalid_headers off; underscores_in_headers on; keepalive_requests 100;
        server {{ listen 127.0.0.1:{port} {protocol} default_server; server_name good.example; return 200 \"served:$host\"; }}
        server {{ listen 127.0.0.1:{port} {protocol}; server_name evil.example; return 200 \"served:evil.example\"; }} }}"
    );
    ("nginx", "nginx", vec!["-c".into(), write(dir, "nginx.conf", &text)])
}

fn apache(dir: &Path, port: u16) -> Start {
    let at = dir.display();
    let modules: String = ["mpm_event", "authz_core", "alias", "http2"]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let host = |name: &str| {
        let pages: String = [400, 403, 404, 405, 411, 417, 501]
            .iter()
            .map(|code| format!("ErrorDocument {code} \"served:{name}\"\n"))
            .collect();
        format!("<VirtualHost *:{port}>\nServerName {name}\nRedirectMatch 404 .\n{pages}</VirtualHost>\n")
    };
    let text = format!(
        "ServerRoot {at}\nPidFile {at}/apache.pid\nErrorLog {at}/apache.log\nListen 127.0.0.1:{port}\n{modules}ServerName good.example
        Protocols h2c http/1.1\n        HttpProtocolOptions Unsafe LenientMethods Allow0.9\nUser nobody\nGroup nogroup\nDefaultRuntimeDir {at}\n{}{}",
        host("good.example"),
        host("evil.example")
    );
    ("apache2", "apache2", vec!["-X".into(), "-f".into(), write(dir, "apache.conf", &text)])
}

fn lighttpd(dir: &Path, port: u16) -> Start {
    let text = format!(
        "server.modules = ( \"mod_redirect\" )\nserver.document-root = \"{}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}
        server.http-parseopts = ( \"header-strict\" => \"disable\", \"host-strict\" => \"disable\", \"host-normalize\" => \"disable\", \"url-normalize\" => \"disable\", \"method-get-body\" => \"enable\" )
        $HTTP[\"host\"] =~ \"evil\\.example\" {{ url.redirect = ( \"\" => \"/served:evil.example\" ) }}\n",
        dir.display()
    );
    ("lighttpd", "lighttpd", vec!["-D".into(), "-f".into(), write(dir, "lighttpd.conf", &text)])
}

fn caddy(dir: &Path, port: u16) -> Start {
    let text = format!(
        "{{\nadmin off\nauto_https off\nstorage file_system {}\nservers {{\nprotocols h1 h2c\n}}\n}}\nhttp://:{port} {{\nbind 127.0.0.1\nrespond \"served:{{http.request.host}}\" 200\n}}\n",
        dir.display()
    );
    let file = write(dir, "Caddyfile", &text);
    let arguments = ["run", "--adapter", "caddyfile", "--config", &file].map(str::to_owned);
    ("caddy", "caddy", arguments.to_vec())
}

fn haproxy(dir: &Path, port: u16) -> Start {
    let text = format!(
        "global\n maxconn 100\ndefaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\n timeout http-request 2s\n option accept-invalid-http-request
frontend f\n bind 127.0.0.1:{port}\n http-request return status 200 content-type text/plain lf-string \"served:%[req.hdr(host)]\"\n"
    );
    ("haproxy", "haproxy", vec!["-db".into(), "-f".into(), write(dir, "haproxy.cfg", &text)])
}

fn busybox(dir: &Path, port: u16) -> Start {
    let script = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\nserved:%s' \"$HTTP_HOST\"\n";
    let file = write(dir, "www/cgi-bin/host", script);
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.join("www").display().to_string();
    let arguments = ["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h", &root].map(str::to_owned);
    ("busybox httpd", "busybox", arguments.to_vec())
}

fn node(dir: &Path, port: u16) -> Start {
    ("node", "node", vec![write(dir, "server.js", NODE), port.to_string()])
}

fn node_http2(dir: &Path, port: u16) -> Start {
    ("node http2", "node", vec![write(dir, "http2.js", NODE_HTTP2), port.to_string()])
}

fn python(dir: &Path, port: u16) -> Start {
    ("python http.server", "python3", vec![write(dir, "server.py", PYTHON), port.to_string()])
}

/// What writes the configuration of one of them, below a directory and for a port.
pub(super) type Make = fn(&Path, u16) -> Start;

/// Those that speak HTTP.
pub(super) const WEB: [Make; 8] = [nginx, apache, lighttpd, caddy, haproxy, busybox, node, python];

/// Those that speak HTTP/2 without TLS.
pub(super) const HTTP2: [Make; 5] = [nginx_http2, apache, caddy, haproxy, node_http2];

impl Servers {
    /// Starts them.
    ///
    /// # Panics
    /// If one is missing.
    pub(super) fn start(make: &[Make]) -> Servers {
        let dir = tempfile::Builder::new().prefix("aegis-differential").tempdir_in("/tmp").unwrap();
        let path = dir.path();
        // Some give their rights up.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        let mut all = Vec::new();
        for make in make {
            let port = free_port();
            let (name, program, arguments) = make(path, port);
            let log = fs::File::create(path.join(format!("{program}.out"))).unwrap();
            let started = Command::new(program)
                .args(&arguments)
                .env("HOME", path)
                .env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()))
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn();
            match started {
                Ok(process) => all.push(Server { name, port, process }),
                Err(error) => panic!("{program}: {error}; run scripts/dependencies test"),
            }
        }
        for server in &all {
            eventually(server.name, DEADLINE, || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, server.port)).is_ok()
            });
        }
        Servers { all, _dir: dir }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.all.iter().map(|server| server.name).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.all {
            // Those that have processes of their own end them.
            let pid = rustix::process::Pid::from_child(&server.process);
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        for server in &mut self.all {
            let _gone = server.process.wait();
        }
    }
}
