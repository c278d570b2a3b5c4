//! Layers that chance makes, the same ones for each seed.
//!
//! Names are few, so that layers meet. What is a link in a lower layer is no directory of an upper one here: there umoci
//! follows the link, while engines, whose layers lie over each other, have a directory, and so have we.

use super::tars::{Form, Item, append};

/// Numbers from a seed: xorshift.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn one_in(&mut self, most: u64) -> bool {
        self.below(most) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        if all.is_empty() { None } else { all.get(usize::try_from(self.below(all.len() as u64)).unwrap()) }
    }
}

/// What one layer is made with.
struct Maker<'c> {
    chance: &'c mut Chance,
    /// Links of this layer that lead to directories.
    links: Vec<String>,
    /// Files of this image that hard links can be made to.
    files: &'c mut Vec<String>,
}

/// The layers of an image.
pub(super) fn layers(seed: u64) -> Vec<Vec<u8>> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for _ in 0..5 {
        let _poor = chance.next();
    }
    let (count, mut files) = (1 + chance.below(4), Vec::new());
    let layer = |number| {
        let form = *chance.of(&[Form::Gnu, Form::Gnu, Form::Pax, Form::Pax, Form::Ustar, Form::V7]).unwrap();
        let entries = 3 + chance.below(20);
        let mut maker = Maker { chance: &mut chance, links: Vec::new(), files: &mut files };
        let mut archive = Vec::new();
        for _ in 0..entries {
            let item = maker.item(number > 0);
            append(&mut archive, form, &item);
        }
        // Not all writers end their archives, or fill up their records.
        let end = maker.chance.of(&[0, 1024, 1024, 10_240]).unwrap();
        archive.resize(archive.len() + end, 0);
        archive
    };
    (0..count).map(layer).collect()
}

impl Maker<'_> {
    /// A directory's path, perhaps over a link of this layer.
    fn dir(&mut self) -> String {
        let mut path = Vec::new();
        if self.chance.one_in(4)
            && let Some(link) = self.chance.of(&self.links)
        {
            path.push(link.clone());
        }
        for _ in 0..self.chance.below(4) {
            path.push(format!("d{}", self.chance.below(3)));
        }
        if self.chance.one_in(30) {
            path.push("long".repeat(30));
        }
        path.join("/")
    }

    fn below(&mut self, name: &str) -> String {
        let dir = self.dir();
        if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
    }

    /// The same path in another letter.
    fn spelled(&mut self, path: &str) -> String {
        match self.chance.below(12) {
            0 => format!("/{path}"),
            1 => format!("./{path}"),
            2 => format!("../{path}"),
            3 => format!("//{path}"),
            4 => format!("q/../{path}"),
            5 => format!("/../../{path}"),
            6 => path.replace('/', "/./"),
            7 => path.replace('/', "//"),
            _ => path.to_owned(),
        }
    }

    fn item(&mut self, over: bool) -> Item {
        let item = match self.chance.below(if over { 16 } else { 13 }) {
            0..=2 => {
                let path = self.dir();
                let slash = if self.chance.one_in(2) { "/" } else { "" };
                Item { path: format!("{}{slash}", self.spelled(&path)), ..Item::dir("") }
            }
            3..=6 => self.file(),
            7 | 8 => self.link(),
            9 => self.hard_link(),
            10 => {
                let path = self.below("p");
                Item { kind: b'6', path: self.spelled(&path), ..Item::dir("") }
            }
            11 => {
                let (path, kind) = (self.below("n"), *self.chance.of(b"34").unwrap());
                let number = u32::try_from(self.chance.below(300)).unwrap();
                Item::device(kind, &self.spelled(&path), (number, 7))
            }
            // What is one thing in a layer and another in the next.
            12 => {
                let name = *self.chance.of(&["d0", "d1/d2", "f0", "p"]).unwrap();
                let directory = name.starts_with('d') && !self.chance.one_in(8);
                if directory { Item::dir(name) } else { Item::file(name, b"instead") }
            }
            _ => self.whiteout(),
        };
        self.dressed(item)
    }

    fn file(&mut self) -> Item {
        let path = format!("f{}", self.chance.below(4));
        let path = self.below(&path);
        self.files.push(path.clone());
        let len = *self.chance.of(&[0, 1, 100, 511, 512, 513, 2048, 2049, 4096, 9000]).unwrap();
        let byte = u8::try_from(self.chance.below(250)).unwrap();
        let contents: Vec<u8> = (0..len).map(|at: u32| byte.wrapping_add((at % 251) as u8)).collect();
        Item::file(&self.spelled(&path), &contents)
    }

    fn link(&mut self) -> Item {
        let (name, dir) = (format!("l{}", self.chance.below(4)), self.dir());
        let path = self.below(&name);
        let target = match self.chance.below(6) {
            0 => format!("/{dir}"),
            1 => format!("../{dir}/d1"),
            2 => "nowhere/d0".to_owned(),
            3 => format!("/../{dir}/../d2"),
            4 => format!("./{dir}/"),
            _ => format!("d{}", self.chance.below(3)),
        };
        if self.chance.one_in(2) {
            self.links.push(path.clone());
        }
        Item::symlink(&self.spelled(&path), &target)
    }

    fn hard_link(&mut self) -> Item {
        let Some(target) = self.chance.of(self.files).cloned() else { return self.file() };
        let name = format!("h{}", self.chance.below(3));
        let path = self.below(&name);
        Item::hard_link(&self.spelled(&path), &self.spelled(&target))
    }

    fn whiteout(&mut self) -> Item {
        let name = *self.chance.of(&["d0", "d1", "f0", "f1", "l0", "h0", ".wh..opq", "gone"]).unwrap();
        let path = self.below(&format!(".wh.{name}"));
        Item::file(&self.spelled(&path), b"")
    }

    /// With an owner, a mode, a time, attributes, and a size that means nothing.
    fn dressed(&mut self, mut item: Item) -> Item {
        if self.chance.one_in(2) {
            let ids = [0, 1, 1000, 65_534, 65_535, 100_000, 2_000_000];
            item.owner = (*self.chance.of(&ids).unwrap(), *self.chance.of(&ids).unwrap());
        }
        if self.chance.one_in(2) {
            item.mode =
                *self.chance.of(&[0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o700, 0o000, 0o444, 0o555]).unwrap();
        }
        item.mtime = (u32::try_from(self.chance.below(1_700_000_000)).unwrap(), 0);
        if self.chance.one_in(3) {
            item.mtime.1 = u32::try_from(self.chance.below(1_000_000_000)).unwrap();
        }
        if matches!(item.kind, b'0' | b'5') && self.chance.one_in(4) {
            let value: Vec<u8> =
                (0..1 + self.chance.below(60)).map(|at| b"\nx= \0y"[(at % 6) as usize]).collect();
            let name = *self.chance.of(&["user.one", "trusted.two", "user.three.four"]).unwrap();
            item = item.xattr(name, &value);
        }
        if item.kind == b'0' && self.chance.one_in(12) {
            item = item.xattr("security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        }
        if item.kind != b'0' && self.chance.one_in(6) {
            item.size = 1 + self.chance.below(2000);
        }
        item
    }
}
