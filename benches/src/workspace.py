"""Times what developers' tools do in a directory, given as argument. What was cached is dropped before each."""
import io, json, os, subprocess, sys, tarfile, time

os.chdir(sys.argv[1])
times = {}


def measure(name, work):
    subprocess.run(["sync"], check=True)
    with open("/proc/sys/vm/drop_caches", "w") as caches:
        caches.write("3")
    begun = time.monotonic()
    work()
    times[name] = (time.monotonic() - begun) * 1e3


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)


def read():
    for top, _, files in os.walk("src"):
        for name in files:
            with open(os.path.join(top, name), "rb") as file:
                file.read()


def create():
    os.mkdir("new")
    for number in range(500):
        with open(f"new/f{number}", "wb") as file:
            file.write(b"x" * 2000)


def write_big():
    with open("out", "wb") as file:
        for _ in range(32):
            file.write(b"y" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())


def read_big():
    with open("big", "rb") as file:
        while file.read(1 << 20):
            pass


subprocess.run(["rm", "-rf", "new", "repo", "unpacked", "out"], check=True)
measure("find", lambda: run("find", "src"))
measure("read", read)
measure("create", create)
os.mkdir("repo")
for number in range(500):
    os.makedirs(f"repo/d{number // 50}", exist_ok=True)
    with open(f"repo/d{number // 50}/f{number}", "w") as file:
        file.write(f"{number}\n")
git = ["git", "-C", "repo", "-c", "user.name=n", "-c", "user.email=a@b.c", "-c", "safe.directory=*"]
for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
    run(*git, *command)
measure("status", lambda: run(*git, "status", "--short"))
archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    for number in range(500):
        entry = tarfile.TarInfo(f"d{number // 50}/f{number}")
        entry.size, entry.mtime = 3000, 1_700_000_000
        tar.addfile(entry, io.BytesIO(b"z" * 3000))
os.mkdir("unpacked")
measure("untar", lambda: run("tar", "-C", "unpacked", "-xf", "-", input=archive.getvalue()))
measure("write_big", write_big)
measure("read_big", read_big)
print(json.dumps(times))
