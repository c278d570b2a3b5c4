//! Tools of developers over an instance's network.

use std::io::{Read, Write};
use std::time::Duration;

use aegis_tests::Daemon;
use aegis_tests::lab::Lab;

use crate::network::{said, sh, start};

/// Makes what package managers fetch, below `/srv/www` of a guest.
const SHELVES: &str = r#"set -e
mkdir -p /srv/www/simple/hello /srv/www/deb /srv/www/npm
cd /srv
git init -q -b main origin
cd origin
echo one > f
git add .
git -c user.email=a@b.c -c user.name=n commit -q -m one
git clone -q --bare . /srv/www/repo.git
git -C /srv/www/repo.git update-server-info
cd ..
python3 - <<'E'
import zipfile
files = {'hello.py': 'x = 42\n', 'hello-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: hello\nVersion: 1.0\n',
  'hello-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n'}
record = ''.join(f'{n},,\n' for n in files) + 'hello-1.0.dist-info/RECORD,,\n'
with zipfile.ZipFile('/srv/www/simple/hello/hello-1.0-py3-none-any.whl', 'w') as z:
  for n, t in {**files, 'hello-1.0.dist-info/RECORD': record}.items(): z.writestr(n, t)
E
echo '<a href=hello-1.0-py3-none-any.whl>hello-1.0-py3-none-any.whl</a>' > www/simple/hello/index.html
mkdir -p d/DEBIAN d/opt
echo hi > d/opt/hello
printf 'Package: hello-there\nVersion: 1\nArchitecture: all\nMaintainer: n <a@b.c>\nDescription: d\n' > d/DEBIAN/control
dpkg-deb -b d www/deb/hello-there.deb > /dev/null
(cat d/DEBIAN/control; echo Filename: ./hello-there.deb; echo Size: $(stat -c %s www/deb/hello-there.deb)
 echo SHA256: $(sha256sum www/deb/hello-there.deb | cut -d' ' -f1)) > www/deb/Packages
mkdir package
echo '{"name":"left","version":"1.0.0"}' > package/package.json
echo 'module.exports=42' > package/index.js
tar -czf www/npm/left-1.0.0.tgz package
echo '{"name":"left","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"left","version":"1.0.0","dist":{"tarball":"https://good.example/npm/left-1.0.0.tgz"}}}}' > www/npm/left
"#;

/// Installs a package of Debian's kind, in the guest.
const APT: &str = r#"echo 'deb [trusted=yes] https://good.example/deb ./' > /etc/apt/sources.list
rm -f /etc/apt/sources.list.d/*
opts="-o Acquire::https::CaInfo=$SSL_CERT_FILE"
apt-get $opts update -qq > /tmp/apt 2>&1 && apt-get $opts install -qq -y hello-there >> /tmp/apt 2>&1 && cat /opt/hello || cat /tmp/apt"#;

const PIP: &str = "pip install -q --no-cache-dir --break-system-packages --root-user-action=ignore \
    --index-url https://good.example/simple hello 2>&1; python3 -c 'import hello; print(hello.x)'";

#[test]
fn developers_tools_work_over_it_and_trust_whom_the_host_trusts() {
    let mut lab = Lab::new();
    let (root, authority) = lab.web();
    let daemon = Daemon::start_on_with(&lab, "", &[("SSL_CERT_FILE", authority.to_str().unwrap())]);
    let (mounts, node) = crate::workspace_tools::node();
    let mounts = mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]);
    let options: Vec<&str> =
        ["--trust-host-cas", "--allow", "good.example"].into_iter().chain(mounts).collect();
    start(&daemon, "a", &options);
    let made = sh(&daemon, "a", SHELVES);
    assert_eq!(made.code, 0, "{}", made.err());
    assert_ne!(daemon.ok(&["cp", "a:/srv/www/.", root.to_str().unwrap()]), "-");
    let npm = format!(
        "{node} mkdir -p app; cd app; npm install --silent --registry https://good.example/npm/ left
        node -e 'console.log(require(\"left\"))'"
    );
    for (what, script, expected) in [
        ("curl", "curl -sS -w '%{http_version}' https://good.example/hello", "hello from the world\n2"),
        ("git", "git clone -q https://good.example/repo.git c && cat c/f", "one\n"),
        ("pip", PIP, "42\n"),
        ("apt", APT, "hi\n"),
        ("npm", &npm, "42\n"),
    ] {
        let done = sh(&daemon, "a", &format!("mkdir -p /srv/w; cd /srv/w; {script}"));
        assert!(done.out().ends_with(expected), "{what}: {}{}", done.out(), done.err());
    }
}

/// A server that agrees to speak WebSocket, and then sends frames for two seconds.
fn chat(mut client: std::net::TcpStream) {
    let head = aegis_tests::read_until(&mut client, "\r\n\r\n");
    assert!(head.contains("Upgrade: websocket"));
    client.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n").unwrap();
    let mut first = [0; 6];
    client.read_exact(&mut first).unwrap();
    for number in 0..20u8 {
        std::thread::sleep(Duration::from_millis(100));
        client.write_all(&[0x82, 1, number]).unwrap();
    }
}

const CHAT: &str = r"python3 - <<'E'
import socket
s = socket.create_connection(('good.example', 80), 20)
s.sendall(b'GET /chat HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
head = b''
while not head.endswith(b'\r\n\r\n'): head += s.recv(1)
s.sendall(bytes([0x82, 0x80, 0, 0, 0, 0]))
got = b''
while True:
    part = s.recv(100)
    if not part: break
    got += part
print(head.split()[1].decode(), len(got) // 3, got[-1])
E";

#[test]
fn a_websocket_is_let_through_by_its_name_and_goes_on() {
    let lab = Lab::new();
    let server = lab.listen("203.0.113.1:80");
    // Ends with the test.
    std::thread::spawn(move || {
        for client in server.incoming().flatten() {
            std::thread::spawn(move || chat(client));
        }
    });
    let daemon = Daemon::start_on(&lab, "");
    start(&daemon, "a", &["--allow", "good.example"]);
    assert_eq!(said(&daemon, "a", CHAT), "101 20 19\n");
}
