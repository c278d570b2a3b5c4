//! Circles of a directed graph.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

/// Which files a file imports.
pub(crate) type Imports = BTreeMap<PathBuf, BTreeSet<PathBuf>>;

/// The shortest circle through each strongly connected set of files, each once.
pub(crate) fn circles(imports: &Imports) -> Vec<Vec<PathBuf>> {
    let mut found: Vec<Vec<PathBuf>> = Vec::new();
    let mut seen: BTreeSet<&PathBuf> = BTreeSet::new();
    for start in imports.keys() {
        if seen.contains(start) {
            continue;
        }
        if let Some(circle) = shortest(imports, start) {
            let members: BTreeSet<&PathBuf> = imports.keys().filter(|file| circle.contains(file)).collect();
            seen.extend(members);
            found.push(circle);
        }
    }
    found
}

/// The shortest way from a file back to itself.
fn shortest(imports: &Imports, start: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut came_from: BTreeMap<&PathBuf, &PathBuf> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(file) = queue.pop_front() {
        for next in imports.get(file)? {
            if next == start {
                let mut way = vec![start.clone(), file.clone()];
                let mut at = file;
                while let Some(before) = came_from.get(at) {
                    way.push((*before).clone());
                    at = before;
                }
                way.dedup();
                way.reverse();
                return Some(way);
            }
            if imports.contains_key(next) && !came_from.contains_key(next) {
                came_from.insert(next, file);
                queue.push_back(next);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(arrows: &[(&str, &str)]) -> Imports {
        let mut all = Imports::new();
        for (from, to) in arrows {
            all.entry(PathBuf::from(from)).or_default().insert(PathBuf::from(to));
            all.entry(PathBuf::from(to)).or_default();
        }
        all
    }

    #[test]
    fn a_circle_of_any_length_is_found_and_a_diamond_is_none() {
        assert!(circles(&imports(&[("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])).is_empty());
        assert_eq!(circles(&imports(&[("a", "b"), ("b", "a")])).len(), 1);
        let long = circles(&imports(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]));
        assert_eq!(long.len(), 1);
        assert_eq!(long[0].len(), 4, "{long:?}");
    }
}
