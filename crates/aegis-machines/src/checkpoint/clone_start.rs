//! Going on where another machine stood: as another instance, with names, numbers and connections of its own.
//!
//! Nothing of the guest goes on before it has become that instance. One for which that fails is ended, and boots.

use std::sync::Arc;
use std::time::Duration;

use aegis_guest_link::{Events, GuestLink, Resume};
use aegis_guest_protocol::messages::Cause;
use aegis_vmm::{Machine, Origin as Memory};

use crate::boot_order::BootOrder;
use crate::boot_timings::StartKind;
use crate::checkpoint::capture::{CheckpointSource, SavedMachine};
use crate::checkpoint::memory_file::FileVersion;
use crate::error_chain::chain;
use crate::helpers::Helpers;
use crate::machine_factory::MachineFactory;
use crate::network::interface;
use crate::session::Session;
use crate::stop_reasons;
use aegis_lifecycle::stop_reason::StopReason;

/// How long a guest may take to become another instance, with the programs that it has for that.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Makes an instance's machine from one that stood still. If that fails nothing of it is left but its disk.
///
/// # Errors
/// Why it does not go on from there.
pub async fn start_clone(
    factory: &MachineFactory,
    helpers: &Helpers,
    order: &BootOrder,
    source: &CheckpointSource,
) -> Result<(), String> {
    let from = &*source.machine;
    let run = &order.run;
    factory.check_host(&order.spec).await.map_err(|reason| reason.message)?;
    order.take_disk().await.map_err(|reason| reason.message)?;
    let spec = factory.layout.saved_spec(&order.id, &order.spec, from.modules.as_deref());
    let spec = spec.map_err(|reason| reason.message)?;
    if factory.layout.vmm.compatibility_key(&spec).as_ref() != Some(&from.compatibility_key) {
        return Err("it was taken by another version, or of another kind of machine".to_owned());
    }
    if FileVersion::of(&spec.data_disk).ok().as_ref() != Some(&source.disk) {
        return Err("its disk has been written since".to_owned());
    }
    // The console begins anew with each boot.
    let _absent = std::fs::remove_file(&spec.console_log);
    order.watch.lap("disk");
    let memory = Memory::Common(&from.saved.memory);
    let machine = factory.layout.vmm.restore(&spec, &from.saved.devices, memory).await;
    let machine = machine.map_err(|error| chain(&error))?;
    order.watch.lap("machine");
    let begun = tokio::select! {
        begun = tokio::time::timeout(TIMEOUT, begin(helpers, order, &machine, from)) => {
            begun.unwrap_or_else(|_| Err("it did not become another instance in time".to_owned()))
        }
        end = machine.ended() => Err(stop_reasons::died(&end).message),
        () = run.cancelled() => Err(StopReason::stopped().message),
    };
    match begun {
        Ok((session, events)) => {
            run.set_machine(machine);
            run.reporter().started().await;
            run.begin_session(&session, events);
            order.watch.lap("names");
            order.watch.note(match from.cause {
                Cause::Fork => StartKind::Fork,
                Cause::Snapshot => StartKind::Snapshot,
            });
            Ok(())
        }
        Err(error) => {
            machine.stop().await;
            run.helpers_ended().await;
            Err(error)
        }
    }
}

async fn begin(
    helpers: &Helpers,
    order: &BootOrder,
    machine: &Arc<dyn Machine>,
    from: &SavedMachine,
) -> Result<(Arc<Session>, Events), String> {
    let resume = Resume { returning: true, another: true, ..Resume::default() };
    let (opened, helped) = tokio::join!(Session::open(&**machine, resume), helpers.start(order, machine));
    helped.map_err(|reason| reason.message)?;
    let (session, events, _) = opened.map_err(|error| error.to_string())?;
    order.watch.lap("guest");
    let groups = interface::group_addresses(&order.spec.network);
    let call = GuestLink::reidentify_call(order.hostname.clone(), groups, from.cause);
    session.link().call(&call).await.map_err(|error| error.to_string())?;
    Ok((session, events))
}
