//! The workload and other processes that the host starts: their streams, and their end.

use std::io;
use std::rc::Rc;

use aegis_guest_protocol::frame::{Frame, Kind};
use aegis_guest_protocol::messages::{
    self, Event, Exec, Run, Started, Target, WORKLOAD_ERR, WORKLOAD_IO, code,
};
use aegis_guest_protocol::rpc::RpcError;
use tokio::sync::watch;

use super::{Shared, Workload};
use crate::async_fd::asynchronous;
use crate::processes::{Child, Ends};
use crate::stdio_forwarder::{self, Input};
use crate::streams::Stream;
use crate::terminal_eof::Terminal;
use crate::workload_output::Durable;

impl Shared {
    pub(super) fn run(self: &Rc<Self>, run: &Run) -> Result<Started, RpcError> {
        if self.started.replace(true) {
            return Err(RpcError::new(code::WRONG_STATE, "this guest has run its workload"));
        }
        if !self.root_taken.get() {
            self.prepare(&run.hostname, &run.shares, &run.process.user)?;
        }
        if let Some(network) = &run.network {
            self.platform.connect(network)?;
            self.in_groups.set(!network.groups.is_empty());
        }
        let no_stream = || RpcError::new(code::WRONG_STATE, "the workload's streams are taken");
        let io = self.streams.open(WORKLOAD_IO).ok_or_else(no_stream)?;
        let err = self.streams.open(WORKLOAD_ERR).ok_or_else(no_stream)?;
        let (child, exit) = self.processes.start(Target::Workload, &run.process)?;
        let pid = child.pid;
        let (stdout, stderr) = (Durable::new(io), Durable::new(err));
        for output in [&stdout, &stderr] {
            tokio::task::spawn_local(Rc::clone(output).drain(self.streams.clone()));
        }
        self.connect_workload(child, &stdout, &stderr)?;
        let (reported, when_reported) = watch::channel(false);
        tokio::task::spawn_local(Rc::clone(self).await_workload(
            exit,
            Rc::clone(&stdout),
            Rc::clone(&stderr),
            reported,
        ));
        *self.workload.borrow_mut() = Some(Workload { stdout, stderr, reported: when_reported });
        Ok(Started { pid })
    }

    pub(super) fn connect_workload(
        &self,
        child: Child,
        stdout: &Rc<Durable>,
        stderr: &Rc<Durable>,
    ) -> Result<(), RpcError> {
        let to_error = |error: io::Error| RpcError::new(code::SYSTEM, error.to_string());
        let input = match child.ends {
            Ends::Terminal(terminal) => {
                let fd = asynchronous(terminal).map_err(to_error)?;
                tokio::task::spawn_local(Rc::clone(stdout).fill(Rc::clone(&fd), child.ended.clone()));
                stderr.end();
                Some(Input::Terminal(Terminal { fd, leader: child.pid, ended: child.ended }))
            }
            Ends::Pipes { stdin, stdout: out, stderr: err } => {
                let (out, err) = (asynchronous(out).map_err(to_error)?, asynchronous(err).map_err(to_error)?);
                tokio::task::spawn_local(Rc::clone(stdout).fill(out, child.ended.clone()));
                tokio::task::spawn_local(Rc::clone(stderr).fill(err, child.ended));
                stdin.map(asynchronous).transpose().map_err(to_error)?.map(Input::Pipe)
            }
        };
        if let Some(input) = input {
            tokio::task::spawn_local(stdio_forwarder::input(
                Rc::clone(stdout.stream()),
                self.streams.clone(),
                input,
                true,
            ));
        }
        Ok(())
    }

    pub(super) async fn await_workload(
        self: Rc<Self>,
        mut exit: watch::Receiver<Option<messages::ExitStatus>>,
        stdout: Rc<Durable>,
        stderr: Rc<Durable>,
        reported: watch::Sender<bool>,
    ) {
        let Ok(status) = exit.wait_for(Option::is_some).await.map(|status| *status) else { return };
        let out_of_memory = self.platform.oom_kills() > 0;
        stdout.finished().await;
        stderr.finished().await;
        if let Some(status) = status {
            let (stdout, stderr) = (stdout.len(), stderr.len());
            self.push(Event::WorkloadExited { status, out_of_memory, stdout, stderr }).await;
        }
        reported.send_replace(true);
    }

    pub(super) fn exec(self: &Rc<Self>, exec: &Exec) -> Result<Started, RpcError> {
        if !self.root_taken.get() || self.ending.get() {
            return Err(RpcError::new(code::WRONG_STATE, "nothing runs in this guest"));
        }
        let no_stream = || RpcError::new(code::WRONG_STATE, "the stream is taken, or too many are open");
        let io = self.streams.open(exec.io).ok_or_else(no_stream)?;
        let started = match self.streams.open(exec.err) {
            None => Err(no_stream()),
            Some(err) => self.start_exec(exec, &io, &err).inspect_err(|_| self.streams.forget(exec.err)),
        };
        started.inspect_err(|_| self.streams.forget(exec.io))
    }

    pub(super) fn start_exec(
        self: &Rc<Self>,
        exec: &Exec,
        io: &Rc<Stream>,
        err: &Rc<Stream>,
    ) -> Result<Started, RpcError> {
        let to_error = |error: io::Error| RpcError::new(code::SYSTEM, error.to_string());
        let target = Target::Exec(exec.exec_id);
        let (child, exit) = self.processes.start(target, &exec.process)?;
        let pid = child.pid;
        let mut outputs = Vec::new();
        let mut send = |from, stream: &Rc<Stream>| {
            let (stream, streams, ended) = (Rc::clone(stream), self.streams.clone(), child.ended.clone());
            outputs.push(tokio::task::spawn_local(stdio_forwarder::output(
                from,
                stream,
                streams,
                ended,
                exec.detached,
            )));
        };
        let input = match child.ends {
            Ends::Terminal(terminal) => {
                let terminal = asynchronous(terminal).map_err(to_error)?;
                send(Rc::clone(&terminal), io);
                // A terminal has one output; the host waits for the end of both streams.
                let ended = Frame::bare(Kind::Eof, err.id());
                let (outlet, epoch) = (self.streams.outlet().clone(), err.epoch());
                outputs.push(tokio::task::spawn_local(async move {
                    let _over = outlet.send(epoch, ended).await;
                }));
                Some(Input::Terminal(Terminal { fd: terminal, leader: pid, ended: child.ended.clone() }))
            }
            Ends::Pipes { stdin, stdout, stderr } => {
                send(asynchronous(stdout).map_err(to_error)?, io);
                send(asynchronous(stderr).map_err(to_error)?, err);
                stdin.map(asynchronous).transpose().map_err(to_error)?.map(Input::Pipe)
            }
        };
        if let Some(input) = input {
            tokio::task::spawn_local(stdio_forwarder::input(
                Rc::clone(io),
                self.streams.clone(),
                input,
                false,
            ));
        }
        let (streams, exec) = ((Rc::clone(io), Rc::clone(err)), (exec.exec_id, exec.detached));
        let watcher = Rc::clone(self).await_exec(exec, exit, streams, outputs);
        tokio::task::spawn_local(watcher);
        Ok(Started { pid })
    }

    /// Reports an exec's end after its output. One whose client has gone is hung up, as a terminal's would be, unless it is
    /// detached.
    pub(super) async fn await_exec(
        self: Rc<Self>,
        (exec_id, detached): (u64, bool),
        mut exit: watch::Receiver<Option<messages::ExitStatus>>,
        (io, err): (Rc<Stream>, Rc<Stream>),
        outputs: Vec<tokio::task::JoinHandle<()>>,
    ) {
        tokio::select! {
            _ = exit.wait_for(Option::is_some) => {}
            () = io.reset(), if !detached => {
                // It may have ended in this very moment.
                let _gone = self.processes.signal(Target::Exec(exec_id), 1);
            }
        }
        let Ok(status) = exit.wait_for(Option::is_some).await.map(|status| *status) else { return };
        for output in outputs {
            // A forwarder neither panics nor is cancelled.
            let _ended = output.await;
        }
        for stream in [io, err] {
            if stream.epoch() == self.streams.outlet().epoch() {
                self.streams.forget(stream.id());
            }
        }
        if let Some(status) = status {
            self.push(Event::ExecExited { exec_id, status }).await;
        }
    }
}
