use proptest::prelude::*;

use super::*;

#[test]
fn links_lead_within_the_archive() {
    assert_eq!(beside(b"a/layer.tar", b"../b/layer.tar"), b"b/layer.tar");
    assert_eq!(beside(b"a/layer.tar", b"../../../etc/passwd"), b"etc/passwd");
    assert_eq!(beside(b"a/b", b"/c"), b"c");
}

#[test]
fn an_archive_that_names_more_than_an_image_has_is_refused_before_anything_is_stored() {
    let archive = |layers: usize, images: usize| {
        let layers = vec!["l.tar"; layers];
        let image = serde_json::json!({ "Config": "c.json", "RepoTags": null, "Layers": layers });
        let mut archive = tar::Builder::new(Vec::new());
        let manifest = serde_json::to_vec(&vec![image; images]).unwrap();
        for (name, bytes) in [("c.json", &b"{}"[..]), ("l.tar", b"x"), ("manifest.json", &manifest)] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout(dir.path().to_owned());
        layout.dirs().iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
        let settings = Settings::for_architecture("amd64");
        let bytes = io::Cursor::new(archive.into_inner().unwrap());
        let archive = Archive::read(bytes, layout, &settings).unwrap();
        let refused = archive.images(&settings).map(drop).unwrap_err().to_string();
        (refused, std::fs::read_dir(dir.path().join("blobs")).unwrap().count())
    };
    let (refused, blobs) = archive(MOST_LAYERS + 1, 1);
    assert!(refused.contains("more than 512 layers") && blobs == 0, "{refused}");
    let (refused, blobs) = archive(1, MOST_IMAGES + 1);
    assert!(refused.contains("more than 1000 images") && blobs == 0, "{refused}");
    // So it is if the configuration is none.
    assert_eq!(archive(MOST_LAYERS, 1).1, 0);
}

/// Why files, packed as an archive, are none of images.
fn refused(files: &[(&str, &[u8])]) -> String {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes).unwrap();
    }
    refused_bytes(archive.into_inner().unwrap())
}

fn refused_bytes(bytes: Vec<u8>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout(dir.path().to_owned());
    layout.dirs().iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    let settings = Settings::for_architecture("amd64");
    let read = Archive::read(io::Cursor::new(bytes), layout, &settings);
    read.and_then(|archive| archive.images(&settings).map(drop)).unwrap_err().to_string()
}

#[test]
fn what_is_something_else_is_called_so() {
    let dir: [(&str, &[u8]); 2] =
        [("version", b"Directory Transport Version: 1.1\n"), ("manifest.json", b"{\"schemaVersion\": 2}")];
    assert!(refused(&dir).contains("a skopeo dir: layout is not supported; use oci: or docker-archive:"));
    assert!(refused(&[("etc/passwd", b"")]).contains("no archive of images"));
    let text = "root:x:0:0:root:/root:/bin/bash\n".repeat(40).into_bytes();
    assert!(refused_bytes(text).contains("no archive of images"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_archives_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout(dir.path().to_owned());
        std::fs::create_dir_all(layout.tmp()).unwrap();
        let settings = Settings::for_architecture("amd64");
        let images = Archive::read(io::Cursor::new(bytes), layout, &settings).and_then(|archive| archive.images(&settings));
        prop_assert!(images.is_err());
    }
}
