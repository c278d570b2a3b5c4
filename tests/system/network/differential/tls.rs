//! Beginnings of TLS: what passes for `good.example` is for none of real servers one to `evil.example`. Which host a server
//! takes a ClientHello for is seen by the certificate that it shows, which TLS 1.2 does not hide.

use std::fs;
use std::path::Path;
use std::process::Command;

use aegis_gateway::fuzz::passes;

use super::servers::{Server, Servers, Start, write};
use super::{EVIL, GOOD, answer};

/// What a certificate of the neighbour's holds.
const SHOWN: &[u8] = b"evil.example";

const NODE: &str = "const fs = require('fs'), tls = require('tls'), dir = process.argv[3];
const context = (name) => tls.createSecureContext({ key: fs.readFileSync(dir + '/' + name + '.key'), cert: fs.readFileSync(dir + '/' + name + '.pem') });
tls.createServer({ key: fs.readFileSync(dir + '/good.example.key'), cert: fs.readFileSync(dir + '/good.example.pem'), maxVersion: 'TLSv1.2',
  SNICallback: (name, done) => done(null, context(/evil/i.test(name) ? 'evil.example' : 'good.example')) })
  .on('tlsClientError', () => {}).on('error', () => {}).listen(+process.argv[2], '127.0.0.1');";

fn certificates(dir: &Path) {
    for name in [GOOD, EVIL] {
        let file = |end: &str| dir.join(format!("{name}.{end}")).display().to_string();
        let (key, certificate, subject) = (file("key"), file("pem"), format!("/CN={name}"));
        let base = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "9",
        ];
        let made = Command::new("openssl")
            .args(base)
            .args([
                "-keyout",
                &key,
                "-out",
                &certificate,
                "-subj",
                &subject,
                "-addext",
                &format!("subjectAltName=DNS:{name}"),
            ])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let both = [fs::read(&certificate).unwrap(), fs::read(&key).unwrap()].concat();
        fs::write(dir.join(format!("{name}.both")), both).unwrap();
    }
}

fn nginx(dir: &Path, port: u16) -> Start {
    certificates(dir);
    let at = dir.display();
    let host = |name: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port} ssl; server_name {name}; ssl_certificate {at}/{name}.pem; ssl_certificate_key {at}/{name}.key; }}"
        )
    };
    let text = format!(
        "daemon off; pid {at}/tls.pid; error_log {at}/tls.log; worker_processes 1; events {{}}
        http {{ access_log off; ssl_protocols TLSv1.2; client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;
        {}\n{} }}",
        host(GOOD),
        host(EVIL)
    );
    ("nginx", "nginx", vec!["-c".into(), write(dir, "tls.conf", &text)])
}

fn haproxy(dir: &Path, port: u16) -> Start {
    let at = dir.display();
    let text = format!(
        "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s
frontend f\n bind 127.0.0.1:{port} ssl crt {at}/{GOOD}.both crt {at}/{EVIL}.both ssl-max-ver TLSv1.2\n http-request return status 200\n"
    );
    ("haproxy", "haproxy", vec!["-db".into(), "-f".into(), write(dir, "tls.cfg", &text)])
}

fn caddy(dir: &Path, port: u16) -> Start {
    let at = dir.display();
    let host = |name: &str| {
        format!(
            "https://{name}:{port} {{\nbind 127.0.0.1\ntls {at}/{name}.pem {at}/{name}.key {{\nprotocols tls1.2 tls1.2\n}}\nrespond hello\n}}\n"
        )
    };
    let head = format!("{{\nadmin off\nauto_https off\nstorage file_system {at}\n}}\n");
    let file = write(dir, "tls.caddy", &[head, host(GOOD), host(EVIL)].concat());
    ("caddy", "caddy", ["run", "--adapter", "caddyfile", "--config", &file].map(str::to_owned).to_vec())
}

fn node(dir: &Path, port: u16) -> Start {
    let file = write(dir, "tls.js", NODE);
    ("node", "node", vec![file, port.to_string(), dir.display().to_string()])
}

fn short(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap().to_be_bytes()
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &short(body.len()), body].concat()
}

/// A list of names, with the kind of each.
fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> =
        list.iter().flat_map(|(kind, name)| [&[*kind][..], &short(name.len()), name].concat()).collect();
    [&short(list.len())[..], &list].concat()
}

/// A ClientHello's message with these extensions besides those that it takes.
fn message(more: &[Vec<u8>]) -> Vec<u8> {
    let base = [
        extension(10, &[0, 4, 0, 0x1d, 0, 0x17]),
        extension(11, &[1, 0]),
        extension(13, &[0, 6, 4, 3, 5, 3, 8, 4]),
    ];
    let extensions = [base.concat(), more.concat()].concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2c, 1, 0]);
    body.extend(short(extensions.len()));
    body.extend(extensions);
    [&[1, 0][..], &short(body.len()), &body].concat()
}

fn records(message: &[u8], version: [u8; 2], most: usize) -> Vec<u8> {
    message
        .chunks(most)
        .flat_map(|part| [&[22, version[0], version[1]][..], &short(part.len()), part].concat())
        .collect()
}

fn sni(name: &str) -> Vec<u8> {
    extension(0, &names(&[(0, name.as_bytes())]))
}

fn corpus() -> Vec<Vec<u8>> {
    let whole = |more: &[Vec<u8>]| records(&message(more), [3, 1], 16_000);
    let (good, evil) = (whole(&[sni(GOOD)]), whole(&[sni(EVIL)]));
    let list = |list: &[(u8, &[u8])]| whole(&[extension(0, &names(list))]);
    let (g, e) = (GOOD.as_bytes(), EVIL.as_bytes());
    let mut all = vec![
        whole(&[sni(GOOD), sni(EVIL)]),
        whole(&[sni(EVIL), sni(GOOD)]),
        list(&[(0, g), (0, e)]),
        list(&[(0, e), (0, g)]),
        list(&[(1, g), (0, e)]),
        list(&[(0, b"evil.example.")]),
        list(&[(0, b"good.example\0.evil.example")]),
        list(&[(0, b"evil.example\0good.example")]),
        whole(&[sni("EVIL.example")]),
        [good.as_slice(), &evil].concat(),
        records(&[message(&[sni(GOOD)]), message(&[sni(EVIL)])].concat(), [3, 1], 16_000),
        records(&[message(&[sni(GOOD)]), message(&[sni(EVIL)])].concat(), [3, 1], 30),
        [b"\r\n", evil.as_slice()].concat(),
        [b"PROXY TCP4 1.2.3.4 1.2.3.4 1 443\r\n", evil.as_slice()].concat(),
        [&[0x80, 0x2e, 1, 3, 3, 0, 3, 0, 0, 0, 16, 0, 0xc0, 0x2b][..], &[7; 16], &evil].concat(),
    ];
    for before in [
        &[21, 3, 1, 0, 2, 1, 0][..],
        &[20, 3, 3, 0, 1, 1],
        &[22, 3, 1, 0, 0],
        &[22, 3, 1, 0, 4, 0, 0, 0, 0],
        &[23, 3, 3, 0, 1, 0],
        &[24, 3, 3, 0, 3, 1, 0, 0],
    ] {
        all.extend([
            [before, good.as_slice()].concat(),
            [before, evil.as_slice()].concat(),
            [before, before, evil.as_slice()].concat(),
        ]);
    }
    for name in [GOOD, EVIL] {
        all.extend([1, 2, 4, 5, 50].map(|most| records(&message(&[sni(name)]), [3, 1], most)));
        all.extend(
            [[3, 0], [3, 3], [3, 4], [2, 0], [0, 0]]
                .map(|version| records(&message(&[sni(name)]), version, 16_000)),
        );
    }
    // Each byte changed, of such as have the other name in something that may turn into a list of names.
    for base in [
        whole(&[sni(GOOD), extension(0x1000, &names(&[(0, e)]))]),
        whole(&[extension(0x1000, &names(&[(0, g)])), sni(EVIL)]),
    ] {
        for at in 0..base.len() {
            for change in [1, 2, 4, 0x10, 0x80] {
                let mut changed = base.clone();
                changed[at] ^= change;
                all.push(changed);
            }
        }
    }
    all
}

fn shows_evil(server: &Server, bytes: &[u8]) -> bool {
    answer(server, bytes).windows(SHOWN.len()).any(|part| part == SHOWN)
}

#[test]
fn what_any_server_takes_for_a_greeting_of_a_name_that_is_not_allowed_does_not_pass() {
    let servers = Servers::start(&[nginx, haproxy, caddy, node]);
    let plain = |name: &str| records(&message(&[sni(name)]), [3, 1], 16_000);
    for server in &servers.all {
        assert!(
            shows_evil(server, &plain(EVIL)) && !shows_evil(server, &plain(GOOD)),
            "{} tells them apart",
            server.name
        );
    }
    assert_eq!(passes(&plain(GOOD), 3, true, GOOD), plain(GOOD));
    let mut passed = 0;
    for bytes in corpus() {
        for (piece, strict) in [(usize::MAX, true), (1, true), (usize::MAX, false)] {
            let pass = passes(&bytes, piece, strict, GOOD);
            if pass.is_empty() {
                continue;
            }
            passed += 1;
            if piece == 1 {
                // That it makes no difference is seen elsewhere.
                continue;
            }
            for server in &servers.all {
                assert!(!shows_evil(server, &pass), "{} shows its certificate for {pass:x?}", server.name);
            }
        }
    }
    assert!(passed > 100, "{passed}");
}
