//! Which files a file imports: by `use`, or by a path in the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, UseTree, Visibility};

use crate::graph::Imports;
use crate::modules::{ModulePath, Tree, is_for_tests};

/// What a module makes known under names of its own: where each of them leads.
type Reexports = BTreeMap<ModulePath, BTreeMap<String, ModulePath>>;

/// Which files each file imports. A name that a file merely passes on is imported from where it comes from.
pub(crate) fn imports(tree: &Tree) -> Imports {
    let reexports = reexports(tree);
    let mut all = Imports::new();
    for (file, (module, source)) in &tree.sources {
        let mut finder =
            Finder { tree, reexports: &reexports, module: module.clone(), found: BTreeSet::new() };
        finder.visit_file(source);
        finder.found.remove(file);
        all.insert(file.clone(), finder.found);
    }
    all
}

fn reexports(tree: &Tree) -> Reexports {
    let mut all = Reexports::new();
    for (module, source) in tree.sources.values() {
        for item in &source.items {
            if let Item::Use(item) = item
                && is_reexport(item)
            {
                for (path, name) in leaves(&item.tree) {
                    if let Some(target) = absolute(tree, module, &path) {
                        all.entry(module.clone()).or_default().insert(name, target);
                    }
                }
            }
        }
    }
    all
}

fn is_reexport(item: &ItemUse) -> bool {
    !matches!(item.vis, Visibility::Inherited)
}

/// The paths that a `use` names, each with the name that it is known by.
fn leaves(tree: &UseTree) -> Vec<(ModulePath, String)> {
    match tree {
        UseTree::Path(path) => {
            let inner = leaves(&path.tree);
            let first = path.ident.to_string();
            let join = |(rest, name): (ModulePath, String)| {
                (std::iter::once(first.clone()).chain(rest).collect(), name)
            };
            inner.into_iter().map(join).collect()
        }
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(rename) => vec![(vec![rename.ident.to_string()], rename.rename.to_string())],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        // All names of a module: that is the module.
        _ => vec![(Vec::new(), "*".to_owned())],
    }
}

/// A path as seen from the root of the crate; `None` if it leads to another crate.
fn absolute(tree: &Tree, module: &[String], path: &[String]) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    let parent = || module.get(..module.len().checked_sub(1)?).map(<[String]>::to_vec);
    let (mut base, mut rest) = match first.as_str() {
        "crate" => (Vec::new(), rest),
        "self" => (module.to_vec(), rest),
        "super" => (parent()?, rest),
        name => {
            // A child of this module, which is named without more.
            let child: ModulePath = module.iter().cloned().chain([name.to_owned()]).collect();
            tree.files.contains_key(&child).then_some((child, rest))?
        }
    };
    while let Some((next, more)) = rest.split_first()
        && next == "super"
    {
        base.pop()?;
        rest = more;
    }
    base.extend(rest.iter().filter(|name| *name != "self").cloned());
    Some(base)
}

/// Finds what one file imports.
struct Finder<'t> {
    tree: &'t Tree,
    reexports: &'t Reexports,
    module: ModulePath,
    found: BTreeSet<PathBuf>,
}

impl Finder<'_> {
    fn note(&mut self, path: &[String]) {
        let Some(mut target) = absolute(self.tree, &self.module, path) else { return };
        // Through what modules on the way pass on, as often as that may be.
        for _ in 0..8 {
            let (_, length) = self.tree.resolve(&target);
            let (Some(module), Some(name)) = (target.get(..length), target.get(length)) else { break };
            let Some(onwards) = self.reexports.get(module).and_then(|names| names.get(name)) else { break };
            let more = target.get(length + 1..).unwrap_or_default().to_vec();
            target = onwards.iter().cloned().chain(more).collect();
        }
        let (file, _) = self.tree.resolve(&target);
        self.found.insert(file.to_owned());
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_reexport(item) {
            leaves(&item.tree).iter().for_each(|(path, _)| self.note(path));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            let names: ModulePath = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.note(&names);
        }
        visit::visit_path(self, path);
    }
}
