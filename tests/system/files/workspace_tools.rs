//! What developers do in `/workspace`, each against the same on a local disk.

use std::path::Path;
use std::process::Command;

use aegis_tests::{Daemon, short};

/// Runs a script in `/workspace` and on the instance's own disk; both must say the same, and something.
fn same(memory: &str, more: &[&str], script: &str) -> String {
    let daemon = Daemon::start();
    let settings = ["instance", "start", "--name", "box", "--memory", memory, "--workspace", "w"];
    assert_ne!(daemon.ok(&[&settings[..], more, &["--", "sleep", "1000"]].concat()), "");
    let run = |dir: &str| {
        let script = format!("set -e; mkdir -p {dir}/t; cd {dir}/t; {script}");
        daemon.ok(&["exec", "box", "--env", "HOME=/root", "--", "bash", "-c", &script])
    };
    let (shared, local) = (run("/workspace"), run("/srv"));
    assert!(!local.is_empty());
    assert_eq!(shared, local);
    shared
}

#[test]
fn git_clones_commits_and_tells_changes() {
    let out = same(
        "256",
        &[],
        "export GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' GIT_AUTHOR_DATE='2026-01-01T00:00:00Z'
        git config --global user.email a@b.c; git config --global user.name n
        git init -q -b main origin; cd origin; mkdir -p a/b
        for i in $(seq 60); do echo $i > a/f$i; done; ln -s f1 a/link; echo '#!/bin/sh' > run; chmod +x run
        git add . ; git commit -q -m one
        cd ..; git clone -q origin clone; cd clone; git status --short; echo new > a/f1; rm a/f2; touch a/n
        git status --short; git stash -q -u; git status --short; git stash pop -q; git add -A
        git gc -q; git fsck 2>&1; git log --format='%H %s'; git diff --cached --stat",
    );
    assert!(out.contains(" M a/f1\n D a/f2\n?? a/n\n"), "{out}");
}

#[test]
fn git_takes_repositories_of_other_users() {
    let (daemon, dir) = (Daemon::start(), tempfile::tempdir().unwrap());
    let repo = dir.path().join("repo");
    assert!(Command::new("git").args(["init", "-q"]).arg(&repo).status().unwrap().success());
    let mount = format!("{}:/src", repo.display());
    let start =
        ["instance", "start", "--name", "box", "--memory", "256", "--mount", &mount, "--", "sleep", "1000"];
    assert_eq!(daemon.aegis(&start).code, 0);
    let make = "git init -q /workspace/origin && git -C /workspace/origin -c user.name=n -c user.email=a@b.c commit -q --allow-empty -m one
        git clone -q /workspace/origin /workspace/deep/app && cp -r /workspace/deep/app /srv/app && chown -R 7 /srv/app";
    assert_eq!(daemon.shell("box", make), "");
    for user in ["root", "1000", "1000:1000"] {
        let look = "for repo in /workspace/deep/app /srv/app; do git -C $repo status --short && git -C $repo log --format=%s; done && git -C /src status --short";
        let exec = ["exec", "--user", user, "box", "--", "sh", "-c", look];
        assert_eq!(daemon.ok(&exec), "one\none\n", "{user}");
    }
}

#[test]
fn pip_installs_from_local_files() {
    let out = same(
        "256",
        &[],
        "mkdir -p p/hello; printf 'def hi():\\n    return 42\\n' > p/hello/__init__.py
        python3 - <<'E'
import zipfile, hashlib, base64
files = {'hello/__init__.py': open('p/hello/__init__.py').read(),
  'hello-1.0.dist-info/METADATA': 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n',
  'hello-1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'}
record = ''.join(f'{n},,\\n' for n in files) + 'hello-1.0.dist-info/RECORD,,\\n'
with zipfile.ZipFile('hello-1.0-py3-none-any.whl', 'w') as z:
  for n, t in {**files, 'hello-1.0.dist-info/RECORD': record}.items(): z.writestr(n, t)
E
        pip install -q --no-index --no-cache-dir --root-user-action=ignore --target site ./hello-1.0-py3-none-any.whl
        PYTHONPATH=site python3 -c 'import hello; print(hello.hi())'; ls site site/hello",
    );
    assert!(out.contains("42\n"), "{out}");
}

/// Where a program of this host really is.
fn located(program: &str) -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{program} is needed: scripts/dependencies test")).canonicalize().unwrap()
}

/// What lets a guest use this host's Node.js: mounts, and a script that makes `node` and `npm` work.
pub(crate) fn node() -> (Vec<String>, String) {
    let (node, npm) = (located("node"), located("npm"));
    let mount = |file: &Path, at: &str| format!("{}:{at}:ro", file.parent().unwrap().display());
    // npm's own modules may be links to its neighbours.
    let modules = npm.ancestors().nth(3).unwrap().to_owned();
    let (bin, libraries) = (mount(&node, "/host/bin"), format!("{}:/host/modules:ro", modules.display()));
    let cli = npm.strip_prefix(&modules).unwrap().display().to_string();
    let arch = std::env::consts::ARCH;
    // The host's own loader and libraries: the guest's may be older, or not there.
    let loaders = [format!("/usr/lib/{arch}-linux-gnu"), "/usr/lib64".to_owned(), "/usr/lib".to_owned()];
    let loader = loaders.iter().find_map(|dir| {
        let names = ["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"].map(str::to_owned);
        names.into_iter().find(|name| Path::new(dir).join(name).exists()).map(|name| (dir.clone(), name))
    });
    let (system, loader) = loader.unwrap();
    let script = format!(
        "node() {{ /host/lib/{loader} --library-path /host/lib /host/bin/node \"$@\"; }}
        npm() {{ node /host/modules/{cli} --no-audit --no-fund --no-update-notifier --loglevel=error \"$@\"; }}\n"
    );
    (vec![bin, libraries, format!("{system}:/host/lib:ro")], script)
}

#[test]
fn npm_installs_from_local_files() {
    let (mounts, tools) = node();
    let script = format!(
        "{tools}
        mkdir -p left right/lib app
        echo '{{\"name\":\"left\",\"version\":\"1.0.0\",\"main\":\"i.js\"}}' > left/package.json; echo 'module.exports=40' > left/i.js
        echo '{{\"name\":\"right\",\"version\":\"1.0.0\",\"bin\":{{\"right\":\"lib/i.js\"}},\"dependencies\":{{\"left\":\"file:../left\"}}}}' > right/package.json
        printf '#!/usr/bin/env node\\nconsole.log(2)\\n' > right/lib/i.js
        echo '{{\"name\":\"app\",\"version\":\"1.0.0\"}}' > app/package.json
        (cd left; npm pack --silent >/dev/null); cd app; npm install --offline --silent ../left/left-1.0.0.tgz ../right
        ls -A node_modules node_modules/.bin; readlink node_modules/right
        node -e 'console.log(require(\"left\") + 2)'; npm ls | tail -n +2",
    );
    let mounts: Vec<&str> = mounts.iter().flat_map(|mount| ["--mount", mount.as_str()]).collect();
    let out = same("1g", &mounts, &script);
    assert!(out.contains("42\n"), "{out}");
}

#[test]
fn cargo_builds_from_local_files() {
    if short() {
        return;
    }
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    let toolchain = format!("{}:/host/rust:ro", sysroot.trim());
    let out = same(
        "1g",
        &["--mount", &toolchain, "--cpus", "2"],
        "export PATH=/host/rust/bin:$PATH CARGO_HOME=$PWD/home
        mkdir -p one/src two/src; printf '[workspace]\\nmembers=[\"one\",\"two\"]\\nresolver=\"2\"\\n' > Cargo.toml
        printf '[package]\\nname=\"one\"\\nversion=\"1.0.0\"\\nedition=\"2021\"\\n' > one/Cargo.toml
        echo 'pub fn n() -> u32 { 40 }' > one/src/lib.rs
        printf '[package]\\nname=\"two\"\\nversion=\"1.0.0\"\\nedition=\"2021\"\\n[dependencies]\\none={path=\"../one\"}\\n' > two/Cargo.toml
        echo 'pub fn m() -> u32 { one::n() + 2 }' > two/src/lib.rs
        cargo build --offline --quiet; cargo build --offline 2>&1 | grep -o Finished
        echo '// more' >> one/src/lib.rs; cargo build --offline 2>&1 | grep -o 'Compiling [a-z]*' | sort; ls target/debug",
    );
    assert!(out.contains("Compiling one\nCompiling two\n") && out.contains("libtwo.rlib"), "{out}");
}

#[test]
fn sqlite_keeps_its_promises_in_both_modes() {
    let out = same(
        "192",
        &[],
        "cat > t.py <<'E'
import sqlite3, sys, threading, os
for mode in ('delete', 'wal'):
    name = mode + '.db'
    db = sqlite3.connect(name)
    print(db.execute('pragma journal_mode=' + mode).fetchone())
    db.execute('create table t(n integer)'); db.commit()
    pid = os.fork()
    other = sqlite3.connect(name, timeout=60)
    for i in range(30):
        with other: other.execute('insert into t values (?)', (i,))
    other.close()
    if pid == 0: os._exit(0)
    print(os.waitpid(pid, 0)[1])
    print(db.execute('select count(*), sum(n) from t').fetchone(), db.execute('pragma integrity_check').fetchone())
    try:
        with db: db.execute('insert into t values (1)'); raise KeyError
    except KeyError: print(db.execute('select count(*) from t').fetchone())
    db.close()
E
        python3 t.py",
    );
    assert_eq!(out.matches("(60, 870) ('ok',)\n").count(), 2, "{out}");
}

#[test]
fn files_behave_as_on_a_local_disk() {
    let out = same(
        "192",
        &[],
        "cat > t.py <<'E'
import os, mmap, fcntl, errno, stat, time
def err(f, *a, **k):
    try: return f(*a, **k)
    except OSError as e: return errno.errorcode[e.errno]
# mmap, shared, between processes and with write()
f = os.open('m', os.O_RDWR | os.O_CREAT); os.ftruncate(f, 100000)
m = mmap.mmap(f, 100000); m[5000:5005] = b'hello'
if os.fork() == 0: m[70000:70003] = b'you'; os._exit(0)
os.wait(); m.flush(); print(m[70000:70003], os.pread(f, 5, 5000)); os.pwrite(f, b'W', 5001); print(m[5000:5005])
m.close(); os.close(f); print(open('m','rb').read()[4999:5006], os.stat('m').st_size)
# unlinked but open
f = os.open('u', os.O_RDWR | os.O_CREAT); os.write(f, b'x' * 70000); os.unlink('u')
os.write(f, b'tail'); print(os.path.exists('u'), os.pread(f, 4, 70000), os.fstat(f).st_nlink, os.fstat(f).st_size)
os.ftruncate(f, 3); print(os.pread(f, 9, 0)); os.close(f)
# rename: over a file, an open one, a directory, into itself
open('a','w').write('a'); open('b','w').write('b'); g = open('b'); os.rename('a','b')
print(open('b').read(), g.read(), os.path.exists('a')); g.close()
os.makedirs('d/e/f'); open('d/e/f/x','w').write('deep'); h = open('d/e/f/x'); os.rename('d/e','e2')
print(h.read(), open('e2/f/x').read(), err(os.rename, 'd', 'd/s'), err(os.rename, 'e2', 'b'), err(os.rmdir, 'e2'))
os.chdir('e2/f'); os.rename('../../e2', '../../e3'); print(os.getcwd().endswith('e3/f'), open('x').read()); os.chdir('../..')
# links
os.link('b','l'); print(os.stat('b').st_nlink, os.stat('b').st_ino == os.stat('l').st_ino); open('l','a').write('!'); print(open('b').read())
os.unlink('b'); print(open('l').read(), os.stat('l').st_nlink)
os.symlink('nowhere','s'); print(os.readlink('s'), err(open, 's'), stat.S_ISLNK(os.lstat('s').st_mode)); print(err(os.symlink, 'x', 's'))
# locks
p, q = open('k','w'), open('k','w'); fcntl.flock(p, fcntl.LOCK_EX); print(err(fcntl.flock, q, fcntl.LOCK_EX | fcntl.LOCK_NB))
fcntl.flock(p, fcntl.LOCK_UN); fcntl.flock(q, fcntl.LOCK_EX | fcntl.LOCK_NB); fcntl.lockf(p, fcntl.LOCK_EX | fcntl.LOCK_NB)
if os.fork() == 0: print(err(fcntl.lockf, q, fcntl.LOCK_EX | fcntl.LOCK_NB), flush=True); os._exit(0)
os.wait()
# long and deep
n = 'n' * 255; open(n,'w').write('long'); print(open(n).read(), err(open, n + 'n', 'w'))
top = os.getcwd()
for i in range(60): os.mkdir('p' * 100); os.chdir('p' * 100)
open('bottom','w').write('deep'); print(open('bottom').read(), len(os.getcwd()) > 6000); os.chdir(top)
os.system('rm -rf ' + 'p' * 100); print(os.path.exists('p' * 100))
# holes, appends, truncation, exclusive, times, modes, big offsets
with open('o','wb') as f: f.seek(1 << 33); f.write(b'end')
print(os.stat('o').st_size, os.stat('o').st_blocks < 1000); os.unlink('o')
for i in range(3): open('ap','a').write(str(i))
print(open('ap').read(), err(os.open, 'ap', os.O_CREAT | os.O_EXCL)); open('ap','w').close(); print(os.stat('ap').st_size)
os.utime('ap', ns=(10**18 + 1, 10**18 + 7)); print(os.stat('ap').st_mtime_ns, os.stat('ap').st_atime_ns); os.chmod('ap', 0o604); print(oct(os.stat('ap').st_mode))
t = os.stat('ap').st_ctime_ns; time.sleep(.05); open('ap','a').write('x'); print(os.stat('ap').st_mtime_ns > t)
print(err(os.mkdir, 'ap'), err(os.listdir, 'ap'), err(os.unlink, 'd'), err(os.rmdir, 'absent'), err(open, 'ap/x'))
# sockets and pipes
import socket; s = socket.socket(socket.AF_UNIX); s.bind('sock'); s.listen(); c = socket.socket(socket.AF_UNIX); c.connect('sock'); print('connected')
os.mkfifo('ff'); r = os.open('ff', os.O_RDONLY | os.O_NONBLOCK); w = os.open('ff', os.O_WRONLY); os.write(w, b'pipe'); print(os.read(r, 9))
# allocation, copies, direct
f = os.open('fa', os.O_RDWR | os.O_CREAT); os.posix_fallocate(f, 0, 50000); print(os.fstat(f).st_size); print(os.copy_file_range(os.open('l', os.O_RDONLY), f, 2)); os.close(f)
E
        python3 t.py",
    );
    assert!(out.contains("b'hello'") && out.contains("True"), "{out}");
}

#[test]
fn a_hundred_thousand_files_fit_into_one_directory() {
    if short() {
        return;
    }
    let daemon = Daemon::start();
    let many = daemon.root().join("data/workspaces/w/many");
    std::fs::create_dir_all(&many).unwrap();
    for number in 0..99_000 {
        std::fs::write(many.join(format!("f{number}")), "").unwrap();
    }
    let settings = ["run", "--memory", "256", "--workspace", "w", "--", "python3", "-c"];
    // The rest is made while the directory is that large.
    let script = "import os
os.chdir('many')
for i in range(99000, 100000): open('f%d' % i, 'w').close()
names = os.listdir('.'); print(len(names), len(set(names)))
print(sum(e.is_file() for e in os.scandir('.')))
print(os.path.exists('f0'), os.path.exists('f99999'), os.path.exists('f100000'))
seen = 0
with os.scandir('.') as it:
    for e in it:
        seen += 1
        if seen % 100 == 0: os.unlink(e.name)
print(seen, len(os.listdir('.')))";
    let out = daemon.ok(&[&settings[..], &[script]].concat());
    assert_eq!(out, "100000 100000\n100000\nTrue True False\n100000 99000\n");
}
