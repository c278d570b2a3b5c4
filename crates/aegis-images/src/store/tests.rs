use std::io::Cursor;

use serde_json::json;

use super::removal::InUse;
use super::*;
use crate::archive::Loaded;

/// A store in a directory of its own.
struct Store {
    images: Images,
    _dir: tempfile::TempDir,
}

fn waited<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

fn put(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    archive.append_data(&mut header, name, bytes).unwrap();
}

/// An image of one empty layer, as `docker save` writes it; its author makes it another one than others.
fn archive(tags: Option<&[&str]>, author: &str, settings: &serde_json::Value) -> Vec<u8> {
    let layer = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let config = json!({
        "os": "linux", "architecture": "amd64", "author": author, "config": settings,
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).to_string()] },
    });
    let saved = json!([{ "Config": "c.json", "RepoTags": tags, "Layers": ["l.tar"] }]);
    let mut archive = tar::Builder::new(Vec::new());
    put(&mut archive, "c.json", config.to_string().as_bytes());
    put(&mut archive, "l.tar", &layer);
    put(&mut archive, "manifest.json", saved.to_string().as_bytes());
    archive.into_inner().unwrap()
}

impl Store {
    fn new() -> Store {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().to_owned(), Settings::for_architecture("amd64")).unwrap();
        Store { images, _dir: dir }
    }

    fn load_all(&self, tags: Option<&[&str]>, author: &str) -> Loaded {
        waited(self.images.load(Cursor::new(archive(tags, author, &json!({}))))).unwrap()
    }

    fn load(&self, tags: Option<&[&str]>, author: &str) -> Digest {
        self.load_all(tags, author).images.remove(0)
    }

    /// Digests of the images, and their names.
    fn all(&self) -> BTreeMap<Digest, Vec<String>> {
        self.images.list().into_iter().map(|one| (one.record.digest.clone(), one.names)).collect()
    }
}

#[test]
fn how_an_image_is_meant_to_be_run_is_read_of_its_stored_configuration() {
    let store = Store::new();
    let settings = json!({ "Entrypoint": ["/bin/web"], "User": "1000" });
    let bytes = archive(Some(&["box:1"]), "a", &settings);
    let _loaded = waited(store.images.load(Cursor::new(bytes))).unwrap();
    let found = store.images.find("box:1").unwrap();
    let read = store.images.run_settings(&found.record).unwrap();
    assert_eq!((read.entrypoint, read.user.as_str()), (vec!["/bin/web".to_owned()], "1000"));
}

fn nobody() -> InUse {
    InUse::new()
}

#[test]
fn removing_an_image_leaves_others_without_a_name_alone() {
    let store = Store::new();
    let (first, second) = (store.load(None, "first"), store.load(None, "second"));
    let named = store.load(Some(&["box:1"]), "named");
    let removed = store.images.remove("box:1", nobody).unwrap();
    assert_eq!((removed.names, removed.images), (vec!["box:1".to_owned()], vec![named]));
    assert_eq!(store.all().keys().collect::<Vec<_>>().len(), 2);
    for left in [&first, &second] {
        assert!(store.images.parts(left).is_ok(), "its files are whole");
    }
    // By its digest one of those goes, and the other one stays.
    assert_eq!(store.images.remove(first.short(), nobody).unwrap().images, [first]);
    assert!(store.images.parts(&second).is_ok());
    assert_eq!(store.images.prune(false, nobody).unwrap().images, [second]);
    for dir in ["blobs", "layers", "disks", "records", "names"] {
        assert_eq!(fs::read_dir(store.images.layout().0.join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[test]
fn a_name_that_moves_on_leaves_the_image_that_had_it() {
    let store = Store::new();
    let old = store.load(Some(&["box:1"]), "old");
    let new = store.load(Some(&["box:1", "box:2"]), "new");
    assert_eq!(store.all()[&old], Vec::<String>::new());
    let removed = store.images.remove("box:1", nobody).unwrap();
    assert_eq!((removed.names.as_slice(), removed.images.len()), (&["box:1".to_owned()][..], 0));
    assert_eq!(store.all()[&new], ["box:2"]);
    assert!(store.images.parts(&old).is_ok());
}

#[test]
fn what_somebody_holds_or_uses_stays() {
    let store = Store::new();
    let digest = store.load(Some(&["box:1"]), "held");
    let used = || InUse::from([(digest.clone(), "web".to_owned())]);
    assert!(matches!(store.images.remove("box:1", used), Err(ImageError::InUse { .. })));
    let held = store.images.find("box:1").unwrap();
    assert_eq!(store.images.remove("box:1", nobody).unwrap().images, []);
    assert!(store.images.parts(&digest).is_ok());
    drop(held);
    assert_eq!(store.images.prune(false, nobody).unwrap().images, [digest]);
}

#[test]
fn an_image_without_a_name_gets_one() {
    let store = Store::new();
    let loaded = store.load_all(Some(&["Bad/UPPER:1", "deb"]), "a");
    let digest = loaded.images[0].clone();
    assert_eq!(loaded.left.len(), 2, "{:?}", loaded.left);
    let image = format!("sha256:{}", digest.short());
    assert!(loaded.left.iter().all(|told| told.ends_with(&format!("aegis image tag {image} NAME"))));
    assert_eq!(store.images.tag(&image, "deb:12").unwrap(), digest);
    assert_eq!(store.images.tag("deb:12", "localhost:5000/deb").unwrap(), digest);
    assert_eq!(store.all()[&digest], ["deb:12", "localhost:5000/deb:latest"]);
    assert_eq!(store.load_all(None, "a").left, Vec::<String>::new(), "it has a name already");

    let other = store.load(Some(&["other:1"]), "b");
    assert_eq!(store.images.tag("other:1", "deb:12").unwrap(), other);
    assert_eq!(store.all()[&digest], ["localhost:5000/deb:latest"], "the name has moved");
    for bad in ["UPPER", "sha256:0123456789ab", "sha256:1", "0123456789ab", &format!("x@{digest}"), ""] {
        assert!(matches!(store.images.tag("other:1", bad), Err(ImageError::Reference(..))), "{bad}");
    }
    assert!(matches!(store.images.tag("absent:1", "box:1"), Err(ImageError::Absent(_))));
}
