//! Going on where another machine stood: as another instance, with names, numbers and connections of its own.
//!
//! Nothing of the guest goes on before it has become that instance. One for which that fails is ended, and boots.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::{Events, GuestLink, Resume};
use aegis_guest_protocol::messages::Cause;
use aegis_vmm::{Machine, Origin as Memory};

use crate::actor::Message;
use crate::at_rest::Version;
use crate::at_rest::moment::{Origin, Standing};
use crate::error::chain;
use crate::machine::boot::{self, Order};
use crate::machine::session::Session;
use crate::machine::timings::Start;
use crate::manager::Context;
use crate::reason::StopReason;

/// How long a guest may take to become another instance, with the programs that it has for that.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes an instance's machine from one that stood still. If that fails nothing of it is left but its disk.
pub(crate) async fn boot(context: &Arc<Context>, order: &Order, origin: &Origin) -> Result<(), String> {
    let from = &*origin.standing;
    let live = &order.live;
    boot::check(context, &order.spec).await.map_err(|reason| reason.message)?;
    order.take_disk().await.map_err(|reason| reason.message)?;
    let spec = boot::standing_spec(context, &order.id, &order.spec, from.modules.as_deref());
    let spec = spec.map_err(|reason| reason.message)?;
    if context.vmm.likeness(&spec).as_ref() != Some(&from.likeness) {
        return Err("it was taken by another version, or of another kind of machine".to_owned());
    }
    if Version::of(&spec.data_disk).ok().as_ref() != Some(&origin.disk) {
        return Err("its disk has been written since".to_owned());
    }
    // The console begins anew with each boot.
    let _absent = std::fs::remove_file(&spec.console_log);
    order.watch.lap("disk");
    let memory = Memory::Common(&from.machine.memory);
    let machine = context.vmm.restore(&spec, &from.machine.devices, memory).await;
    let machine = machine.map_err(|error| chain(&error))?;
    order.watch.lap("machine");
    let begun = tokio::select! {
        begun = tokio::time::timeout(TIMEOUT, begin(context, order, &machine, from)) => {
            begun.unwrap_or_else(|_| Err("it did not become another instance in time".to_owned()))
        }
        end = machine.ended() => Err(StopReason::died(&end).message),
        () = live.cancelled() => Err(StopReason::stopped().message),
    };
    match begun {
        Ok((session, events)) => {
            live.set_machine(machine);
            live.tell_and_wait(|done| Message::MachineUp(live.boot, done)).await;
            live.begin_session(&session, events);
            order.watch.lap("names");
            order.watch.note(match from.cause {
                Cause::Fork => Start::Fork,
                Cause::Snapshot => Start::Snapshot,
            });
            Ok(())
        }
        Err(error) => {
            machine.stop().await;
            live.helpers_ended().await;
            Err(error)
        }
    }
}

async fn begin(
    context: &Arc<Context>,
    order: &Order,
    machine: &Arc<dyn Machine>,
    from: &Standing,
) -> Result<(Arc<Session>, Events), String> {
    let resume = Resume { returning: true, another: true, ..Resume::default() };
    let (opened, helped) =
        tokio::join!(Session::open(&**machine, resume), boot::start_helpers(context, order, machine));
    helped.map_err(|reason| reason.message)?;
    let (session, events, _) = opened.map_err(|error| error.to_string())?;
    order.watch.lap("guest");
    let groups = order.spec.network.addresses();
    let call = GuestLink::become_call(order.hostname.clone(), groups, from.cause);
    session.link().call(&call).await.map_err(|error| error.to_string())?;
    Ok((session, events))
}
