//! The control connection: the host's requests in, replies and events out.

mod clone_identity;
mod prewarm;
mod shutdown;
mod workload;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use aegis_guest_protocol::frame::{Decoder, Frame, HOST_MARKER, Item, Kind, Nonce};
use aegis_guest_protocol::messages::{
    self, ACK, AckNote, Addresses, Connect, DiskUsage, Done, EVENT, Event, EventNote, Exec, Freeze, Health,
    HealthReply, Hello, HelloReply, NEWEST_VERSION, OLDEST_VERSION, Prepare, Prewarm, Reidentify, Resize,
    Run, Settle, Share, Shutdown, Signal, code,
};
use aegis_guest_protocol::outbox::Outbox;
use aegis_guest_protocol::rpc::{Call, INVALID_PARAMS, METHOD_NOT_FOUND, Message, PARSE_ERROR, RpcError};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::connections::Connections;
use crate::listen_watch::Listening;
use crate::platform::Platform;
use crate::port_writer::{Epoch, PortWriter};
use crate::processes::{self, Processes};
use crate::streams::Streams;
use crate::virtio_port::VirtioPort;
use crate::workload_output::Durable;
use crate::{activity, guest_api};

/// How long the bulk port may take to be greeted after the control port was.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The workload as the conversation knows it.
#[derive(Debug)]
struct Workload {
    stdout: Rc<Durable>,
    stderr: Rc<Durable>,
    reported: watch::Receiver<bool>,
}

/// The harness's side of the control port.
#[derive(Debug)]
pub struct Control {
    port: VirtioPort,
    shared: Rc<Shared>,
    session: Option<(Epoch, Nonce)>,
}

#[derive(Debug)]
struct Shared {
    outlet: PortWriter,
    streams: Streams,
    connections: Rc<Connections>,
    listening: Listening,
    platform: Rc<dyn Platform>,
    processes: Processes,
    outbox: RefCell<Outbox<Event>>,
    /// The session in which `hello` has been answered; events go out in no other.
    open_session: Cell<Epoch>,
    workload: RefCell<Option<Workload>>,
    root_taken: Cell<bool>,
    /// Whether the workload was to be started.
    started: Cell<bool>,
    ending: Cell<bool>,
    /// Whether it is to become another instance, and is none yet.
    nobody: Cell<bool>,
    /// Whether its card has addresses in groups.
    in_groups: Cell<bool>,
}

impl Control {
    /// Watches the port, and starts reaping children and reporting activity.
    ///
    /// # Errors
    /// The system's.
    pub fn start(port: OwnedFd, streams: Streams, platform: Rc<dyn Platform>) -> io::Result<Control> {
        let (reading, writing) = VirtioPort::split(port)?;
        let listening = Listening::default();
        let connections = Connections::new(streams.clone(), listening.subscribe());
        let shared = Rc::new(Shared {
            outlet: PortWriter::start(writing),
            streams,
            connections: Rc::new(connections),
            listening,
            processes: Processes::new(Rc::clone(&platform)),
            platform,
            outbox: RefCell::default(),
            open_session: Cell::new(0),
            workload: RefCell::new(None),
            root_taken: Cell::new(false),
            started: Cell::new(false),
            ending: Cell::new(false),
            nobody: Cell::new(false),
            in_groups: Cell::new(false),
        });
        let mut children = signal(SignalKind::child())?;
        let reaper = Rc::clone(&shared);
        tokio::task::spawn_local(async move {
            while children.recv().await.is_some() {
                reaper.processes.reap();
            }
        });
        tokio::task::spawn_local(report_activity(Rc::clone(&shared)));
        Ok(Control { port: reading, shared, session: None })
    }

    /// Answers the host until the port fails for good.
    ///
    /// # Errors
    /// The system's.
    pub async fn run(mut self) -> io::Result<()> {
        let mut decoder = Decoder::new(HOST_MARKER);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.port.read(&mut buffer).await? {
                0 => {
                    // What ends a session is the greeting of the next: the host may be about to be heard.
                    self.shared.open_session.set(0);
                    self.port.changed().await?;
                }
                count => decoder.feed(buffer.get(..count).unwrap_or_default()),
            }
            while let Some(item) = decoder.next_item() {
                match item {
                    Item::Greeting(nonce) => {
                        self.shared.open_session.set(0);
                        self.session = Some((self.shared.outlet.begin(nonce), nonce));
                    }
                    Item::Lost => {
                        self.shared.open_session.set(0);
                        self.session = None;
                    }
                    Item::Frame(frame) if frame.kind == Kind::Rpc => self.hear(&frame).await,
                    Item::Frame(_) => {}
                }
            }
        }
    }

    async fn hear(&mut self, frame: &Frame) {
        let Some((epoch, nonce)) = self.session else { return };
        match Message::parse(&frame.payload) {
            Ok(Message::Request { id, method, params }) if method == Connect::METHOD => {
                self.shared.begin(epoch, id, params, Shared::connect);
            }
            Ok(Message::Request { id, method, params }) if method == messages::Sync::METHOD => {
                self.shared.begin(epoch, id, params, Shared::sync);
            }
            Ok(Message::Request { id, method, params }) if method == Prewarm::METHOD => {
                self.shared.begin(epoch, id, params, Shared::prewarm);
            }
            Ok(Message::Request { id, method, params }) if method == Reidentify::METHOD => {
                self.shared.begin(epoch, id, params, Shared::reidentify);
            }
            Ok(Message::Request { id, method, params }) => {
                let result = if method == Hello::METHOD {
                    self.shared.hello(params, epoch, nonce).await
                } else {
                    self.shared.answer(&method, params)
                };
                self.shared.say(epoch, &Message::Response { id, result }).await;
                if method == Hello::METHOD {
                    self.shared.resend(epoch).await;
                }
            }
            Ok(Message::Notification { method, params }) if method == ACK => {
                if let Ok(ack) = serde_json::from_value::<AckNote>(params) {
                    self.shared.outbox.borrow_mut().acknowledge(ack.seq);
                }
            }
            // Unknown notifications come from a newer host and want no answer.
            Ok(Message::Notification { .. } | Message::Response { .. }) => {}
            Err(error) => {
                let result = Err(RpcError::new(PARSE_ERROR, error.to_string()));
                self.shared.say(epoch, &Message::Response { id: 0, result }).await;
            }
        }
    }
}

fn parse<C: Call>(params: Value) -> Result<C, RpcError> {
    serde_json::from_value(params)
        .map_err(|error| RpcError::new(INVALID_PARAMS, format!("{}: {error}", C::METHOD)))
}

fn reply<C: Call>(result: &C::Reply) -> Result<Value, RpcError> {
    serde_json::to_value(result).map_err(|error| RpcError::new(code::SYSTEM, error.to_string()))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().take(1024).filter_map(|c| c.to_digit(16)).filter_map(|d| u8::try_from(d).ok()).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
}

impl Shared {
    async fn say(&self, epoch: Epoch, message: &Message) {
        if let Ok(json) = message.to_json() {
            // A host that has gone hears it no more, and owes nothing to it.
            let _over =
                self.outlet.send(epoch, Frame { kind: Kind::Rpc, stream: 0, payload: json.into() }).await;
        }
    }

    async fn tell(&self, epoch: Epoch, seq: u64, event: &Event) {
        let note = EventNote { seq, event: event.clone() };
        if let Ok(params) = serde_json::to_value(note) {
            self.say(epoch, &Message::Notification { method: EVENT.to_owned(), params }).await;
        }
    }

    async fn push(&self, event: Event) {
        let seq = self.outbox.borrow_mut().push(event.clone());
        let epoch = self.open_session.get();
        if epoch != 0 {
            self.tell(epoch, seq, &event).await;
        }
    }

    /// Sends what an earlier session did not acknowledge. Events that happen meanwhile may arrive in between, and
    /// twice: the host drops what it has seen.
    async fn resend(&self, epoch: Epoch) {
        let pending: Vec<(u64, Event)> =
            self.outbox.borrow().pending().map(|(seq, event)| (seq, event.clone())).collect();
        for (seq, event) in pending {
            self.tell(epoch, seq, &event).await;
        }
    }

    async fn hello(&self, params: Value, epoch: Epoch, nonce: Nonce) -> Result<Value, RpcError> {
        let hello: Hello = parse(params)?;
        let version = messages::agree((hello.oldest, hello.newest), (OLDEST_VERSION, NEWEST_VERSION))?;
        let joined = tokio::time::timeout(JOIN_TIMEOUT, self.streams.joined(nonce)).await;
        joined.map_err(|_| RpcError::new(code::WRONG_STATE, "the bulk port was not greeted"))?;
        self.platform.set_clock(hello.unix_time_ns);
        self.platform.add_entropy(&from_hex(&hello.entropy));
        if hello.another {
            self.begin_anew();
        }
        if !self.nobody.get() {
            self.platform.freeze(false);
        }
        self.outbox.borrow_mut().acknowledge(hello.events_seen);
        let mut stdin_held = 0;
        if let Some(workload) = self.workload.borrow().as_ref().filter(|_| !hello.another) {
            for (output, held) in
                [(&workload.stdout, hello.stdout_held), (&workload.stderr, hello.stderr_held)]
            {
                let resumed = output.resume(&self.streams, held);
                resumed.map_err(|error| RpcError::new(code::WRONG_STATE, error.to_string()))?;
            }
            stdin_held = workload.stdout.stream().received();
        }
        self.open_session.set(epoch);
        reply::<Hello>(&HelloReply {
            version,
            harness: env!("CARGO_PKG_VERSION").to_owned(),
            workload_started: self.workload.borrow().is_some() && (hello.another || !self.nobody.get()),
            stdin_held,
        })
    }

    /// Begins something that may take its time, and answers when it is done. What else the host says does not wait for it.
    fn begin<C: Call<Reply = Done> + 'static>(
        self: &Rc<Self>,
        epoch: Epoch,
        id: u64,
        params: Value,
        work: impl AsyncFnOnce(&Self, &C) -> Result<(), RpcError> + 'static,
    ) {
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let result = match parse::<C>(params) {
                Ok(call) => work(&shared, &call).await.and_then(|()| reply::<C>(&Done {})),
                Err(error) => Err(error),
            };
            shared.say(epoch, &Message::Response { id, result }).await;
        });
    }

    async fn connect(&self, call: &Connect) -> Result<(), RpcError> {
        self.connections.connect(call).await
    }

    fn answer(self: &Rc<Self>, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            Prepare::METHOD => {
                let Prepare { hostname, shares, owner } = parse(params)?;
                self.prepare(&hostname, &shares, &owner)?;
                reply::<Prepare>(&Done {})
            }
            Run::METHOD => reply::<Run>(&self.run(&parse(params)?)?),
            Exec::METHOD => reply::<Exec>(&self.exec(&parse(params)?)?),
            Signal::METHOD => {
                let Signal { target, signal } = parse(params)?;
                self.processes.signal(target, signal)?;
                reply::<Signal>(&Done {})
            }
            Resize::METHOD => {
                let Resize { target, size } = parse(params)?;
                self.processes.resize(target, size)?;
                reply::<Resize>(&Done {})
            }
            Freeze::METHOD => {
                let Freeze { sync } = parse(params)?;
                self.platform.freeze(true);
                if sync {
                    self.platform.sync();
                }
                reply::<Freeze>(&Done {})
            }
            Settle::METHOD => {
                let Settle {} = parse(params)?;
                if self.root_taken.get() {
                    return Err(RpcError::new(code::WRONG_STATE, "the root is mounted already"));
                }
                self.platform.settle()?;
                reply::<Settle>(&Done {})
            }
            Health::METHOD => {
                let health: Health = parse(params)?;
                self.platform.set_clock(health.unix_time_ns);
                self.platform.add_entropy(&from_hex(&health.entropy));
                if !self.nobody.get() {
                    self.platform.freeze(false);
                }
                let processes = u32::try_from(self.processes.groups().len()).unwrap_or(u32::MAX);
                reply::<Health>(&HealthReply { processes })
            }
            Addresses::METHOD => {
                let Addresses { groups } = parse(params)?;
                self.platform.set_groups(&groups)?;
                self.in_groups.set(!groups.is_empty());
                reply::<Addresses>(&Done {})
            }
            DiskUsage::METHOD => {
                let DiskUsage {} = parse(params)?;
                let usage = self.platform.disk_usage();
                reply::<DiskUsage>(&usage.map_err(|error| RpcError::new(code::SYSTEM, error.to_string()))?)
            }
            Shutdown::METHOD => {
                let Shutdown { grace_ms } = parse(params)?;
                self.platform.freeze(false);
                if !self.ending.replace(true) {
                    tokio::task::spawn_local(Rc::clone(self).shut_down(Duration::from_millis(grace_ms)));
                }
                reply::<Shutdown>(&Done {})
            }
            _ => Err(RpcError::new(METHOD_NOT_FOUND, format!("no method {method:?}"))),
        }
    }

    fn prepare(self: &Rc<Self>, hostname: &str, shares: &[Share], owner: &str) -> Result<(), RpcError> {
        if self.root_taken.replace(true) {
            return Err(RpcError::new(code::WRONG_STATE, "the root is mounted already"));
        }
        self.platform.prepare_root(hostname)?;
        let identity = processes::user(owner)?.identity;
        self.platform.mount_shares(shares, (identity.uid, identity.gid))?;
        self.listening.begin(self.platform.listens());
        self.open_own_api();
        Ok(())
    }

    /// Lets programs of the guest speak to their own instance. Without it they cannot keep it awake, and nothing else.
    fn open_own_api(self: &Rc<Self>) {
        let Some(listener) = self.platform.own_api().and_then(|path| guest_api::listen(&path).ok()) else {
            return;
        };
        let shared = Rc::clone(self);
        let tell: guest_api::Tell = Rc::new(move |lease| {
            let event = match lease {
                Some((ttl_ms, reason)) => Event::KeepAlive { ttl_ms, reason },
                None => Event::KeepAliveReleased,
            };
            let shared = Rc::clone(&shared);
            tokio::task::spawn_local(async move { shared.push(event).await });
        });
        tokio::task::spawn_local(guest_api::serve(listener, tell));
    }
}

async fn report_activity(shared: Rc<Shared>) {
    let mut ticks = tokio::time::interval(activity::PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        let now = shared.platform.busy_ms();
        let cpu_ms = now.zip(before).map_or(0, |(now, before)| u64::saturating_sub(now, before));
        before = now;
        let connections = shared.platform.outward_connections();
        let works = cpu_ms >= activity::THRESHOLD_MS || connections > 0;
        if works && shared.open_session.get() != 0 {
            shared.push(Event::Activity { cpu_ms, connections }).await;
        }
    }
}
