//! What is written under another name until it is complete.

use aegis_paths::Dir;
use rustix::fs::AtFlags;
use rustix::io::Errno;

/// How many names are tried: somebody may make what is there already.
const MOST_TRIES: usize = 16;

/// A name beside the one that is meant, which goes with this unless it has become that.
pub(crate) struct Temporary<'a> {
    dir: &'a Dir,
    name: String,
    there: bool,
}

impl<'a> Temporary<'a> {
    /// Makes something under a name that nobody has: short, whatever it will be called.
    pub(crate) fn make<T>(
        dir: &'a Dir,
        make: impl Fn(&str) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<(Temporary<'a>, T)> {
        let mut last = Errno::EXIST;
        for _ in 0..MOST_TRIES {
            let name = fresh()?;
            match make(&name) {
                Ok(made) => return Ok((Temporary { dir, name, there: true }, made)),
                Err(Errno::EXIST) => {}
                Err(error) => last = error,
            }
            if last != Errno::EXIST {
                break;
            }
        }
        Err(last)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it the name that is meant, in place of what had it.
    pub(crate) fn keep(mut self, name: &[u8]) -> rustix::io::Result<()> {
        rustix::fs::renameat(self.dir, self.name.as_str(), self.dir, name)?;
        self.there = false;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.there {
            // Nobody is left to tell if it cannot be removed.
            let _left = rustix::fs::unlinkat(self.dir, self.name.as_str(), AtFlags::empty());
        }
    }
}

fn fresh() -> rustix::io::Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!(".aegis-copy-{:016x}", u64::from_ne_bytes(random)))
}
