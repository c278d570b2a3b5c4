//! A host with a world around it, in network namespaces: name servers, web servers, a LAN and a metadata service that
//! are nobody's. Nothing leaves the machine.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{DEADLINE, eventually};

/// Addresses of the world, all of them on one machine behind the host's only link.
const ADDRESSES: [&str; 12] = [
    "203.0.113.1/32",
    "203.0.113.2/32",
    "203.0.113.53/32",
    "203.0.113.101/32",
    "203.0.113.102/32",
    "203.0.113.153/32",
    "198.51.100.7/32",
    "10.20.0.5/32",
    "169.254.169.254/32",
    "2001:db8:113::1/128",
    "2001:db8:113::53/128",
    "fd20::5/128",
];
/// The host's own address on its link.
pub const HOST: &str = "192.0.2.2";
/// The host's own IPv6 address on its link.
pub const HOST_V6: &str = "2001:db8:2::2";
/// The name server.
pub const NAME_SERVER: &str = "203.0.113.53";
/// Its IPv6 address.
const NAME_SERVER_V6: &str = "2001:db8:113::53";
/// Names, and where they point.
const NAMES: &str = "203.0.113.1 good.example www.good.example neighbour.example api.example.com\n2001:db8:113::1 good.example six.example\n\
    10.20.0.5 inside.example\n203.0.113.2 other.example www.example.org\n169.254.169.254 meta.example\n127.0.0.1 loop.example\n";

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Names that no other lab has.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// See the module. Everything ends with it.
#[derive(Debug)]
pub struct Lab {
    host: String,
    world: String,
    dir: tempfile::TempDir,
    servers: Vec<Child>,
}

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/dependencies test"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Default for Lab {
    fn default() -> Lab {
        Lab::new()
    }
}

impl Lab {
    /// Makes one.
    ///
    /// # Panics
    /// If that takes more than this machine lets its tests do: they make network namespaces, as root.
    #[must_use]
    pub fn new() -> Lab {
        let unique = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (host, world) = (format!("aegis-h{unique}"), format!("aegis-w{unique}"));
        let dir = tempfile::Builder::new().prefix("aegis-lab").tempdir_in("/tmp").expect("make a directory");
        let lab = Lab { host, world, dir, servers: Vec::new() };
        let (h, w) = (lab.host.as_str(), lab.world.as_str());
        run("ip", &["netns", "add", h]);
        run("ip", &["netns", "add", w]);
        run("ip", &["link", "add", "up0", "netns", h, "type", "veth", "peer", "name", "down0", "netns", w]);
        for (space, link, v4, v6) in
            [(h, "up0", "192.0.2.2/24", "2001:db8:2::2/64"), (w, "down0", "192.0.2.1/24", "2001:db8:2::1/64")]
        {
            run("ip", &["-n", space, "link", "set", "lo", "up"]);
            run("ip", &["-n", space, "addr", "add", v4, "dev", link]);
            run("ip", &["-n", space, "addr", "add", v6, "dev", link, "nodad"]);
            run("ip", &["-n", space, "link", "set", link, "up"]);
        }
        for address in ADDRESSES {
            run("ip", &["-n", w, "addr", "add", address, "dev", "lo"]);
        }
        run("ip", &["-n", h, "route", "add", "default", "via", "192.0.2.1"]);
        run("ip", &["-n", h, "-6", "route", "add", "default", "via", "2001:db8:2::1"]);
        // As systemd sets it.
        run("ip", &["netns", "exec", h, "sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647"]);
        let text = format!("nameserver {NAME_SERVER}\nsearch example\n");
        for name in [h, w] {
            let etc = Path::new("/etc/netns").join(name);
            std::fs::create_dir_all(&etc).expect("make an /etc");
            std::fs::write(etc.join("resolv.conf"), &text).expect("write resolv.conf");
        }
        lab.with_names()
    }

    /// Starts the name server.
    fn with_names(mut self) -> Lab {
        let hosts = self.dir.path().join("hosts");
        std::fs::write(&hosts, NAMES).expect("write names");
        let addn = format!("--addn-hosts={}", hosts.display());
        let listen = format!("--listen-address={NAME_SERVER},203.0.113.153,{NAME_SERVER_V6}");
        // The usual place belongs to the machine's own.
        let pid = format!("--pid-file={}", self.dir.path().join("dnsmasq.pid").display());
        let arguments = [
            "-k",
            "-C",
            "/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--local-ttl=5",
            "--address=/any.example/203.0.113.1",
            "-u",
            "root",
            &addn,
            &listen,
            &pid,
        ];
        self.start("dnsmasq", &arguments);
        let server: SocketAddr = (NAME_SERVER.parse::<IpAddr>().expect("an address"), 53).into();
        eventually("the name server answers", DEADLINE, || self.connect(server).is_ok());
        self
    }

    /// Changes what a name means, from now on.
    ///
    /// # Panics
    /// If that fails.
    pub fn rename(&self, from: &str, to: &str) {
        let text = NAMES.replace(from, to);
        std::fs::write(self.dir.path().join("hosts"), text).expect("write names");
        for server in &self.servers {
            let pid = rustix::process::Pid::from_child(server);
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
    }

    /// Starts a server in the world.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&mut self, program: &str, arguments: &[&str]) {
        let log = std::fs::File::create(self.dir.path().join(format!("{program}.log"))).expect("make a log");
        let errors = log.try_clone().expect("a log");
        let child = Command::new("ip")
            .args(["netns", "exec", &self.world, program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn();
        self.servers.push(child.unwrap_or_else(|error| panic!("{program}: {error}")));
    }

    /// Serves `/srv` below the lab's directory as `http://` and `https://`, the latter as any name of `example`. Returns
    /// the directory, and the certificate of the authority to trust.
    ///
    /// # Panics
    /// If that fails.
    pub fn web(&mut self) -> (PathBuf, PathBuf) {
        let dir = self.dir.path().to_owned();
        let path = |name: &str| dir.join(name).display().to_string();
        let root = dir.join("srv");
        std::fs::create_dir_all(&root).expect("make a directory");
        std::fs::write(root.join("hello"), "hello from the world\n").expect("write a file");
        let (key, certificate) = (path("ca.key"), path("ca.pem"));
        run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                &key,
                "-out",
                &certificate,
                "-days",
                "30",
                "-subj",
                "/CN=lab",
                "-addext",
                "subjectAltName=DNS:good.example,DNS:www.good.example,DNS:neighbour.example,DNS:other.example,DNS:six.example",
            ],
        );
        let config = path("nginx.conf");
        let text = format!(
            "daemon off; pid {}; error_log {} info; worker_processes 1; events {{ worker_connections 4096; }}
            http {{ access_log off; client_body_temp_path {0}.b; proxy_temp_path {0}.p; fastcgi_temp_path {0}.f; uwsgi_temp_path {0}.u; scgi_temp_path {0}.s;
            server {{ listen 80 backlog=4096; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2; ssl_certificate {certificate}; ssl_certificate_key {key};
            root {}; autoindex on; location /name {{ return 200 \"$http_host\\n\"; }} }} }}",
            path("nginx.pid"),
            path("nginx-error.log"),
            root.display(),
        );
        std::fs::write(&config, text).expect("write the configuration");
        for directory in [dir.as_path(), root.as_path()] {
            use std::os::unix::fs::PermissionsExt;
            // The server gives its rights up.
            std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755))
                .expect("open a directory");
        }
        self.start("nginx", &["-c", &config]);
        eventually("the web server answers", DEADLINE, || {
            self.connect(([203, 0, 113, 1], 80).into()).is_ok()
        });
        (root, dir.join("ca.pem"))
    }

    /// Leaves the host no way out but the proxy `192.0.2.1:3128`, which is this kind of world's only one.
    ///
    /// # Panics
    /// If that fails.
    pub fn only_by_proxy(&mut self) {
        let config = self.dir.path().join("proxy.conf");
        let text = "User root\nPort 3128\nListen 192.0.2.1\nTimeout 60\nMaxClients 100\nBasicAuth u p\nConnectPort 80\nConnectPort 443\n";
        std::fs::write(&config, text).expect("write the configuration");
        self.start("tinyproxy", &["-d", "-c", &config.display().to_string()]);
        eventually("the proxy answers", DEADLINE, || self.connect(([192, 0, 2, 1], 3128).into()).is_ok());
        let host = self.host.clone();
        run("ip", &["-n", &host, "route", "del", "default"]);
        run("ip", &["-n", &host, "-6", "route", "del", "default"]);
    }

    /// Leaves the host addresses of one family only, and a name server that it reaches by them.
    ///
    /// # Panics
    /// If that fails.
    pub fn only(&self, family: Family) {
        let (gone, server) = match family {
            Family::V4 => ("-6", NAME_SERVER),
            Family::V6 => ("-4", NAME_SERVER_V6),
        };
        run("ip", &["-n", &self.host, gone, "addr", "flush", "dev", "up0"]);
        let file = Path::new("/etc/netns").join(&self.host).join("resolv.conf");
        std::fs::write(file, format!("nameserver {server}\nsearch example\n")).expect("write resolv.conf");
    }

    /// The host's name space.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Does something in the world's name space, or in the host's.
    fn inside<T: Send>(&self, host: bool, work: impl FnOnce() -> T + Send) -> T {
        let name = if host { &self.host } else { &self.world };
        let space = std::fs::File::open(Path::new("/run/netns").join(name)).expect("the name space");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                use std::os::fd::AsFd;
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(space.as_fd(), network).expect("enter the name space");
                work()
            });
            thread.join().expect("the work")
        })
    }

    /// Connects from the world to itself.
    ///
    /// # Errors
    /// The system's.
    pub fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        self.inside(false, || TcpStream::connect(to))
    }

    /// A listening socket in the world.
    ///
    /// # Panics
    /// If the address cannot be had.
    #[must_use]
    pub fn listen(&self, at: &str) -> TcpListener {
        let listener = self.inside(false, || TcpListener::bind(at).expect("listen"));
        rustix::net::listen(&listener, 4096).expect("a long queue");
        listener
    }

    /// A listening socket on the host itself.
    ///
    /// # Panics
    /// If the address cannot be had.
    #[must_use]
    pub fn listen_on_host(&self, at: &str) -> TcpListener {
        self.inside(true, || TcpListener::bind(at).expect("listen"))
    }

    /// A datagram socket in the world.
    ///
    /// # Panics
    /// If the address cannot be had.
    #[must_use]
    pub fn datagrams(&self, at: &str) -> UdpSocket {
        self.inside(false, || UdpSocket::bind(at).expect("bind"))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let pid = rustix::process::Pid::from_child(server);
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _gone = server.wait();
        }
        for name in [&self.host, &self.world] {
            let _gone = Command::new("ip").args(["netns", "del", name]).status();
            let _gone = std::fs::remove_dir_all(Path::new("/etc/netns").join(name));
        }
    }
}
