//! Images: from real registries and archives, made by real tools; and from a registry that misbehaves.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use aegis_tests::misbehaving_registry::{Misbehaviour, Proxy};
use aegis_tests::registry::{Layout, PASSWORD, Protection, Registry, USER, tool};
use aegis_tests::{DEADLINE, Daemon, eventually};
use serde_json::Value;

mod builders;
mod chance;
mod hostile;
mod layers;
mod others;
mod roots;
mod tars;

/// Base64 of `tester:pass:word`, as `docker login` stores it.
const LOGIN: &str = "dGVzdGVyOnBhc3M6d29yZA==";

fn images(daemon: &Daemon) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&daemon.ok(&["image", "list", "--output", "json"])).unwrap();
    listed.as_array().unwrap().clone()
}

/// Names of the files in a directory of the store.
fn stored(daemon: &Daemon, dir: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.root().join("images").join(dir)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// What a refused command says.
fn refused(daemon: &Daemon, arguments: &[&str]) -> String {
    let done = daemon.aegis(arguments);
    assert_eq!((done.code, done.out().as_str()), (1, ""), "{}", done.err());
    done.err()
}

/// The guest's processor, as images call it.
fn own_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// A registry with an image `box:1` of one layer, and a layout to go on with.
fn boxed() -> (Registry, Layout) {
    let (registry, layout) = (Registry::start(Protection::None), Layout::new());
    layout.busybox("1");
    registry.push(&layout, "1", "box:1", &[]);
    (registry, layout)
}

#[test]
fn an_image_gives_its_files_and_environment_and_nothing_else() {
    let (registry, layout) = boxed();
    layout.layer("1", |root| {
        std::fs::create_dir_all(root.join("opt/tool")).unwrap();
        std::fs::write(root.join("opt/tool/greet"), "#!/bin/sh\necho \"$GREETING, $NAME\"\n").unwrap();
        std::fs::set_permissions(root.join("opt/tool/greet"), PermissionsExt::from_mode(0o4755)).unwrap();
        std::fs::hard_link(root.join("opt/tool/greet"), root.join("opt/tool/again")).unwrap();
        std::fs::write(root.join("opt/gone"), "below").unwrap();
        std::fs::create_dir_all(root.join("opt/hidden/deep")).unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(root.join("opt/tool"), Some(1234), Some(5678)).unwrap();
        }
    });
    layout.layer("1", |root| {
        std::fs::remove_file(root.join("opt/gone")).unwrap();
        std::fs::remove_dir_all(root.join("opt/hidden")).unwrap();
        symlink("tool/greet", root.join("opt/link")).unwrap();
    });
    let path = "--config.env=PATH=/opt/tool:/bin";
    let ignored =
        ["--config.entrypoint=/nope", "--config.cmd=/nope", "--config.user=1000", "--config.workingdir=/opt"];
    layout.configure(
        "1",
        &[&["--config.env=GREETING=hello", "--config.env=NAME=image", path], &ignored[..]].concat(),
    );
    registry.push(&layout, "1", "box:2", &[]);
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let image = registry.reference("box:2");

    assert_eq!(daemon.ok(&["run", "--image", &image, "--env", "NAME=flag", "--", "greet"]), "hello, flag\n");
    let look = "again; stat -c '%a %h' /opt/tool/greet; stat -c '%u:%g' /opt/tool; readlink /opt/link; ls /opt; id -u; readlink /proc/self/cwd";
    let owner = if rustix::process::geteuid().is_root() { "1234:5678" } else { "0:0" };
    let expected = format!("hello, image\n4755 2\n{owner}\ntool/greet\nlink\ntool\n0\n/workspace\n");
    assert_eq!(daemon.ok(&["run", "--image", &image, "--", "sh", "-c", look]), expected);
    let bare = ["run", "--image", &image, "--no-image-env", "--", "/bin/env"];
    assert!(!daemon.ok(&bare).contains("GREETING"));

    let start = ["instance", "start", "--name", "box", "--image", &image, "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    assert_eq!(daemon.ok(&["exec", "box", "--env", "NAME=exec", "--", "greet"]), "hello, exec\n");
    let info = daemon.info("box").unwrap();
    assert_eq!(info["image"], image.as_str());
    assert_eq!(info["image_digest"], images(&daemon)[0]["digest"]);
    assert_eq!(info["env_keys"], serde_json::json!(["GREETING", "NAME", "PATH"]));
    assert_eq!(daemon.aegis(&["instance", "stop", "box"]).code, 0);
    assert_eq!(daemon.aegis(&start).code, 0, "the same request starts it again");
    check_disks(&daemon);
}

/// Lets the format's own checker look at every disk.
fn check_disks(daemon: &Daemon) {
    for image in images(daemon) {
        let hex = |digest: &Value| digest.as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let store = daemon.root().join("images");
        let mut disk =
            std::fs::read(store.join("disks").join(format!("{}.erofs", hex(&image["digest"])))).unwrap();
        for layer in image["layers"].as_array().unwrap() {
            disk.extend(
                std::fs::read(store.join("layers").join(format!("{}.data", hex(&layer["diff_id"])))).unwrap(),
            );
        }
        assert_eq!(image["size"], disk.len());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), disk).unwrap();
        tool("fsck.erofs", &[file.path().to_str().unwrap()]);
    }
}

#[test]
fn layers_are_shared_and_an_instance_stays_with_the_image_that_it_was_created_from() {
    let (registry, layout) = boxed();
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    layout.layer("1", |root| std::fs::write(root.join("etc/version"), "old\n").unwrap());
    registry.push(&layout, "1", "box:latest", &[]);
    let image = registry.reference("box");
    let start = ["instance", "start", "--name", "box", "--image", &image, "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    layout.layer("1", |root| std::fs::write(root.join("etc/version"), "new\n").unwrap());
    registry.push(&layout, "1", "box:latest", &[]);

    let version = ["run", "--image", &image, "--", "cat", "/etc/version"];
    assert_eq!(daemon.ok(&version), "old\n", "what is here is not asked for again");
    let newest = ["run", "--image", &image, "--pull", "always", "--", "cat", "/etc/version"];
    assert_eq!(daemon.ok(&newest), "new\n");
    assert_eq!(daemon.ok(&version), "new\n");
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    assert_eq!(daemon.ok(&["exec", "box", "--", "cat", "/etc/version"]), "old\n");
    let two = images(&daemon);
    assert_eq!(two.len(), 2);
    assert_eq!(
        stored(&daemon, "layers").len(),
        2 * 3,
        "three layers in both images, with index and data each"
    );
    let own: Vec<u64> = stored(&daemon, "disks").iter().map(|disk| disk.metadata().unwrap().len()).collect();
    assert!(own.iter().all(|bytes| *bytes < 64 << 10), "{own:?}");

    // The older one has no name any more, and is needed all the same.
    assert!(daemon.ok(&["image", "prune"]).contains("Freed: 0 B"));
    assert_eq!(daemon.aegis(&["instance", "restart", "box"]).code, 0);
    let digest =
        two.iter().find(|image| image["names"].as_array().unwrap().is_empty()).unwrap()["digest"].as_str();
    let in_use = refused(&daemon, &["image", "remove", digest.unwrap()]);
    assert!(
        in_use.contains("in use by box") && in_use.contains("hint: delete the instance or snapshot first"),
        "{in_use}"
    );
    let _out = daemon.ok(&["snapshot", "create", "box", "shot"]);
    for verb in ["disable", "delete"] {
        assert!(daemon.ok(&["image", "prune"]).contains("Freed: 0 B"));
        assert_eq!(daemon.aegis(&["instance", verb, "box"]).code, 0);
    }
    // Nor does it go as long as an instance can be started from a snapshot that needs it.
    assert!(daemon.ok(&["image", "prune"]).contains("Freed: 0 B"));
    let in_use = refused(&daemon, &["image", "remove", digest.unwrap()]);
    assert!(in_use.contains("in use by snapshot shot"), "{in_use}");
    let _out = daemon.ok(&["instance", "start", "--from", "shot", "--name", "again"]);
    assert_eq!(daemon.ok(&["exec", "again", "--", "cat", "/etc/version"]), "old\n");
    let _out = daemon.ok(&["instance", "delete", "again"]);
    let _out = daemon.ok(&["snapshot", "delete", "shot"]);
    assert!(daemon.ok(&["image", "prune"]).contains("Deleted: sha256:"));
    assert_eq!(images(&daemon).len(), 1);
    assert_eq!(daemon.ok(&version), "new\n");
    assert!(daemon.ok(&["image", "prune", "--all"]).contains(&format!("Untagged: {image}:latest")));
    for dir in ["blobs", "layers", "disks", "records", "names", "tmp"] {
        assert_eq!(stored(&daemon, dir), Vec::<PathBuf>::new(), "{dir}");
    }
    assert!(refused(&daemon, &["image", "info", &image]).contains("there is no image"));
}

#[test]
fn a_registry_with_tls_and_a_password_is_spoken_to_as_docker_is_set_up() {
    let (registry, layout) = (Registry::start(Protection::TlsAndPassword), Layout::new());
    layout.busybox("1");
    registry.push(&layout, "1", "box:1", &[]);
    let (image, docker) = (registry.reference("box:1"), tempfile::tempdir().unwrap());
    let at = |name: &str| docker.path().join(name);
    let own = docker.path().to_str().unwrap();
    let path = format!("{own}:{}", std::env::var("PATH").unwrap());
    let environment = [("DOCKER_CONFIG", own), ("PATH", path.as_str())];

    let stranger = Daemon::start_configured("", &environment);
    let unknown = refused(&stranger, &["image", "pull", &image]);
    assert!(unknown.contains("cannot be reached") && unknown.contains("docs/IMAGES.md"), "{unknown}");
    let daemon = Daemon::start_configured(&registry.config(), &environment);
    let nobody = refused(&daemon, &["image", "pull", &image]);
    assert!(nobody.contains("refuses access") && nobody.contains("docker login"), "{nobody}");
    std::fs::write(at("config.json"), "{").unwrap();
    let broken = refused(&daemon, &["image", "pull", &image]);
    assert!(broken.contains("credentials") && broken.contains("config.json"), "{broken}");
    let logins = format!(r#"{{"auths": {{"{}": {{"auth": "{LOGIN}"}}}}}}"#, registry.name);
    std::fs::write(at("config.json"), logins).unwrap();
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready: sha256:"));
    assert_eq!(daemon.aegis(&["image", "remove", &image]).code, 0);

    let helper = format!(
        "#!/bin/sh\ncat > {own}/asked\necho '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n"
    );
    std::fs::write(at("docker-credential-tester"), helper).unwrap();
    std::fs::set_permissions(at("docker-credential-tester"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(at("config.json"), r#"{"credsStore": "tester"}"#).unwrap();
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready: sha256:"));
    assert_eq!(std::fs::read_to_string(at("asked")).unwrap().trim(), registry.name);
}

#[test]
fn a_token_is_fetched_with_the_users_credentials() {
    let (registry, _layout) = boxed();
    let proxy = Proxy::start(&registry, Misbehaviour::Token);
    let docker = tempfile::tempdir().unwrap();
    let daemon =
        Daemon::start_configured(&proxy.config(), &[("DOCKER_CONFIG", docker.path().to_str().unwrap())]);
    let image = format!("{}/box:1", proxy.name);
    assert!(refused(&daemon, &["image", "pull", &image]).contains("refuses access"));
    let logins = format!(r#"{{"auths": {{"{}": {{"auth": "{LOGIN}"}}}}}}"#, proxy.name);
    std::fs::write(docker.path().join("config.json"), logins).unwrap();
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready"));
}

#[test]
fn a_download_that_is_cut_is_resumed_where_it_was_cut() {
    let (registry, _layout) = boxed();
    let proxy = Proxy::start(&registry, Misbehaviour::Cut(400_000));
    let daemon = Daemon::start_configured(&proxy.config(), &[]);
    assert!(daemon.ok(&["image", "pull", &format!("{}/box:1", proxy.name)]).contains("ready"));
    let size = images(&daemon)[0]["layers"][0]["size"].as_u64().unwrap();
    let resumed = proxy.seen().into_iter().filter(|one| one.range.is_some()).count();
    let most: usize =
        proxy.seen().iter().filter(|one| one.path.contains("/blobs/")).map(|one| one.sent).sum();
    assert!(resumed > 0 && size > 400_000, "{:?}", proxy.seen());
    assert!((most as u64) < size + 4096, "nothing is fetched twice: {most} bytes for {size}");
    check_disks(&daemon);
}

#[test]
fn a_registry_that_lies_or_never_ends_leaves_nothing_behind() {
    let (registry, _layout) = boxed();
    for (misdeed, words) in [
        (Misbehaviour::Lie, "has the digest"),
        (Misbehaviour::Longer, "more than"),
        (Misbehaviour::Endless, "more than"),
    ] {
        let proxy = Proxy::start(&registry, misdeed);
        let daemon = Daemon::start_configured(&proxy.config(), &[]);
        let told = refused(&daemon, &["image", "pull", &format!("{}/box:1", proxy.name)]);
        assert!(told.contains(words), "{misdeed:?}: {told}");
        assert_eq!(images(&daemon), Vec::<Value>::new());
        assert_eq!(stored(&daemon, "layers"), Vec::<PathBuf>::new(), "{misdeed:?}");
        assert!(
            stored(&daemon, "blobs").iter().all(|blob| blob.metadata().unwrap().size() < 4096),
            "{misdeed:?}"
        );
    }
}

#[test]
fn a_registry_may_ask_for_patience_and_send_elsewhere() {
    let (registry, _layout) = boxed();
    for misdeed in [Misbehaviour::Limit, Misbehaviour::Redirect] {
        let proxy = Proxy::start(&registry, misdeed);
        let daemon = Daemon::start_configured(&proxy.config(), &[]);
        assert!(
            daemon.ok(&["image", "pull", &format!("{}/box:1", proxy.name)]).contains("ready"),
            "{misdeed:?}"
        );
    }
    // A proxy of the other kind: one that everything goes through.
    let proxy = Proxy::start(&registry, Misbehaviour::None);
    let settings = format!(
        "[images]\nproxy = \"http://{}\"\n[registry.\"registry.invalid\"]\nplain_http = true\n",
        proxy.name
    );
    let daemon = Daemon::start_configured(&settings, &[]);
    assert!(daemon.ok(&["image", "pull", "registry.invalid/box:1"]).contains("ready"));
    assert!(!proxy.seen().is_empty());
}

#[test]
fn an_image_is_fetched_once_however_many_ask_for_it() {
    let (registry, layout) = boxed();
    layout.layer("1", |root| std::fs::write(root.join("more"), "x").unwrap());
    registry.push(&layout, "1", "box:2", &[]);
    let proxy = Proxy::start(&registry, Misbehaviour::Slow);
    let daemon = Daemon::start_configured(&proxy.config(), &[]);
    let names = ["1", "2", "1", "2", "1", "2"].map(|tag| format!("{}/box:{tag}", proxy.name));
    let pulls: Vec<_> = names.iter().map(|name| daemon.spawn(&["image", "pull", name])).collect();
    for pull in pulls {
        assert_eq!(aegis_tests::wait(pull, None).code, 0);
    }
    let layers: std::collections::BTreeSet<String> = images(&daemon)
        .iter()
        .flat_map(|image| image["layers"].as_array().unwrap().clone())
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect();
    for layer in layers {
        let count = proxy.seen().iter().filter(|one| one.path.contains(&layer)).count();
        assert_eq!(count, 1, "{layer}");
    }
}

#[test]
fn a_daemon_that_dies_while_it_pulls_leaves_what_the_next_one_goes_on_with() {
    let (registry, _layout) = boxed();
    let proxy = Proxy::start(&registry, Misbehaviour::Slow);
    let daemon = Daemon::start_configured(&proxy.config(), &[]);
    let image = format!("{}/box:1", proxy.name);
    let pull = daemon.spawn(&["image", "pull", &image]);
    let begun = |path: &PathBuf| {
        path.extension().is_some_and(|suffix| suffix == "partial")
            && path.metadata().is_ok_and(|found| found.len() > 200_000)
    };
    eventually("a part is there", DEADLINE, || stored(&daemon, "blobs").iter().any(begun));
    daemon.crash();
    assert_eq!(aegis_tests::wait(pull, None).code, 1);
    daemon.up();
    assert_eq!(images(&daemon), Vec::<Value>::new());
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready"));
    let resumed = proxy.seen().into_iter().find_map(|one| one.range).unwrap();
    let from: u64 = resumed.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
    assert!(from > 200_000, "{resumed}");
    check_disks(&daemon);
    // A part that is not what it should be is fetched anew.
    assert_eq!(daemon.aegis(&["image", "remove", &image]).code, 0);
    let digest = proxy.seen().into_iter().find(|one| one.range.is_some()).unwrap().path;
    let hex = digest.rsplit(':').next().unwrap().to_owned();
    std::fs::write(daemon.root().join(format!("images/blobs/{hex}.partial")), vec![7; 100_000]).unwrap();
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready"));
    check_disks(&daemon);
}

#[test]
fn an_image_for_another_processor_is_refused_with_those_that_there_are() {
    let (registry, layout) = boxed();
    layout.configure("1", &["--architecture", "s390x"]);
    registry.push(&layout, "1", "foreign:1", &[]);
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let told = refused(&daemon, &["image", "pull", &registry.reference("foreign:1")]);
    assert!(told.contains("no version for linux/") && told.contains("linux/s390x"), "{told}");
    let absent = refused(&daemon, &["image", "pull", &registry.reference("box:none")]);
    assert!(absent.contains("has no image") && absent.contains("hint:"), "{absent}");
    assert!(refused(&daemon, &["image", "pull", "No Such Name"]).contains("no image reference"));
    let run = daemon.aegis(&["run", "--image", &registry.reference("none:1"), "--", "true"]);
    assert_eq!(run.code, 125, "{}", run.err());
    let never =
        daemon.aegis(&["run", "--image", &registry.reference("box:1"), "--pull", "never", "--", "true"]);
    assert!(never.code == 125 && never.err().contains("image pull"), "{}", never.err());
}

#[test]
fn of_an_image_for_several_processors_the_guests_is_taken_by_tag_and_by_digest() {
    let own = own_architecture();
    let (registry, layout) = boxed();
    layout.tag("1", "other");
    layout.configure("other", &["--architecture", "s390x"]);
    registry.push(&layout, "other", "box:other", &[]);
    registry.bind("box", "both", &[("s390x", "other"), (own, "1")]);
    registry.bind("box", "foreign", &[("s390x", "other")]);
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let wanted = registry.manifest("box:1").0;
    assert!(daemon.ok(&["image", "pull", &registry.reference("box:both")]).contains(&wanted));
    let by_digest = registry.reference(&format!("box@{wanted}"));
    assert!(daemon.ok(&["image", "pull", &by_digest]).contains(&wanted));
    assert_eq!(
        daemon.ok(&["run", "--image", &by_digest, "--pull", "never", "--", "echo", "hello"]),
        "hello\n"
    );
    assert_eq!(images(&daemon).len(), 1, "one image, two names");
    let absent = registry.reference(&format!("box@sha256:{}", "0".repeat(64)));
    assert!(refused(&daemon, &["image", "pull", &absent]).contains("has no image"));
    let foreign = refused(&daemon, &["image", "pull", &registry.reference("box:foreign")]);
    assert!(foreign.contains(&format!("no version for linux/{own}; there are: linux/s390x")), "{foreign}");
}

#[test]
fn layers_of_all_packings_and_archives_of_all_kinds_are_taken() {
    let (registry, layout) = boxed();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let from = format!("oci:{}:1", layout.path());
    for (kind, name) in [("docker-archive", "docker.tar"), ("oci-archive", "oci.tar")] {
        tool(
            "skopeo",
            &["copy", "--quiet", &from, &format!("{kind}:{}:example.com/own/box:{kind}", at(name))],
        );
    }
    tool("gzip", &["-k", &at("docker.tar")]);
    registry.push(&layout, "1", "box:zstd", &["--dest-compress-format", "zstd", "--dest-compress"]);
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    assert!(daemon.ok(&["image", "pull", &registry.reference("box:zstd")]).contains("ready"));
    let loaded = |done: String, name: &str| {
        let name = format!("example.com/own/box:{name}");
        assert!(done.starts_with("Loaded: ") && done.contains(&name), "{done}");
    };
    loaded(daemon.ok(&["image", "load", "--input", &at("docker.tar")]), "docker-archive");
    loaded(daemon.ok(&["image", "load", "-i", &at("oci.tar")]), "oci-archive");
    let compressed = daemon.aegis_with_input(&["image", "load"], std::fs::read(at("docker.tar.gz")).unwrap());
    loaded(compressed.out(), "docker-archive");
    assert!(daemon.ok(&["image", "load", "-i", layout.path()]).starts_with("Loaded: "));
    assert_eq!(stored(&daemon, "layers").len(), 2, "all of it is one layer, unpacked once");
    check_disks(&daemon);
    let hello = ["run", "--image", "example.com/own/box:docker-archive", "--", "echo", "hello"];
    assert_eq!(daemon.ok(&hello), "hello\n");

    // And out again, for others and for ourselves.
    let names = ["example.com/own/box:docker-archive", "example.com/own/box:oci-archive"];
    assert_eq!(daemon.aegis(&[&["image", "save", "--out", &at("saved.tar")], &names[..]].concat()).code, 0);
    assert!(
        tool("skopeo", &["inspect", &format!("docker-archive:{}:{}", at("saved.tar"), names[0])])
            .contains("amd64")
    );
    let other = Daemon::start();
    let piped = daemon.aegis(&[&["image", "save"], &names[..]].concat());
    let back = other.aegis_with_input(&["image", "load"], piped.stdout);
    assert_eq!(back.code, 0, "{}", back.err());
    let digests = |daemon: &Daemon| -> Vec<String> {
        let ours = |name: &Value| name.as_str().unwrap().starts_with("example.com");
        let named = |image: &&Value| image["names"].as_array().unwrap().iter().any(ours);
        let all = images(daemon);
        let mut all: Vec<String> =
            all.iter().filter(named).map(|image| image["digest"].to_string()).collect();
        all.sort();
        all
    };
    assert_eq!(digests(&other), digests(&daemon), "nothing is lost on the way");
    assert_eq!(digests(&other).len(), 2);
}

#[test]
fn removing_one_image_leaves_others_without_a_name_until_they_get_one() {
    let (registry, layout) = boxed();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let copy = |to: String| tool("skopeo", &["copy", "--quiet", &format!("oci:{}:1", layout.path()), &to]);
    copy(format!("oci-archive:{}", at("first.tar")));
    layout.layer("1", |root| std::fs::write(root.join("which"), "second\n").unwrap());
    copy(format!("oci-archive:{}:deb", at("second.tar")));
    layout.layer("1", |root| std::fs::write(root.join("which"), "third\n").unwrap());
    registry.push(&layout, "1", "box:3", &[]);
    let daemon = Daemon::start_configured(&registry.config(), &[]);
    let digests = ["first.tar", "second.tar"].map(|name| {
        let done = daemon.aegis(&["image", "load", "-i", &at(name)]);
        let digest = done.out().trim().trim_start_matches("Loaded: ").to_owned();
        let remedy = format!("aegis image tag {} NAME", &digest[..19]);
        assert!(done.code == 0 && done.err().contains(&remedy), "{}", done.err());
        digest
    });
    let named = registry.reference("box:3");
    assert!(daemon.ok(&["image", "pull", &named]).contains("ready"));
    let removed = daemon.ok(&["image", "remove", &named]);
    assert_eq!(removed.matches("Deleted: ").count(), 1, "{removed}");
    let mut left: Vec<String> = images(&daemon).iter().map(|image| image["digest"].to_string()).collect();
    left.sort();
    let mut expected = digests.clone().map(|digest| format!("\"{digest}\""));
    expected.sort();
    assert_eq!(left, expected);

    let tagged = daemon.ok(&["image", "tag", &digests[1], "deb:1"]);
    assert_eq!(tagged, format!("Tagged: deb:1 is {}\n", digests[1]));
    assert_eq!(daemon.ok(&["run", "--image", "deb:1", "--", "cat", "/which"]), "second\n");
    let missing = refused(&daemon, &["image", "tag", "absent:1", "deb:1"]);
    assert!(missing.contains("there is no image absent:1 on this host"), "{missing}");
    let bad = refused(&daemon, &["image", "tag", "deb:1", "Bad/UPPER"]);
    assert!(bad.contains("hint: a name is [REGISTRY"), "{bad}");
    let typo = refused(&daemon, &["image", "pull", "127.0.0.1:1/deb:1"]);
    assert!(typo.contains("there is no image 127.0.0.1:1/deb:1 on this host, and "), "{typo}");
    assert!(daemon.ok(&["image", "prune"]).contains(&format!("Deleted: {}", digests[0])));
    assert_eq!(images(&daemon)[0]["names"], serde_json::json!(["deb:1"]));
}

#[test]
fn what_no_name_needs_goes_when_the_budget_is_spent() {
    let (registry, layout) = boxed();
    let daemon =
        Daemon::start_configured(&format!("{}[images]\ndisk_budget = \"1m\"\n", registry.config()), &[]);
    let image = registry.reference("box:1");
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready"));
    let old = images(&daemon)[0]["digest"].clone();
    layout.layer("1", |root| std::fs::write(root.join("new"), "x").unwrap());
    registry.push(&layout, "1", "box:1", &[]);
    assert!(daemon.ok(&["image", "pull", &image]).contains("ready"));
    eventually("the older image is gone", DEADLINE, || images(&daemon).len() == 1);
    assert_ne!(images(&daemon)[0]["digest"], old, "the newer one has a name");
}
