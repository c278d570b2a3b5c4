//! Archives that somebody means harm with.

use std::path::{Path, PathBuf};

use aegis_tests::Daemon;
use serde_json::Value;

use super::{check_disks, images, own_architecture, stored};

/// An archive as `docker save` writes it, whose one layer is this tar.
fn archive_with(layer: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let hex: String = sha2::Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["sha256:{hex}"]}}}}"#,
        own_architecture()
    );
    let manifest = r#"[{"Config":"c.json","RepoTags":["hostile:1"],"Layers":["l/layer.tar"]}]"#;
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in
        [("c.json", config.as_bytes()), ("manifest.json", manifest.as_bytes()), ("l/layer.tar", layer)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn layer_with(path: &[u8], kind: tar::EntryType, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(contents.len() as u64);
    if !link.is_empty() {
        header.set_link_name(link).unwrap();
    }
    header.set_cksum();
    builder.append(&header, contents).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_hostile_layer_is_refused_and_touches_nothing() {
    let daemon = Daemon::start_configured("[images]\nmax_unpacked = \"1m\"\n", &[]);
    let file = tar::EntryType::Regular;
    for (layer, words) in [
        (layer_with(b"passwd", tar::EntryType::Link, "../../etc/passwd", b""), "does not exist"),
        (layer_with(b"bomb", file, "", &vec![0; 2 << 20]), "more than"),
        (b"no tar at all, but long enough for a header".repeat(20), "checksum"),
    ] {
        let done = daemon.aegis_with_input(&["image", "load"], archive_with(&layer));
        assert!(done.code == 1 && done.err().contains(words), "{words}: {}", done.err());
    }
    for garbage in [b"".to_vec(), b"garbage".repeat(1000), archive_with(b"")[..1500].to_vec()] {
        let done = daemon.aegis_with_input(&["image", "load"], garbage);
        assert!(done.code == 1 && done.err().contains("not valid"), "{}", done.err());
    }
    assert_eq!(images(&daemon), Vec::<Value>::new());
    assert_eq!(stored(&daemon, "layers"), Vec::<PathBuf>::new());
    for path in [&b"../../../../tmp/escaped"[..], b"/tmp/escaped"] {
        let done =
            daemon.aegis_with_input(&["image", "load"], archive_with(&layer_with(path, file, "", b"x")));
        assert_eq!(done.code, 0, "{}", done.err());
    }
    assert!(!Path::new("/tmp/escaped").exists(), "it is in the image and nowhere else");
    check_disks(&daemon);
}
