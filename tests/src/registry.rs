//! A real registry for a test, images for it made by real tools, and a proxy that makes it misbehave.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{DEADLINE, eventually};

/// Runs a tool to its end.
///
/// # Panics
/// If it fails, with its words.
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; see scripts/dependencies test"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {out}{err}");
    out.into_owned()
}

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

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
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

/// An OCI layout that `umoci` makes.
#[derive(Debug)]
pub struct Layout {
    _dir: tempfile::TempDir,
    at: String,
}

impl Layout {
    /// An empty one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn new() -> Layout {
        let dir = tempfile::tempdir().expect("make a directory");
        let at = text(&dir.path().join("layout")).to_owned();
        tool("umoci", &["init", "--layout", &at]);
        Layout { _dir: dir, at }
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.at
    }

    /// Makes an image with busybox for all the usual commands.
    ///
    /// # Panics
    /// If that fails.
    pub fn busybox(&self, tag: &str) {
        tool("umoci", &["new", "--image", &self.named(tag)]);
        self.layer(tag, |root| {
            for dir in ["bin", "etc", "root"] {
                std::fs::create_dir(root.join(dir)).expect("make a directory");
            }
            std::fs::copy("/bin/busybox", root.join("bin/busybox"))
                .expect("busybox; see scripts/dependencies test");
            for applet in
                ["sh", "cat", "echo", "env", "id", "ls", "sleep", "stat", "true", "cksum", "readlink"]
            {
                std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("link");
            }
            std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
        });
    }

    fn named(&self, tag: &str) -> String {
        format!("{}:{tag}", self.path())
    }

    /// Adds a layer with what `change` does to the image's root.
    ///
    /// # Panics
    /// If that fails.
    pub fn layer(&self, tag: &str, change: impl FnOnce(&Path)) {
        let bundle = tempfile::tempdir().expect("make a directory");
        let (image, at) = (self.named(tag), bundle.path().join("b"));
        let rootless: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--rootless"] };
        tool("umoci", &[&["unpack", "--image", &image], rootless, &[text(&at)]].concat());
        change(&at.join("rootfs"));
        tool("umoci", &["repack", "--image", &image, text(&at)]);
    }

    /// Changes an image's configuration.
    ///
    /// # Panics
    /// If that fails.
    pub fn configure(&self, tag: &str, options: &[&str]) {
        tool("umoci", &[&["config", "--image", &self.named(tag)], options].concat());
    }

    /// Gives an image another tag.
    ///
    /// # Panics
    /// If that fails.
    pub fn tag(&self, tag: &str, other: &str) {
        tool("umoci", &["tag", "--image", &self.named(tag), other]);
    }
}

impl Default for Layout {
    fn default() -> Layout {
        Layout::new()
    }
}
