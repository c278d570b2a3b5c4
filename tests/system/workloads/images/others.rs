//! Archives and registries with what other builders and tools put into them.

use std::fs;
use std::path::Path;

use aegis_tests::Daemon;
use aegis_tests::registry::{Protection, Registry, tool};

use super::tars::{self, Form, Item, archive, digest};
use super::{images, own_architecture, refused};

/// A layer with the tool that the tests' images have.
fn layer() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").unwrap();
    archive(Form::Gnu, &[Item::file("bin/busybox", &busybox).mode(0o755), Item::symlink("bin/sh", "busybox")])
}

fn config(platform: &str, layers: &[&[u8]]) -> String {
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"sha256:{}\"", digest(layer))).collect();
    format!(r#"{{{platform}"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, ids.join(","))
}

/// A layout with documents of all kinds.
struct Mixed<'d>(&'d Path);

impl Mixed<'_> {
    /// Stores something, and describes it.
    fn blob(&self, media_type: &str, bytes: &[u8], more: &str) -> String {
        let blobs = self.0.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(digest(bytes)), bytes).unwrap();
        described(media_type, bytes, more)
    }

    fn image(&self, config: &str, layers: &[(&str, &[u8])], more: &str) -> String {
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.as_bytes(), "");
        let layers: Vec<String> = layers.iter().map(|(kind, bytes)| self.blob(kind, bytes, "")).collect();
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes(), more)
    }

    fn index(&self, manifests: &[String]) {
        let index =
            format!(r#"{{"schemaVersion":2,"manifests":[{}],"annotations":null}}"#, manifests.join(","));
        fs::write(self.0.join("index.json"), index).unwrap();
        fs::write(self.0.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

fn described(media_type: &str, bytes: &[u8], more: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":{}{more}}}"#,
        digest(bytes),
        bytes.len()
    )
}

/// Copies blobs to a registry as they are: the usual tools would pack or refuse them. `image` describes the manifest.
fn push(registry: &Registry, blobs: &Path, name: &str, image: &str) {
    push_blobs(registry, blobs, name);
    push_manifest(registry, blobs, name, image, "manifest");
}

fn push_blobs(registry: &Registry, blobs: &Path, name: &str) {
    let repository = name.split(':').next().unwrap();
    let base = format!("http://{}/v2/{repository}", registry.name);
    for blob in fs::read_dir(blobs).unwrap() {
        let blob = blob.unwrap();
        let begin = format!("{base}/blobs/uploads/");
        let headers = tool("curl", &["-sSf", "-X", "POST", "-D", "-", "-o", "/dev/null", &begin]);
        let place = headers.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim();
        let url = format!("{place}&digest=sha256:{}", blob.file_name().to_str().unwrap());
        let bytes = format!("@{}", blob.path().display());
        let kind = "Content-Type: application/octet-stream";
        let _done = tool("curl", &["-sSf", "-X", "PUT", "-H", kind, "--data-binary", &bytes, &url]);
    }
}

fn push_manifest(registry: &Registry, blobs: &Path, name: &str, image: &str, kind: &str) {
    let (repository, tag) = name.split_once(':').unwrap();
    let manifest = image.split_once("sha256:").unwrap().1.split('"').next().unwrap();
    let bytes = format!("@{}", blobs.join(manifest).display());
    let kind = &format!("Content-Type: application/vnd.oci.image.{kind}.v1+json");
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", registry.name);
    let _done = tool("curl", &["-sSf", "-X", "PUT", "-H", kind, "--data-binary", &bytes, &url]);
}

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

fn platform(architecture: &str) -> String {
    format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#)
}

#[test]
fn of_a_mixed_archive_the_image_for_this_processor_is_taken_and_the_rest_named() {
    let (dir, own) = (tempfile::tempdir().unwrap(), own_architecture());
    let (mixed, layer) = (Mixed(dir.path()), layer());
    let wanted = config(
        &format!(r#""architecture":"{own}","os":"linux","config":{{"Env":["NOVALUE","A=1",null]}},"#),
        &[&layer],
    );
    let foreign = config(r#""architecture":"s390x","os":"linux","#, &[&layer]);
    let signature = br#"{"critical":{"type":"cosign container image signature"}}"#;
    let signed = config(r#""architecture":"","os":"","created":"0001-01-01T00:00:00Z","#, &[&signature[..]]);
    let name = |name: &str| format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#);
    let all = [
        // A tool that copies one platform leaves the others' descriptors, which lead to nothing then.
        described("application/vnd.oci.image.manifest.v1+json", b"not here", &platform("arm")),
        mixed.image(&foreign, &[(PLAIN, &layer)], &name("example.com/it:s390x")),
        mixed.image(
            &signed,
            &[("application/vnd.dev.cosign.simplesigning.v1+json", signature)],
            &name("example.com/it:sha256-0.sig"),
        ),
        mixed.image(&wanted, &[(PLAIN, &layer)], &name("example.com/it:1")),
        mixed.blob(
            "application/vnd.in-toto+json",
            b"{}",
            r#","platform":{"os":"unknown","architecture":"unknown"}"#,
        ),
        mixed.image(
            r#"{"name":"chart"}"#,
            &[("application/vnd.cncf.helm.chart.content.v1.tar+gzip", b"x")],
            "",
        ),
        r#"{"mediaType":"x","digest":"sha512:00","size":1}"#.to_owned(),
    ];
    mixed.index(&all);
    let daemon = Daemon::start();
    let loaded = daemon.aegis(&["image", "load", "--input", dir.path().to_str().unwrap()]);
    assert_eq!((loaded.code, loaded.out().as_str()), (0, "Loaded: example.com/it:1\n"), "{}", loaded.err());
    for left in
        ["linux/arm", "example.com/it:s390x", "it:sha256-0.sig", "cosign", "no image of a file system"]
    {
        assert!(loaded.err().contains(left), "{left}: {}", loaded.err());
    }
    assert_eq!(images(&daemon).len(), 1);
    let blobs = fs::read_dir(daemon.root().join("images/blobs")).unwrap().count();
    assert_eq!(blobs, 3, "of what is left out nothing stays: manifest, configuration and layer do");
    let run = ["run", "--image", "example.com/it:1", "--", "sh", "-c", "busybox env"];
    let environment = daemon.ok(&run);
    assert!(environment.contains("A=1\n") && !environment.contains("NOVALUE"), "{environment}");

    // Without it nothing is left to take.
    mixed.index(&[&all[..3], &all[4..]].concat());
    let none = refused(&daemon, &["image", "load", "--input", dir.path().to_str().unwrap()]);
    for left in ["no image", "linux/s390x", "cosign", "no image of a file system"] {
        assert!(none.contains(left), "{left}: {none}");
    }
    mixed.index(&all[..2]);
    let none = refused(&daemon, &["image", "load", "--input", dir.path().to_str().unwrap()]);
    assert!(
        none.contains(&format!("no version for linux/{own}; there are: linux/arm, linux/s390x")),
        "{none}"
    );
}

#[test]
fn platforms_side_by_side_and_below_each_other_are_found() {
    let (own, layer) = (own_architecture(), layer());
    let ours = config(&format!(r#""architecture":"{own}","os":"linux","#), &[&layer]);
    // This one does not say what it is for.
    let silent = config("", &[&layer]);
    let foreign = config(r#""architecture":"s390x","os":"linux","#, &[&layer]);
    let daemon = Daemon::start();
    let load = |make: &dyn Fn(&Mixed<'_>) -> Vec<String>| {
        let dir = tempfile::tempdir().unwrap();
        let mixed = Mixed(dir.path());
        mixed.index(&make(&mixed));
        let loaded = daemon.aegis(&["image", "load", "--input", dir.path().to_str().unwrap()]);
        assert!(
            loaded.code == 0 && loaded.out().matches("Loaded: ").count() == 1,
            "{}{}",
            loaded.out(),
            loaded.err()
        );
    };
    load(&|mixed| {
        let two = [(&foreign, "s390x"), (&ours, own)];
        two.map(|(config, name)| mixed.image(config, &[(PLAIN, &layer)], &platform(name))).to_vec()
    });
    load(&|mixed| {
        vec![mixed.image(&foreign, &[(PLAIN, &layer)], ""), mixed.image(&silent, &[(PLAIN, &layer)], "")]
    });
    load(&|mixed| {
        let index = |manifests: &str| format!(r#"{{"schemaVersion":2,"manifests":[{manifests}]}}"#);
        let images =
            [mixed.image(&foreign, &[(PLAIN, &layer)], ""), mixed.image(&ours, &[(PLAIN, &layer)], "")];
        let kind = "application/vnd.oci.image.index.v1+json";
        let inner = mixed.blob(kind, index(&images.join(",")).as_bytes(), "");
        vec![mixed.blob(kind, index(&inner).as_bytes(), "")]
    });
}

#[test]
fn an_index_that_does_not_say_what_its_images_are_for_is_looked_into() {
    let (registry, dir) = (Registry::start(Protection::None), tempfile::tempdir().unwrap());
    let (mixed, layer) = (Mixed(dir.path()), layer());
    let foreign =
        mixed.image(&config(r#""architecture":"s390x","os":"linux","#, &[&layer]), &[(PLAIN, &layer)], "");
    let ours = mixed.image(&config("", &[&layer]), &[(PLAIN, &layer)], r#","platform":null"#);
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = |manifests: &[&str]| {
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","manifests":[{}]}}"#, manifests.join(","));
        mixed.blob(kind, text.as_bytes(), "")
    };
    let (inner, only_foreign) = (index(&[&foreign, &ours]), index(&[&foreign]));
    let outer = index(&[&only_foreign, &inner]);
    let blobs = dir.path().join("blobs/sha256");
    push_blobs(&registry, &blobs, "it");
    for (number, image) in [&foreign, &ours].into_iter().enumerate() {
        push_manifest(&registry, &blobs, &format!("it:part{number}"), image, "manifest");
    }
    for (tag, image) in [("foreign", &only_foreign), ("inner", &inner), ("outer", &outer)] {
        push_manifest(&registry, &blobs, &format!("it:{tag}"), image, "index");
    }
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    for tag in ["inner", "outer"] {
        let pulled = daemon.aegis(&["image", "pull", "--quiet", &registry.reference(&format!("it:{tag}"))]);
        assert_eq!(pulled.code, 0, "{tag}: {}", pulled.err());
    }
    let told = refused(&daemon, &["image", "pull", &registry.reference("it:foreign")]);
    assert!(told.contains("no version for linux/") && told.contains("linux/s390x"), "{told}");
}

#[test]
fn of_several_images_that_docker_saved_those_for_this_processor_are_taken() {
    let (dir, layer) = (tempfile::tempdir().unwrap(), layer());
    let at = |name: &str| dir.path().join(name);
    let ours = config(&format!(r#""architecture":"{}","os":"linux","#, own_architecture()), &[&layer]);
    fs::write(at("layer.tar"), &layer).unwrap();
    fs::write(at("ours.json"), ours).unwrap();
    fs::write(at("foreign.json"), config(r#""architecture":"s390x","os":"linux","#, &[&layer])).unwrap();
    let saved = r#"[{"Config":"foreign.json","RepoTags":["example.com/foreign:1"],"Layers":["layer.tar"]},
        {"Config":"gone.json","RepoTags":["example.com/gone:1"],"Layers":["layer.tar"]},
        {"Config":"ours.json","RepoTags":null,"Layers":["layer.tar"]},
        {"Config":"ours.json","RepoTags":["example.com/ours:1"],"Layers":["layer.tar"],"LayerSources":null}]"#;
    fs::write(at("manifest.json"), saved).unwrap();
    let daemon = Daemon::start();
    let loaded = daemon.aegis(&["image", "load", "--input", dir.path().to_str().unwrap()]);
    assert_eq!(loaded.code, 0, "{}", loaded.err());
    assert!(loaded.out().contains("Loaded: example.com/ours:1\n"), "{}", loaded.out());
    for left in ["example.com/foreign:1", "linux/s390x", "example.com/gone:1", "gone.json"] {
        assert!(loaded.err().contains(left), "{left}: {}", loaded.err());
    }
    assert_eq!(images(&daemon).len(), 1);
}

#[test]
fn the_first_bytes_of_a_layer_say_how_it_is_packed_whatever_it_is_called() {
    let (registry, daemon_dir) = (Registry::start(Protection::None), tempfile::tempdir().unwrap());
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let plain = layer();
    let at = daemon_dir.path().join("layer.tar");
    fs::write(&at, &plain).unwrap();
    tool("gzip", &["-k", at.to_str().unwrap()]);
    let gzip = fs::read(at.with_extension("tar.gz")).unwrap();
    let wanted = config(&format!(r#""architecture":"{}","os":"linux","#, own_architecture()), &[&plain]);
    for (number, (kind, bytes)) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip", &plain),
        ("application/vnd.oci.image.layer.v1.tar", &gzip),
        ("application/vnd.oci.image.layer.v1.tar+zstd", &gzip),
        ("application/octet-stream", &gzip),
        ("application/vnd.example.unheard.of", &plain),
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tempfile::tempdir().unwrap();
        let mixed = Mixed(dir.path());
        let image = mixed.image(&wanted, &[(kind, bytes)], "");
        mixed.index(std::slice::from_ref(&image));
        let loaded = daemon.aegis(&["image", "load", "--input", dir.path().to_str().unwrap()]);
        assert_eq!(loaded.code, 0, "{kind} by load: {}", loaded.err());
        let name = format!("packed:{number}");
        push(&registry, &dir.path().join("blobs/sha256"), &name, &image);
        let pulled = daemon.aegis(&["image", "pull", "--quiet", &registry.reference(&name)]);
        assert_eq!(pulled.code, 0, "{kind} by pull: {}", pulled.err());
        let run = ["run", "--image", &registry.reference(&name), "--", "busybox", "echo", "hello"];
        assert_eq!(daemon.ok(&run), "hello\n", "{kind}");
    }
    // What is packed in a way that nobody unpacks says so, and so does what is no layer.
    let dir = tempfile::tempdir().unwrap();
    let mixed = Mixed(dir.path());
    for (kind, bytes, words) in [
        (PLAIN, &b"\xfd7zXZ\0rest"[..], "packed with xz"),
        ("application/vnd.in-toto+json", b"{}", "in-toto+json\" is no layer"),
    ] {
        let config = config("", &[bytes]);
        mixed.index(&[mixed.image(&config, &[(kind, bytes)], "")]);
        let told = refused(&daemon, &["image", "load", "--input", dir.path().to_str().unwrap()]);
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn an_image_of_ko_is_pulled_and_run() {
    let registry = Registry::start(Protection::None);
    let dir = tempfile::tempdir().unwrap();
    let program = fs::read("/bin/busybox").unwrap();
    let layers = [
        archive(
            Form::Gnu,
            &[
                Item::symlink("var/run", "/run"),
                Item::dir("run/"),
                Item::file("etc/passwd", b"root:x:0:0::/:\n"),
            ],
        ),
        archive(Form::Gnu, &[Item::file("/var/run/ko/HEAD", b"main\n").mode(0o444)]),
        archive(Form::Gnu, &[Item::dir("/ko-app"), Item::file("/ko-app/busybox", &program).mode(0o555)]),
    ];
    tars::layout(dir.path(), &layers);
    tool(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &format!("oci:{}:it", dir.path().display()),
            &format!("docker://{}", registry.reference("ko:1")),
        ],
    );
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let image = registry.reference("ko:1");
    let read = ["run", "--image", &image, "--", "/ko-app/busybox", "cat", "/var/run/ko/HEAD"];
    assert_eq!(daemon.ok(&read), "main\n");
}
