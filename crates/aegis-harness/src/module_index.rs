//! The index of kernel modules: which files bring what the kernel asks for (`modules.dep`, `modules.alias`, as `depmod(8)` writes them).

use std::collections::{BTreeMap, BTreeSet};

/// How deep modules are looked for that others wish to have loaded with them.
const MOST_WISHES: u32 = 4;

/// The lists of one kernel's modules.
#[derive(Debug, Default)]
pub struct ModuleIndex<'a> {
    /// For each module its file and those of all modules that it needs, the innermost last; `modules.dep`.
    needs: BTreeMap<String, (&'a str, Vec<&'a str>)>,
    /// Patterns of what a module answers to; `modules.alias`.
    aliases: Vec<(&'a str, &'a str)>,
    /// What a module wants to be loaded before and after it, without needing it; `modules.softdep`.
    wishes: BTreeMap<String, ModuleRequests<'a>>,
}

#[derive(Debug, Default)]
struct ModuleRequests<'a> {
    before: Vec<&'a str>,
    after: Vec<&'a str>,
}

/// Dashes and underscores mean the same in names of modules.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The name of the module in a file such as `kernel/fs/xfs/xfs.ko`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    canonical(name.strip_suffix(".ko").unwrap_or(name))
}

impl<'a> ModuleIndex<'a> {
    /// Reads the contents of `modules.dep`, `modules.alias` and `modules.softdep`. Lines that are none are passed over.
    #[must_use]
    pub fn read(needs: &'a str, aliases: &'a str, wishes: &'a str) -> ModuleIndex<'a> {
        let needs = needs.lines().filter_map(|line| {
            let (file, needed) = line.split_once(':')?;
            Some((name_of(file), (file, needed.split_whitespace().collect())))
        });
        let aliases = aliases.lines().filter_map(|line| {
            let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            Some((pattern, module))
        });
        let wishes = wishes.lines().filter_map(|line| {
            let (module, rest) = line.strip_prefix("softdep ")?.split_once(' ')?;
            Some((canonical(module), ModuleRequests::read(rest)))
        });
        ModuleIndex { needs: needs.collect(), aliases: aliases.collect(), wishes: wishes.collect() }
    }

    /// The files to load for `wanted`, a module's name or what one answers to, in this order. None if nothing does, or if
    /// it is built in.
    #[must_use]
    pub fn files_for(&self, wanted: &str) -> Vec<&'a str> {
        let mut files = Vec::new();
        self.collect(wanted, MOST_WISHES, &mut files, &mut BTreeSet::new());
        files
    }

    fn collect(&self, wanted: &str, depth: u32, files: &mut Vec<&'a str>, seen: &mut BTreeSet<String>) {
        let modules: Vec<String> = match self.needs.contains_key(&canonical(wanted)) {
            true => vec![canonical(wanted)],
            false => self.answering(wanted).collect(),
        };
        for module in modules {
            let Some((file, needed)) = self.needs.get(&module) else { continue };
            if !seen.insert(module.clone()) {
                continue;
            }
            let wishes = self.wishes.get(&module);
            if depth > 0 {
                for wish in wishes.iter().flat_map(|wishes| &wishes.before) {
                    self.collect(wish, depth - 1, files, seen);
                }
            }
            for file in needed.iter().rev().chain([file]) {
                if !files.contains(file) {
                    files.push(file);
                }
            }
            if depth > 0 {
                for wish in wishes.iter().flat_map(|wishes| &wishes.after) {
                    self.collect(wish, depth - 1, files, seen);
                }
            }
        }
    }

    fn answering<'b>(&'b self, wanted: &'b str) -> impl Iterator<Item = String> + 'b {
        // Patterns of the kernel have their dashes as they are asked for, but for what stands in brackets.
        let answers = move |pattern: &str| {
            matches(pattern.as_bytes(), wanted.as_bytes())
                || matches(canonical(pattern).as_bytes(), canonical(wanted).as_bytes())
        };
        self.aliases.iter().filter(move |(pattern, _)| answers(pattern)).map(|(_, module)| canonical(module))
    }
}

impl<'a> ModuleRequests<'a> {
    fn read(line: &'a str) -> ModuleRequests<'a> {
        let mut wishes = ModuleRequests::default();
        let mut before = true;
        for word in line.split_whitespace() {
            match word {
                "pre:" => before = true,
                "post:" => before = false,
                name if before => wishes.before.push(name),
                name => wishes.after.push(name),
            }
        }
        wishes
    }
}

/// Whether `text` is of this pattern: `*` for anything, `?` for one byte, `[…]` for one of some, as `fnmatch(3)` has them.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut within) = (0, 0);
    // Where to go on if what follows the last star does not fit: the star takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while within < text.len() {
        match step(&pattern[at..], text[within]) {
            Step::Fits(taken) => (at, within) = (at + taken, within + 1),
            Step::Star => {
                star = Some((at + 1, within));
                at += 1;
            }
            Step::Differs => {
                let Some((after, taken)) = star else { return false };
                star = Some((after, taken + 1));
                (at, within) = (after, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

enum Step {
    /// One byte of the text, by so many of the pattern.
    Fits(usize),
    Star,
    Differs,
}

fn step(pattern: &[u8], byte: u8) -> Step {
    match pattern.first() {
        Some(b'*') => Step::Star,
        Some(b'?') => Step::Fits(1),
        Some(b'[') => match pattern.iter().position(|end| *end == b']') {
            Some(end) if is_one_of(&pattern[1..end], byte) => Step::Fits(end + 1),
            _ => Step::Differs,
        },
        Some(own) if *own == byte => Step::Fits(1),
        _ => Step::Differs,
    }
}

fn is_one_of(set: &[u8], byte: u8) -> bool {
    let mut rest = set;
    while let [first, others @ ..] = rest {
        if let [b'-', last, after @ ..] = others {
            if (*first..=*last).contains(&byte) {
                return true;
            }
            rest = after;
        } else {
            if *first == byte {
                return true;
            }
            rest = others;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEEDS: &str = "kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko kernel/crypto/crc32c_generic.ko
kernel/lib/libcrc32c.ko: kernel/crypto/crc32c_generic.ko
kernel/crypto/crc32c_generic.ko:
kernel/fs/btrfs/btrfs.ko: kernel/lib/raid6/raid6_pq.ko
kernel/lib/raid6/raid6_pq.ko:
kernel/crypto/xxhash_generic.ko:
kernel/crypto/a.ko:
kernel/crypto/b.ko:
kernel/net/nft-thing.ko:
nonsense
";
    const ALIASES: &str = "# Aliases extracted from modules themselves.
alias fs-xfs xfs
alias xxhash64 xxhash_generic
alias crypto-cbc(aes) b
alias pci:v0000[0-9a-c]d?* a
alias net-pf-16-proto-* nft_thing
";
    const WISHES: &str = "# Soft dependencies
softdep btrfs pre: crc32c_generic post: xxhash64
softdep a pre: b
softdep b pre: a
";

    fn catalogue() -> ModuleIndex<'static> {
        ModuleIndex::read(NEEDS, ALIASES, WISHES)
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        for wanted in ["xfs", "fs-xfs"] {
            let files = catalogue().files_for(wanted);
            assert_eq!(
                files,
                ["kernel/crypto/crc32c_generic.ko", "kernel/lib/libcrc32c.ko", "kernel/fs/xfs/xfs.ko"]
            );
        }
        assert_eq!(catalogue().files_for("libcrc32c").len(), 2);
    }

    #[test]
    fn dashes_and_underscores_mean_the_same() {
        for wanted in ["nft_thing", "nft-thing", "net-pf-16-proto-10"] {
            assert_eq!(catalogue().files_for(wanted), ["kernel/net/nft-thing.ko"], "{wanted}");
        }
        assert_eq!(catalogue().files_for("crypto-cbc(aes)").last(), Some(&"kernel/crypto/b.ko"));
    }

    #[test]
    fn what_a_module_wishes_is_loaded_before_or_after_and_circles_end() {
        let files = catalogue().files_for("btrfs");
        let at = |name: &str| files.iter().position(|file| file.ends_with(name)).unwrap();
        assert!(at("crc32c_generic.ko") < at("btrfs.ko") && at("btrfs.ko") < at("xxhash_generic.ko"));
        assert_eq!(catalogue().files_for("a"), ["kernel/crypto/b.ko", "kernel/crypto/a.ko"]);
    }

    #[test]
    fn what_nothing_answers_to_loads_nothing() {
        for wanted in ["", "fs-xfsx", "pci:v0000dd1", "pci:v00001d", "alias", "../xfs"] {
            assert_eq!(catalogue().files_for(wanted), Vec::<&str>::new(), "{wanted}");
        }
        assert_eq!(catalogue().files_for("pci:v0000bd1rest"), ["kernel/crypto/b.ko", "kernel/crypto/a.ko"]);
    }

    proptest! {
        #[test]
        fn any_pattern_and_text_come_to_an_end(pattern in "[a*?\\[\\]-]{0,12}", text in "[ab\\[-]{0,12}") {
            let _either = matches(pattern.as_bytes(), text.as_bytes());
            let starred = format!("*{text}*").replace('[', "?");
            prop_assert!(matches(starred.as_bytes(), text.as_bytes()));
        }
    }
}
