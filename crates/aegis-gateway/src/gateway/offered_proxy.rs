//! The proxy that guests are offered where the host has one, for programs that want to be told of it.
//!
//! Who asks it for a tunnel gets a flow like any other: the name is looked up by the resolver, the policy decides, and
//! it may lead through the host's own proxy, to a member of a group, or to an opened port of the host.

use std::net::SocketAddr;
use std::time::Instant;

use aegis_policy::{Name, Protocol};

use super::Gateway;
use crate::addressing::{PROXY_PORT, is_gateway};
use crate::decision_log::EntryKind;
use crate::flow::connect_request::{Denial, Step};
use crate::flow::local_service::LocalFlow;
use crate::flow::tcp::{TcpFlow, Waiting};
use crate::resolver::QuerySource;

impl Gateway {
    /// Whether this is where the proxy is offered. A port of the host that is opened there counts more.
    pub(super) fn is_offered_proxy(&self, other: SocketAddr) -> bool {
        self.proxy.is_some()
            && is_gateway(other.ip())
            && other.port() == PROXY_PORT
            && !self.engine.is_host_port(PROXY_PORT)
    }

    /// Goes on with somebody who wants a tunnel.
    pub(super) fn run_connect_request(&mut self, index: usize, now: Instant) {
        while let Some(flow) = self.table.own.get_mut(index) {
            match flow.step() {
                Step::Wait => return,
                Step::Ask(question) => self.ask(QuerySource::ConnectRequest(index), &question, now),
                Step::Deny(denial) => return flow.deny(&denial),
                Step::Connect(to, name) => self.open_tunnel(index, to, name, now),
            }
        }
    }

    fn open_tunnel(&mut self, index: usize, to: SocketAddr, name: Option<Name>, now: Instant) {
        let mut decision = self.engine.evaluate(Protocol::Tcp, to.ip(), to.port(), now);
        if name.is_some() && decision.verdict.allows() {
            self.engine.named(&mut decision, name);
            decision.scrutiny = self.engine.scrutiny(&decision);
        }
        self.note(&decision, EntryKind::Flow, (0, 0));
        let Some(flow) = self.table.own.get_mut(index) else { return };
        if !decision.verdict.allows() {
            return flow.deny(&Denial::forbidden(decision.verdict.because.to_string()));
        }
        let key = flow.key;
        let way = self.way_to(&(key.0, to), &decision);
        let Some(pending) = self.table.remove_own(index).and_then(LocalFlow::into_pending_tunnel) else {
            return;
        };
        let way = match way {
            Ok(way) => way,
            Err(error) => return self.take_up(LocalFlow::again(key, pending, &error)),
        };
        let flow = TcpFlow::new(key, way, Waiting::PendingTunnel(Box::new(pending)), decision);
        let index = self.table.add_tcp(flow);
        self.watch(index);
    }
}

#[cfg(test)]
#[path = "inspection_tests.rs"]
mod inspection_tests;
#[cfg(test)]
#[path = "offered_proxy_tests.rs"]
mod tests;
