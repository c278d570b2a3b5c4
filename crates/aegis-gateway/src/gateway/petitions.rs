//! The proxy that guests are offered where the host has one, for programs that want to be told of it.
//!
//! Who asks it for a tunnel gets a flow like any other: the name is looked up by the resolver, the policy decides, and
//! it may lead through the host's own proxy, to a member of a group, or to an opened port of the host.

use std::net::SocketAddr;
use std::time::Instant;

use aegis_policy::{Name, Protocol};

use super::Gateway;
use crate::addressing::{PROXY_PORT, is_gateway};
use crate::flow::own::OwnFlow;
use crate::flow::petition::{Denial, Step};
use crate::flow::tcp::{TcpFlow, Waiting};
use crate::journal::What;
use crate::names::Asker;

impl Gateway {
    /// Whether this is where the proxy is offered. A port of the host that is opened there counts more.
    pub(super) fn is_offered_proxy(&self, other: SocketAddr) -> bool {
        self.proxy.is_some()
            && is_gateway(other.ip())
            && other.port() == PROXY_PORT
            && !self.judge.is_host_port(PROXY_PORT)
    }

    /// Goes on with somebody who wants a tunnel.
    pub(super) fn run_petition(&mut self, index: usize, now: Instant) {
        while let Some(flow) = self.table.own.get_mut(index) {
            match flow.step() {
                Step::Wait => return,
                Step::Ask(question) => self.ask(Asker::Petition(index), &question, now),
                Step::Deny(denial) => return flow.deny(&denial),
                Step::Connect(to, name) => self.open_tunnel(index, to, name, now),
            }
        }
    }

    fn open_tunnel(&mut self, index: usize, to: SocketAddr, name: Option<Name>, now: Instant) {
        let mut case = self.judge.case(Protocol::Tcp, to.ip(), to.port(), now);
        if name.is_some() && case.ruling.allows() {
            self.judge.named(&mut case, name);
            case.scrutiny = self.judge.scrutiny(&case);
        }
        self.note(&case, What::Flow, (0, 0));
        let Some(flow) = self.table.own.get_mut(index) else { return };
        if !case.ruling.allows() {
            return flow.deny(&Denial::forbidden(case.ruling.because.to_string()));
        }
        let key = flow.key;
        let way = self.way_to(&(key.0, to), &case);
        let Some(petitioner) = self.table.remove_own(index).and_then(OwnFlow::into_petitioner) else {
            return;
        };
        let way = match way {
            Ok(way) => way,
            Err(error) => return self.take_up(OwnFlow::again(key, petitioner, &error)),
        };
        let flow = TcpFlow::new(key, way, Waiting::Petitioner(Box::new(petitioner)), case);
        let index = self.table.add_tcp(flow);
        self.watch(index);
    }
}

#[cfg(test)]
#[path = "recognition_tests.rs"]
mod recognition_tests;
#[cfg(test)]
#[path = "petitions_tests.rs"]
mod tests;
