//! The modules of a crate, and the files that they are in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use syn::{File, Item, ItemMod};

/// The path of a module from the root of its crate.
pub(crate) type ModulePath = Vec<String>;

/// The modules of a crate.
pub(crate) struct Tree {
    /// The file of each module; an inline module is in that of its parent.
    pub(crate) files: BTreeMap<ModulePath, PathBuf>,
    /// What each file contains, and the module that it is.
    pub(crate) sources: BTreeMap<PathBuf, (ModulePath, File)>,
}

/// Whether something is compiled for tests alone.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let list = attribute.meta.require_list();
        attribute.path().is_ident("cfg") && list.is_ok_and(|list| mentions_test(&list.tokens.to_string()))
    })
}

fn mentions_test(condition: &str) -> bool {
    condition.split(|c: char| !c.is_alphanumeric()).any(|word| word == "test") && !condition.contains("not")
}

/// A file, as messages name it.
pub(crate) fn shown(file: &Path, dir: &Path) -> String {
    file.strip_prefix(dir).unwrap_or(file).display().to_string()
}

impl Tree {
    /// Reads the modules of the crate with this root file, but for those of tests.
    pub(crate) fn read(top: &Path) -> Result<Tree, String> {
        let mut tree = Tree { files: BTreeMap::new(), sources: BTreeMap::new() };
        let dir = top.parent().unwrap_or(Path::new("."));
        tree.add(top, Vec::new(), dir)?;
        Ok(tree)
    }

    /// Adds a file and all modules below it; `dir` is where the files of its children are.
    fn add(&mut self, path: &Path, module: ModulePath, dir: &Path) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(&error))?;
        let file = syn::parse_file(&text).map_err(|error| told(&error))?;
        self.files.insert(module.clone(), path.to_owned());
        self.add_children(&file.items, path, &module, dir)?;
        self.sources.insert(path.to_owned(), (module, file));
        Ok(())
    }

    fn add_children(
        &mut self,
        items: &[Item],
        path: &Path,
        module: &[String],
        dir: &Path,
    ) -> Result<(), String> {
        let modules = items.iter().filter_map(|item| match item {
            Item::Mod(child) if !is_for_tests(&child.attrs) => Some(child),
            _ => None,
        });
        for ItemMod { ident, content, .. } in modules {
            let name = ident.to_string();
            let child: ModulePath = module.iter().cloned().chain([name.clone()]).collect();
            let below = dir.join(&name);
            match content {
                Some((_, inner)) => {
                    self.files.insert(child.clone(), path.to_owned());
                    self.add_children(inner, path, &child, &below)?;
                }
                None => {
                    let flat = dir.join(format!("{name}.rs"));
                    let file = if flat.exists() { flat } else { below.join("mod.rs") };
                    self.add(&file, child, &below)?;
                }
            }
        }
        Ok(())
    }

    /// The file of the deepest module that a path leads to, and how many of its segments name modules.
    pub(crate) fn resolve(&self, path: &[String]) -> (&Path, usize) {
        let deepest = (0..=path.len()).rev().find_map(|length| {
            let prefix = path.get(..length)?;
            Some((self.files.get(prefix)?.as_path(), length))
        });
        deepest.unwrap_or((Path::new(""), 0))
    }
}
