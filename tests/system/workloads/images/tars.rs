//! Tar archives in the forms that builders of images write, and layouts of images made of them.

use std::fs;
use std::path::Path;

use sha2::Digest;

/// An entry of an archive.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The type byte.
    pub(super) kind: u8,
    pub(super) path: String,
    pub(super) link: String,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// Seconds, and a fraction that only PAX has.
    pub(super) mtime: (u32, u32),
    pub(super) contents: Vec<u8>,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
    pub(super) device: (u32, u32),
    /// A size for what has no contents.
    pub(super) size: u64,
}

impl Item {
    fn new(kind: u8, path: &str, mode: u32) -> Item {
        let (path, link) = (path.to_owned(), String::new());
        let (contents, xattrs) = (Vec::new(), Vec::new());
        Item {
            kind,
            path,
            link,
            mode,
            owner: (0, 0),
            mtime: (1, 0),
            contents,
            xattrs,
            device: (0, 0),
            size: 0,
        }
    }

    pub(super) fn file(path: &str, contents: &[u8]) -> Item {
        Item { contents: contents.to_vec(), ..Item::new(b'0', path, 0o644) }
    }

    pub(super) fn dir(path: &str) -> Item {
        Item::new(b'5', path, 0o755)
    }

    pub(super) fn symlink(path: &str, target: &str) -> Item {
        Item { link: target.to_owned(), ..Item::new(b'2', path, 0o777) }
    }

    pub(super) fn hard_link(path: &str, target: &str) -> Item {
        Item { link: target.to_owned(), ..Item::new(b'1', path, 0o644) }
    }

    pub(super) fn device(kind: u8, path: &str, device: (u32, u32)) -> Item {
        Item { device, ..Item::new(kind, path, 0o620) }
    }

    pub(super) fn mode(self, mode: u32) -> Item {
        Item { mode, ..self }
    }

    pub(super) fn owner(self, uid: u32, gid: u32) -> Item {
        Item { owner: (uid, gid), ..self }
    }

    pub(super) fn xattr(mut self, name: &str, value: &[u8]) -> Item {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// Who writes an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    V7,
    Ustar,
    Gnu,
    Pax,
}

/// An archive with its end.
pub(super) fn archive(form: Form, items: &[Item]) -> Vec<u8> {
    let mut archive = Vec::new();
    items.iter().for_each(|item| append(&mut archive, form, item));
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// Adds an entry; attributes are PAX records in all forms.
pub(super) fn append(archive: &mut Vec<u8>, form: Form, item: &Item) {
    let mut records = Vec::new();
    for (name, value) in &item.xattrs {
        record(&mut records, &format!("SCHILY.xattr.{name}"), value);
    }
    for (name, kind, text) in [("path", b'L', &item.path), ("linkpath", b'K', &item.link)] {
        if text.len() > 100 && form == Form::Gnu {
            let name = [text.as_bytes(), b"\0"].concat();
            block(archive, form, &Item { kind, ..Item::file("././@LongLink", &name) });
        } else if text.len() > 100 || (form == Form::Pax && text.len() % 7 == 0 && !text.is_empty()) {
            record(&mut records, name, text.as_bytes());
        }
    }
    if form == Form::Pax && item.mtime.1 > 0 {
        record(&mut records, "mtime", format!("{}.{:09}", item.mtime.0, item.mtime.1).as_bytes());
    }
    if !records.is_empty() {
        block(archive, form, &Item { kind: b'x', ..Item::file("PaxHeaders.0/it", &records) });
    }
    block(archive, form, item);
}

fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let len = (rest..).find(|len| *len == rest + len.to_string().len()).unwrap();
    records.extend(format!("{len} {key}=").bytes());
    records.extend(value);
    records.push(b'\n');
}

fn block(archive: &mut Vec<u8>, form: Form, item: &Item) {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8], most: usize| {
        let len = text.len().min(most);
        header[at..at + len].copy_from_slice(&text[..len]);
    };
    let size = if item.contents.is_empty() { item.size } else { item.contents.len() as u64 };
    put(0, item.path.as_bytes(), 100);
    put(100, format!("{:07o}\0", item.mode).as_bytes(), 8);
    for (at, id) in [(108, item.owner.0), (116, item.owner.1)] {
        match form {
            Form::Gnu if id > 0o777_7777 => {
                put(at, &[&[0x80, 0, 0, 0][..], &id.to_be_bytes()].concat(), 8);
            }
            _ => put(at, format!("{id:07o}\0").as_bytes(), 8),
        }
    }
    put(124, format!("{size:011o}\0").as_bytes(), 12);
    put(136, format!("{:11o} ", item.mtime.0).as_bytes(), 12);
    put(156, &[item.kind], 1);
    put(157, item.link.as_bytes(), 100);
    match form {
        Form::V7 => {}
        Form::Gnu => put(257, b"ustar  \0", 8),
        Form::Ustar | Form::Pax => put(257, b"ustar\x0000", 8),
    }
    if form != Form::V7 {
        put(329, format!("{:07o}\0", item.device.0).as_bytes(), 8);
        put(337, format!("{:07o}\0", item.device.1).as_bytes(), 8);
    }
    put(148, b"        ", 8);
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(&item.contents);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// SHA-256 in hexadecimal digits.
pub(super) fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A layout in `dir` with one image, called `it`, of these layers.
pub(super) fn layout(dir: &Path, layers: &[Vec<u8>]) {
    let ids: Vec<String> = layers.iter().map(|layer| format!("\"sha256:{}\"", digest(layer))).collect();
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        super::own_architecture(),
        ids.join(",")
    );
    layout_of(dir, &config, layers);
}

/// The same with a configuration.
pub(super) fn layout_of(dir: &Path, config: &str, layers: &[Vec<u8>]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |kind: &str, bytes: &[u8], more: &str| {
        let digest = digest(bytes);
        fs::write(blobs.join(&digest), bytes).unwrap();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{}{more}}}"#,
            bytes.len()
        )
    };
    let config = put("config.v1+json", config.as_bytes(), "");
    let layers: Vec<String> = layers.iter().map(|layer| put("layer.v1.tar", layer, "")).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    );
    let named = r#","annotations":{"org.opencontainers.image.ref.name":"it"}"#;
    let manifest = put("manifest.v1+json", manifest.as_bytes(), named);
    fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
