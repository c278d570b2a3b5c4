//! Docker in an instance, as its package sets it up: no option of the daemon, none of the instance but its memory.

use aegis_tests::{DEADLINE, Daemon, eventually, servers};

/// An image of one static program, imported as a file system, with a page to serve; and a shell that knows names, which Debian's
/// static busybox cannot look up without a crash.
const IMPORT: &str = r#"
mkdir -p /tmp/r/bin /tmp/r/www /tmp/r/tmp && cp /bin/busybox /tmp/r/bin/ && echo hello > /tmp/r/www/page
for name in sh echo cat sleep httpd id hostname tail; do ln -s busybox /tmp/r/bin/$name; done
cp --parents /bin/bash $(ldd /bin/bash | grep -o '/[^ ]*') /tmp/r
tar -C /tmp/r -c . | docker import --change 'ENV PATH=/bin' - box:1
"#;

/// Starts an instance with Docker's daemon. `None` where there is no image with it.
fn docker() -> Option<Daemon> {
    let daemon = Daemon::start();
    let image = servers::image(&daemon, "docker")?;
    let line =
        ["instance", "start", "--name", "box", "--image", &image, "--memory", "768", "--expose", "8080"];
    let _out = daemon.ok(&[&line[..], &["--", "dockerd"]].concat());
    let up = ["exec", "box", "--", "docker", "version"];
    eventually("Docker's daemon answers", DEADLINE, || {
        assert_eq!(daemon.state("box"), "running", "{}", daemon.ok(&["logs", "box"]));
        daemon.aegis(&up).code == 0
    });
    let _id = daemon.shell("box", IMPORT);
    Some(daemon)
}

/// A command that says what the page at `HOST/PORT` says.
fn get(from: &str) -> String {
    format!("bash -c 'exec 3<>/dev/tcp/{from} && echo GET /page HTTP/1.0 >&3 && echo >&3 && tail -n 1 <&3'")
}

/// Exit code and output, of both kinds, of a script.
fn said(daemon: &Daemon, script: &str) -> (i32, String) {
    let done = daemon.aegis(&["exec", "box", "--", "sh", "-c", &format!("{script} 2>&1")]);
    (done.code, done.out().trim_end().to_owned())
}

/// Waits until a container that serves does.
fn serves(daemon: &Daemon, from: &str) {
    let mut last = (0, String::new());
    let served = || {
        last = said(daemon, &format!("timeout 20 {}", get(from)));
        last == (0, "hello".to_owned())
    };
    eventually(&format!("{from} is served"), DEADLINE, served);
}

#[test]
#[ignore = "takes minutes: make servers"]
fn docker_works_with_its_defaults_and_its_containers_survive_hibernation() {
    let Some(daemon) = docker() else { return };
    let shell = |script: &str| daemon.shell("box", script);
    assert_eq!(shell("docker info --format '{{.Driver}} {{.CgroupVersion}}'"), "overlay2 2");
    let warnings = shell("docker info --format '{{range .Warnings}}{{println .}}{{end}}'");
    // It looks for that in its own control group, which is the root here, and has no limits.
    assert_eq!(warnings.replace("WARNING: No swap limit support", ""), "", "no warning");

    images(&daemon);
    limits(&daemon);
    networks(&daemon);

    // What goes to disk and comes back: the same processes, not new ones.
    let start = "docker run -d --name counts box:1 \
        sh -c 'n=0; while :; do n=$((n+1)); echo $n > /tmp/n; sleep 0.2; done'";
    let _id = shell(start);
    eventually("it counts", DEADLINE, || said(&daemon, "docker exec counts cat /tmp/n").0 == 0);
    let states = "docker ps --no-trunc --format '{{.ID}}' | sort | xargs docker inspect \
        --format '{{.Name}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}'";
    let before = shell(states);
    assert_eq!(before.lines().count(), 3, "{before}");
    let count = || shell("docker exec counts cat /tmp/n").parse::<u64>().unwrap_or(0);
    let counted = count();
    let _out = daemon.ok(&["instance", "hibernate", "box"]);
    assert_eq!(daemon.state("box"), "hibernated");
    assert_eq!(shell(states), before);
    eventually("it counts on", DEADLINE, || count() > counted);
    serves(&daemon, "127.0.0.1/8080");
    assert_eq!(shell(&format!("docker exec peer {}", get("web/80"))), "hello");
}

/// Images come in and go out, and are built.
fn images(daemon: &Daemon) {
    let shell = |script: &str| daemon.shell("box", script);
    let _out = shell("docker save --output /root/box.tar box:1 && docker image rm box:1");
    let loaded = shell("docker load --input /root/box.tar && rm /root/box.tar");
    assert!(loaded.contains("box:1"), "{loaded}");
    assert_eq!(said(daemon, "docker run --rm box:1 sh -c 'echo out; exit 42'"), (42, "out".to_owned()));
    assert_eq!(
        said(daemon, "docker run --rm --user 7 --hostname name box:1 sh -c 'id -u; hostname'").1,
        "7\nname"
    );

    let build = "mkdir -p /tmp/b && cd /tmp/b && echo copied > file && printf '%s\\n' 'FROM box:1' 'COPY file /file' \
        'RUN cat /file /www/page > /made' 'CMD [\"cat\", \"/made\"]' > Dockerfile && \
        DOCKER_BUILDKIT=0 docker build --tag built:1 .";
    let built = shell(build);
    assert!(built.contains("Successfully tagged built:1"), "{built}");
    assert_eq!(shell("docker run --rm built:1"), "copied\nhello");
}

/// Limits are there, and hold.
fn limits(daemon: &Daemon) {
    let options = "--cpus 0.5 --memory 32m --pids-limit 12";
    let look = "cd /sys/fs/cgroup && cat cpu.max memory.max pids.max";
    let read = daemon.shell("box", &format!("docker run --rm {options} box:1 sh -c '{look}'"));
    assert_eq!(read, "50000 100000\n33554432\n12");
    // One line without an end takes memory without one.
    let greedy = said(daemon, &format!("docker run --rm {options} box:1 tail -n 1 /dev/zero"));
    assert_eq!(greedy.0, 137, "{greedy:?}");
    let many = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13; do sleep 60 & done; echo all";
    let (_, forked) = said(daemon, &format!("docker run --rm {options} box:1 sh -c '{many}'"));
    assert!(forked.contains("can't fork") && !forked.contains("all"), "{forked}");
}

/// A published port is reached, and containers of a network of their own know each other by name.
fn networks(daemon: &Daemon) {
    let shell = |script: &str| daemon.shell("box", script);
    let _id = shell("docker network create --subnet 10.77.0.0/24 own");
    let serve = "httpd -f -p 80 -h /www";
    let _id = shell(&format!("docker run -d --name web --network own --publish 8080:80 box:1 {serve}"));
    let _id = shell("docker run -d --name peer --network own box:1 sleep 100000");
    serves(daemon, "127.0.0.1/8080");
    // By the address of its card, as others in a group would: through NAT, not through Docker's own proxy.
    let address = shell("ip -4 -o address show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'");
    serves(daemon, &format!("{address}/8080"));
    assert_eq!(shell(&format!("docker exec peer {}", get("web/80"))), "hello");
    let strange = said(daemon, &format!("timeout 30 docker run --rm box:1 {}", get("web/80")));
    assert_ne!(strange.0, 0, "a container of another network knows the name: {strange:?}");
    // From the host, as any server of an instance is.
    let info = daemon.info("box").unwrap();
    let port: u16 = info["endpoints"][0]["public_port"].as_u64().unwrap().try_into().unwrap();
    assert_eq!(from_the_host(port), "hello");
}

/// The page, asked for through a port of the instance.
fn from_the_host(port: u16) -> String {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /page HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _len = stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n\r\n").next().unwrap().trim_end().to_owned()
}
