//! Clients of the two servers, as small as they can be.

use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Weak};

use aegis_tests::{DEADLINE, Daemon};

/// Numbers in what a server says.
fn numbers<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
    words
        .into_iter()
        .map(|word| word.trim().parse().unwrap_or_else(|_| panic!("no number: {word:?}")))
        .collect()
}

/// A connection to Redis.
pub(super) struct Redis(BufReader<TcpStream>);

impl Redis {
    pub(super) fn connect(port: u16) -> Result<Redis, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Redis(BufReader::new(stream)))
    }

    /// Asks, and returns the words of the answer.
    pub(super) fn ask(&mut self, words: &[&str]) -> Result<Vec<String>, Error> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.0.get_mut().write_all(request.as_bytes())?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Vec<String>, Error> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(Error::other("Redis has closed the connection"));
        }
        let count = || line.get(1..).and_then(|rest| rest.trim_end().parse::<usize>().ok());
        match (line.as_bytes().first(), count()) {
            (Some(b'+' | b':'), _) => Ok(vec![line[1..].trim_end().to_owned()]),
            (Some(b'$'), Some(len)) => {
                let mut bytes = vec![0; len + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Ok(vec![String::from_utf8_lossy(&bytes).into_owned()])
            }
            (Some(b'*'), Some(count)) => {
                let parts: Result<Vec<_>, _> = (0..count).map(|_| self.answer()).collect();
                Ok(parts?.concat())
            }
            _ => Err(Error::other(line)),
        }
    }

    /// Everything that was written, over a connection of its own.
    pub(super) fn numbers(port: u16) -> Vec<u64> {
        let mut redis = Redis::connect(port).unwrap();
        let words = redis.ask(&["LRANGE", "w", "0", "-1"]).unwrap();
        numbers(words.iter().map(String::as_str))
    }

    /// A client that appends numbers, over one connection as long as that lasts.
    pub(super) fn writer(port: u16) -> impl FnMut(u64) -> Result<(), String> + Send + 'static {
        let mut connected = None;
        move |number| {
            let mut attempt = || -> Result<(), Error> {
                let mut redis = match connected.take() {
                    Some(redis) => redis,
                    None => Redis::connect(port)?,
                };
                let _length = redis.ask(&["RPUSH", "w", &number.to_string()])?;
                connected = Some(redis);
                Ok(())
            };
            attempt().map_err(|error| error.to_string())
        }
    }
}

/// How PostgreSQL is asked: bare words, and no other settings than these.
const PSQL: [&str; 9] = [
    "psql",
    "--no-psqlrc",
    "--quiet",
    "--tuples-only",
    "--no-align",
    "-v",
    "ON_ERROR_STOP=1",
    "-U",
    "postgres",
];

/// A session with PostgreSQL.
pub(super) struct Postgres {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Postgres {
    fn connect(daemon: &Daemon, instance: &str) -> Postgres {
        let arguments = [&["exec", "-i", instance, "--"], &PSQL[..]].concat();
        let mut command = daemon.command(&arguments);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Postgres { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// What one statement answers.
    pub(super) fn ask(daemon: &Daemon, instance: &str, statement: &str) -> String {
        let arguments = [&["exec", instance, "--"], &PSQL[..], &["-c", statement]].concat();
        daemon.ok(&arguments).trim_end().to_owned()
    }

    /// Everything that was written.
    pub(super) fn numbers(daemon: &Daemon, instance: &str) -> Vec<u64> {
        numbers(Postgres::ask(daemon, instance, "select n from w order by at").lines())
    }

    /// A client that inserts numbers, in one session as long as that lasts.
    pub(super) fn writer(
        daemon: &Arc<Daemon>,
        instance: &'static str,
    ) -> impl FnMut(u64) -> Result<(), String> + Send + 'static {
        // The test may end with its client waiting.
        let daemon: Weak<Daemon> = Arc::downgrade(daemon);
        let mut connected: Option<Postgres> = None;
        move |number| {
            let mut session = match connected.take() {
                Some(session) => session,
                None => Postgres::connect(&*daemon.upgrade().ok_or("the test is over")?, instance),
            };
            let statement = format!("insert into w (n) values ({number}) returning n;\n");
            session.stdin.write_all(statement.as_bytes()).map_err(|error| error.to_string())?;
            let mut line = String::new();
            let read = session.stdout.read_line(&mut line).map_err(|error| error.to_string())?;
            if read == 0 || line.trim_end() != number.to_string() {
                return Err(format!("psql ended, or said {line:?}"));
            }
            connected = Some(session);
            Ok(())
        }
    }
}
