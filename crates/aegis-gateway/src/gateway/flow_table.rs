//! The flow table: all flows, found by their packets, by their sockets, and by time.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use slab::Slab;

use super::Kind;
use crate::flow::connection_key::ConnectionKey;
use crate::flow::icmp_echo::EchoFlow;
use crate::flow::local_service::LocalFlow;
use crate::flow::tcp::TcpFlow;
use crate::flow::udp::UdpFlow;
use crate::policy_engine::FlowDecision;

/// The flows that others have begun.
#[derive(Debug, Default)]
struct Visitors {
    all: usize,
    /// How many each has, by its address; none of zero.
    by_address: HashMap<IpAddr, usize>,
}

impl Visitors {
    fn add(&mut self, decision: &FlowDecision) {
        if decision.is_visit() {
            self.all += 1;
            *self.by_address.entry(decision.address).or_default() += 1;
        }
    }

    fn remove(&mut self, decision: &FlowDecision) {
        if decision.is_visit() {
            self.all -= 1;
            if let Entry::Occupied(mut count) = self.by_address.entry(decision.address) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct FlowTable {
    pub(crate) tcp: Slab<TcpFlow>,
    pub(crate) udp: Slab<UdpFlow>,
    pub(crate) echo: Slab<EchoFlow>,
    pub(crate) own: Slab<LocalFlow>,
    pub(crate) by_connection: HashMap<ConnectionKey, (Kind, usize)>,
    pub(crate) by_datagram: HashMap<(SocketAddr, SocketAddr), usize>,
    pub(crate) by_echo: HashMap<(IpAddr, u16), usize>,
    timers: BTreeSet<(Instant, Kind, usize)>,
    touched: Vec<(Kind, usize)>,
    visitors: Visitors,
    /// Flows that wait until frames to the guest have gone.
    starved: BTreeSet<(Kind, usize)>,
}

impl FlowTable {
    /// How many there are.
    pub(crate) fn flows(&self) -> usize {
        self.tcp.len() + self.udp.len() + self.echo.len() + self.own.len()
    }

    /// How many of them others have begun.
    pub(crate) fn visitors(&self) -> usize {
        self.visitors.all
    }

    /// Whether one more flow may be begun from there, of at most `most` flows. A quarter of them is the guest's own. Of the
    /// others nobody has more than are left: however many visitors take what they get, there is room for the next one.
    pub(crate) fn has_room_for(&self, visitor: IpAddr, most: usize) -> bool {
        let left = (most - most / 4).saturating_sub(self.visitors.all);
        self.visitors.by_address.get(&visitor).copied().unwrap_or(0) < left
    }

    /// How many have buffers of TCP.
    pub(crate) fn connections(&self) -> usize {
        self.tcp.len() + self.own.len()
    }

    /// Notes that a flow has something to do.
    pub(crate) fn touch(&mut self, kind: Kind, index: usize) {
        if self.touched.last() != Some(&(kind, index)) {
            self.touched.push((kind, index));
        }
    }

    pub(crate) fn is_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Takes the flows that have something to do, each once.
    pub(crate) fn take_touched(&mut self) -> Vec<(Kind, usize)> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Notes that a flow waits until frames to the guest have gone.
    pub(crate) fn starve(&mut self, kind: Kind, index: usize) {
        self.starved.insert((kind, index));
    }

    /// There is room again.
    pub(crate) fn wake_starved(&mut self) {
        self.touched.extend(std::mem::take(&mut self.starved));
    }

    /// All flows have something to do.
    pub(crate) fn touch_connections(&mut self) {
        self.touched.extend(self.tcp.iter().map(|(index, _)| (Kind::Tcp, index)));
    }

    /// When the first timer is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, ..)| *at)
    }

    /// The first flow whose time has come.
    pub(crate) fn overdue(&mut self, now: Instant) -> Option<(Kind, usize)> {
        let (at, kind, index) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.timers.pop_first();
        if let Some(deadline) = self.slot(kind, index) {
            *deadline = None;
        }
        Some((kind, index))
    }

    fn slot(&mut self, kind: Kind, index: usize) -> Option<&mut Option<Instant>> {
        match kind {
            Kind::Tcp => self.tcp.get_mut(index).map(|flow| &mut flow.deadline),
            Kind::Udp => self.udp.get_mut(index).map(|flow| &mut flow.deadline),
            Kind::Echo => self.echo.get_mut(index).map(|flow| &mut flow.deadline),
            Kind::Own => self.own.get_mut(index).map(|flow| &mut flow.deadline),
            Kind::Fixed | Kind::Name => None,
        }
    }

    /// Sets, changes or takes away a flow's timer.
    pub(crate) fn schedule(&mut self, kind: Kind, index: usize, at: Option<Instant>) {
        let Some(slot) = self.slot(kind, index) else { return };
        let before = std::mem::replace(slot, at);
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.timers.remove(&(before, kind, index));
        }
        if let Some(at) = at {
            self.timers.insert((at, kind, index));
        }
    }

    pub(crate) fn add_tcp(&mut self, flow: TcpFlow) -> usize {
        let key = flow.key;
        self.visitors.add(&flow.decision);
        let index = self.tcp.insert(flow);
        self.by_connection.insert(key, (Kind::Tcp, index));
        index
    }

    pub(crate) fn remove_tcp(&mut self, index: usize) -> Option<TcpFlow> {
        self.schedule(Kind::Tcp, index, None);
        let flow = self.tcp.try_remove(index)?;
        self.visitors.remove(&flow.decision);
        self.by_connection.remove(&flow.key);
        Some(flow)
    }

    pub(crate) fn add_own(&mut self, flow: LocalFlow) -> usize {
        let key = flow.key;
        let index = self.own.insert(flow);
        self.by_connection.insert(key, (Kind::Own, index));
        index
    }

    pub(crate) fn remove_own(&mut self, index: usize) -> Option<LocalFlow> {
        self.schedule(Kind::Own, index, None);
        let flow = self.own.try_remove(index)?;
        self.by_connection.remove(&flow.key);
        Some(flow)
    }

    pub(crate) fn add_udp(&mut self, flow: UdpFlow) -> usize {
        let key = (flow.guest, flow.other);
        self.visitors.add(&flow.decision);
        let index = self.udp.insert(flow);
        self.by_datagram.insert(key, index);
        index
    }

    pub(crate) fn remove_udp(&mut self, index: usize) -> Option<UdpFlow> {
        self.schedule(Kind::Udp, index, None);
        let flow = self.udp.try_remove(index)?;
        self.visitors.remove(&flow.decision);
        self.by_datagram.remove(&(flow.guest, flow.other));
        Some(flow)
    }

    pub(crate) fn remove_echo(&mut self, index: usize) -> Option<EchoFlow> {
        self.schedule(Kind::Echo, index, None);
        let flow = self.echo.try_remove(index)?;
        self.by_echo.remove(&(flow.other, flow.ident));
        Some(flow)
    }

    /// Gives memory back that nobody uses.
    pub(crate) fn rest(&mut self) {
        if self.flows() == 0 && self.touched.is_empty() && self.by_connection.capacity() > 64 {
            *self = FlowTable::default();
        }
    }
}
