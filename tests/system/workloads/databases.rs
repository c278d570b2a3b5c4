//! PostgreSQL and Redis through everything that may happen to an instance, with clients outside that keep account of each
//! write that was acknowledged to them.

use std::sync::Arc;

use aegis_tests::{DEADLINE, Daemon, eventually, is_alive, servers};
use rustix::process::{Pid, Signal, kill_process};

use crate::lifecycle::clients::kinds;

mod clients;
mod ledger;

use clients::{Postgres, Redis};
use ledger::Ledger;

/// Both servers; they end in good order when they are told to, and the instance with them.
const SERVERS: &str = r#"
mkdir -p /var/lib/redis
redis-server --bind 0.0.0.0 --protected-mode no --save '' --appendonly yes --appendfsync always --dir /var/lib/redis &
redis=$!
trap 'kill $redis; pg_ctlcluster 15 main stop -m fast; wait $redis; exit 0' TERM
pg_ctlcluster 15 main start
wait $redis
"#;

/// What the tables of pgbench must agree in: the sums of their balances, and of what its history says was added.
const SUMS: &str = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
    (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";

const PGBENCH: &str = "env PGDATABASE=postgres /usr/lib/postgresql/15/bin/pgbench -U postgres --no-vacuum";

/// The instance, and what is asked of it.
struct Lab {
    daemon: Arc<Daemon>,
    port: u16,
}

impl Lab {
    /// Starts it. `None` where there is no image.
    fn start() -> Option<Lab> {
        let daemon = Daemon::start();
        let image = servers::image(&daemon, "databases")?;
        let line = ["instance", "start", "--name", "db", "--image", &image, "--expose", "6379/tcp"];
        let _out = daemon.ok(&[&line[..], &["--", "sh", "-c", SERVERS]].concat());
        let port = port(&daemon, "db");
        let lab = Lab { daemon: Arc::new(daemon), port };
        lab.is_up("the first start");
        Some(lab)
    }

    fn sql(&self, statement: &str) -> String {
        Postgres::ask(&self.daemon, "db", statement)
    }

    /// Waits until PostgreSQL has come up, which it does a while after the machine; a connection to Redis wakes that.
    fn is_up(&self, after: &str) {
        eventually(&format!("Redis is up after {after}"), DEADLINE, || {
            Redis::connect(self.port).is_ok_and(|mut redis| redis.ask(&["PING"]).is_ok())
        });
        let ready = ["exec", "db", "--", "pg_isready", "--quiet"];
        eventually(&format!("PostgreSQL is up after {after}"), DEADLINE, || {
            self.daemon.aegis(&ready).code == 0
        });
    }

    /// The machine's only process on the host.
    fn machine(&self) -> i32 {
        let machines = self.daemon.machines();
        assert_eq!(machines.len(), 1, "{machines:?}");
        machines[0]
    }

    fn happened(&self, kind: &str) -> usize {
        kinds(&self.daemon, "db").iter().filter(|one| *one == kind).count()
    }

    /// Kills the machine, as a crash of QEMU or the host's OOM killer would.
    fn kill_machine(&self) {
        let pid = self.machine();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        eventually("the machine is gone", DEADLINE, || !is_alive(pid));
    }

    /// A pause that lasts until the next connection.
    fn pause_until_the_next_connection(&self) {
        let _out = self.daemon.ok(&["instance", "pause", "db"]);
        assert_eq!(self.daemon.state("db"), "paused");
        assert_eq!(Redis::connect(self.port).unwrap().ask(&["PING"]).unwrap(), ["PONG"]);
        assert_eq!(self.daemon.state("db"), "running");
    }

    /// Sums of pgbench agree, and its history has this many entries at least.
    fn sums_agree(&self, after: &str, entries: usize) {
        let sums = self.sql(SUMS);
        let distinct: std::collections::BTreeSet<&str> = sums.split('|').collect();
        assert_eq!(distinct.len(), 1, "sums of pgbench after {after}: {sums}");
        assert!(self.entries() >= entries, "{} of {entries} transactions after {after}", self.entries());
    }

    fn entries(&self) -> usize {
        self.sql("select count(*) from pgbench_history").parse().unwrap()
    }
}

fn port(daemon: &Daemon, name: &str) -> u16 {
    daemon.info(name).unwrap()["endpoints"][0]["public_port"].as_u64().unwrap().try_into().unwrap()
}

#[test]
#[ignore = "takes minutes: make servers"]
fn transactions_of_pgbench_end_once_and_agree_through_pauses_hibernation_and_death_of_the_machine() {
    let Some(lab) = Lab::start() else { return };
    let (daemon, each) = (&lab.daemon, 500);
    let _out = daemon.shell("db", &format!("{PGBENCH} --initialize --quiet --scale 1 2>&1"));
    // What goes to disk hangs an exec up: it goes on without one.
    let run = |options: &str| {
        let line = format!("setsid {PGBENCH} --client 2 {options} > /root/said 2>&1 < /dev/null & echo $!");
        daemon.shell("db", &line)
    };
    let after = |count: usize| eventually("pgbench gets on", DEADLINE, || lab.entries() >= count);
    let pid = run(&format!("--transactions {each}"));
    after(1);
    lab.pause_until_the_next_connection();
    after(50);
    lab.pause_until_the_next_connection();
    let _out = daemon.ok(&["instance", "hibernate", "db"]);
    assert_eq!((daemon.state("db").as_str(), lab.entries() < 2 * each), ("hibernated", true));
    let _out = daemon.shell("db", &format!("while kill -0 {pid} 2> /dev/null; do sleep 0.1; done"));
    let said = daemon.shell("db", "cat /root/said");
    let processed = format!("number of transactions actually processed: {0}/{0}", 2 * each);
    assert!(said.contains(&processed) && said.contains("failed transactions: 0 "), "{said}");
    assert_eq!(lab.entries(), 2 * each, "each once");
    lab.sums_agree("pauses", 2 * each);

    let _pid = run("--time 600");
    after(2 * each + 50);
    lab.kill_machine();
    lab.is_up("death of the machine");
    lab.sums_agree("death of the machine", 2 * each + 50);
}

#[test]
#[ignore = "takes minutes: make servers"]
fn no_acknowledged_write_is_lost_and_none_that_a_restore_took_back_is_there() {
    let Some(lab) = Lab::start() else { return };
    let daemon = &lab.daemon;
    // No unique key: what is written twice is to be seen.
    let _out = lab.sql("create table w (at bigserial, n bigint not null)");
    let (redis, postgres) = (Ledger::new("Redis"), Ledger::new("PostgreSQL"));
    let both = [&redis, &postgres];
    let clients = [redis.keep(Redis::writer(lab.port)), postgres.keep(Postgres::writer(daemon, "db"))];
    let check = |after: &str| {
        for one in both {
            one.goes_on(after);
        }
        redis.check(after, || Redis::numbers(lab.port));
        postgres.check(after, || Postgres::numbers(daemon, "db"));
    };
    let failures = || both.map(Ledger::failures);
    check("the first writes");

    let before = failures();
    for pauses in 1..=3 {
        // The next byte of any client ends it.
        let _out = daemon.ok(&["instance", "pause", "db"]);
        assert_eq!(Redis::connect(lab.port).unwrap().ask(&["PING"]).unwrap(), ["PONG"]);
        for one in both {
            one.goes_on("a pause");
        }
        assert_eq!(lab.happened("paused"), pauses);
    }
    check("pauses");
    let _out = daemon.ok(&["instance", "pause", "db"]);
    let resumed = daemon.aegis(&["instance", "resume", "db"]);
    assert!(resumed.code == 0 || resumed.err().contains("running"), "{}", resumed.err());
    check("a pause and a resume");
    let moments = Ledger::moment_of(both, || {
        drop(daemon.ok(&["fork", "db", "--name", "child", "--expose", "6379/tcp"]))
    });
    for one in both {
        one.goes_on("a fork");
    }
    assert_eq!(failures(), before, "pauses and a fork cut no connection");
    forked(&lab, both, moments);
    check("writes to a child");

    let _out = daemon.ok(&["instance", "hibernate", "db"]);
    check("a hibernation");
    assert!(lab.happened("hibernated") >= 1, "{:?}", kinds(daemon, "db"));
    let machine = lab.machine();
    daemon.crash();
    daemon.up();
    check("a crash of the daemon");
    assert_eq!(lab.machine(), machine, "the machine goes on without the daemon");

    let moments = Ledger::moment_of(both, || drop(daemon.ok(&["snapshot", "create", "db", "before"])));
    check("a snapshot");
    lab.kill_machine();
    check("death of the machine");
    let _out = daemon.ok(&["instance", "stop", "db"]);
    // A client that comes back may be first.
    let started = daemon.aegis(&["instance", "start", "--name", "db"]);
    assert!(started.code == 0 || started.err().contains("already"), "{}", started.err());
    check("a stop and a start");
    for round in ["a restore", "another restore of the same"] {
        Ledger::put_back(both, moments, || drop(daemon.ok(&["snapshot", "restore", "before"])));
        assert_eq!(daemon.started_by("db"), "snapshot", "with its memory");
        check(round);
    }
    lab.kill_machine();
    check("death of the restored machine");

    for (one, client) in both.into_iter().zip(clients) {
        one.end();
        client.join().unwrap();
    }
}

/// A child has what was acknowledged to the clients of its parent before, and from then on each has its own.
fn forked(lab: &Lab, [redis, postgres]: [&Ledger; 2], moments: [ledger::Moment; 2]) {
    const OWN: u64 = 1_000_000_000;
    let (daemon, child) = (&lab.daemon, "child-1");
    assert_eq!(daemon.started_by(child), "fork");
    let port = port(daemon, child);
    for own in [None, Some(OWN)] {
        if let Some(own) = own {
            Redis::writer(port)(own).unwrap();
            Postgres::writer(daemon, child)(own).unwrap();
        }
        let lists = [Redis::numbers(port), Postgres::numbers(daemon, child)];
        for ((ledger, moment), mut found) in [redis, postgres].into_iter().zip(moments).zip(lists) {
            let last = own.map(|_| found.pop());
            assert_eq!(last.flatten(), own);
            ledger.check_copy(moment, "the child", &found);
        }
    }
    let _out = daemon.ok(&["instance", "delete", child]);
}
