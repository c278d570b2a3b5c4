//! What is promised, in the order of an instance's life.

mod images;
mod killed;
mod life;
mod network;
mod saved;

use crate::Need::{Guest, Nothing, Save};
use crate::Promise;

/// All of them.
pub(crate) const PROMISES: &[Promise] = &[
    Promise { text: "run prints what the command prints", need: Nothing, attempt: life::run_prints },
    Promise { text: "run ends as the command ends", need: Nothing, attempt: life::run_ends_as_the_command },
    Promise { text: "run passes standard input on", need: Nothing, attempt: life::run_passes_input },
    Promise {
        text: "standard output and error stay apart",
        need: Nothing,
        attempt: life::outputs_stay_apart,
    },
    Promise {
        text: "a command that is not there is told from one that fails",
        need: Nothing,
        attempt: life::not_found,
    },
    Promise { text: "a run that takes too long is ended", need: Nothing, attempt: life::run_timeout },
    Promise { text: "nothing of a run stays", need: Nothing, attempt: life::nothing_stays },
    Promise { text: "a machine has a kernel of its own", need: Guest, attempt: life::own_kernel },
    Promise {
        text: "a machine has the processors that it was promised",
        need: Guest,
        attempt: life::processors,
    },
    Promise { text: "a machine has the memory that it was promised", need: Guest, attempt: life::memory },
    Promise {
        text: "modules of the kernel are loaded when they are asked for",
        need: Guest,
        attempt: life::modules,
    },
    Promise { text: "the clock is the host's", need: Guest, attempt: life::clock },
    Promise { text: "no two machines draw the same random numbers", need: Guest, attempt: life::randomness },
    Promise { text: "an instance goes on when nobody looks", need: Nothing, attempt: life::goes_on },
    Promise { text: "exec executes beside the command", need: Nothing, attempt: life::exec_beside },
    Promise { text: "exec gives a terminal", need: Nothing, attempt: life::terminal },
    Promise { text: "much output arrives whole", need: Nothing, attempt: life::much_output },
    Promise { text: "much input arrives whole", need: Nothing, attempt: life::much_input },
    Promise { text: "logs keep what the command printed", need: Nothing, attempt: life::logs },
    Promise { text: "many commands at a time are kept apart", need: Nothing, attempt: life::many_at_a_time },
    Promise { text: "a paused instance does nothing and goes on", need: Nothing, attempt: life::pause },
    Promise { text: "exec wakes a paused instance", need: Nothing, attempt: life::exec_wakes },
    Promise {
        text: "a paused instance's clock is right when it goes on",
        need: Guest,
        attempt: life::clock_after_pause,
    },
    Promise { text: "stop ends the command in good order", need: Nothing, attempt: life::stop_in_good_order },
    Promise { text: "the disk outlives a stop", need: Guest, attempt: life::disk_stays },
    Promise { text: "what was synced outlives a power cut", need: Guest, attempt: life::power_cut },
    Promise { text: "a disk grows", need: Guest, attempt: life::disk_grows },
    Promise { text: "a full disk is the guest's trouble alone", need: Guest, attempt: life::full_disk },
    Promise { text: "an image of several layers is a root", need: Guest, attempt: images::layers },
    Promise { text: "files are copied in and out", need: Guest, attempt: life::copies },
    Promise { text: "a workspace is seen from both sides", need: Guest, attempt: life::workspace },
    Promise {
        text: "a workspace that is only read is not written",
        need: Guest,
        attempt: life::read_only_workspace,
    },
    Promise {
        text: "a server in the guest is reached through its port",
        need: Guest,
        attempt: network::port,
    },
    Promise {
        text: "a connection wakes a paused instance",
        need: Guest,
        attempt: network::connection_wakes_paused,
    },
    Promise {
        text: "a connection wakes a stopped instance",
        need: Guest,
        attempt: network::connection_wakes_stopped,
    },
    Promise { text: "the host's loopback is out of reach", need: Guest, attempt: network::no_loopback },
    Promise { text: "a host's port that was opened is in reach", need: Guest, attempt: network::host_port },
    Promise { text: "members of a group find each other by name", need: Guest, attempt: network::group },
    Promise {
        text: "a hibernated instance takes no memory and goes on where it was",
        need: Save,
        attempt: saved::hibernation,
    },
    Promise {
        text: "a connection wakes a hibernated instance",
        need: Save,
        attempt: saved::connection_wakes_hibernated,
    },
    Promise {
        text: "a hibernated instance's clock is right when it goes on",
        need: Save,
        attempt: saved::clock_after_hibernation,
    },
    Promise {
        text: "forks go on from where their parent was, each for itself",
        need: Save,
        attempt: saved::forks,
    },
    Promise { text: "forks draw random numbers of their own", need: Save, attempt: saved::random_forks },
    Promise { text: "a snapshot is gone back to", need: Save, attempt: saved::snapshot_restore },
    Promise {
        text: "another instance starts from a snapshot",
        need: Save,
        attempt: saved::start_from_snapshot,
    },
    Promise { text: "a template makes machines that are their own", need: Save, attempt: saved::template },
    Promise {
        text: "a disk is kept while its instance goes on, and another starts from it",
        need: Guest,
        attempt: saved::disk_snapshot,
    },
    Promise { text: "instances outlive their daemon", need: Nothing, attempt: saved::daemon_crash },
    Promise {
        text: "a paused instance outlives its daemon",
        need: Nothing,
        attempt: saved::daemon_crash_paused,
    },
    Promise {
        text: "a hibernated instance outlives its daemon",
        need: Save,
        attempt: saved::daemon_crash_hibernated,
    },
    Promise {
        text: "a monitor that is killed is told of, and nothing of it stays",
        need: Nothing,
        attempt: saved::monitor_killed,
    },
    Promise { text: "a guest whose kernel panics is told of", need: Guest, attempt: saved::panic },
    Promise {
        text: "a daemon that is killed while an instance starts leaves nothing half done",
        need: Nothing,
        attempt: killed::daemon_while_it_starts,
    },
    Promise {
        text: "a monitor that is killed while its instance starts is told of",
        need: Guest,
        attempt: killed::monitor_while_it_starts,
    },
    Promise {
        text: "a daemon that is killed while an instance pauses loses nothing",
        need: Nothing,
        attempt: killed::daemon_while_it_pauses,
    },
    Promise {
        text: "a daemon that is killed while an instance hibernates loses nothing of its memory",
        need: Save,
        attempt: killed::daemon_while_it_hibernates,
    },
    Promise {
        text: "a monitor that is killed while its instance hibernates costs no disk",
        need: Save,
        attempt: killed::monitor_while_it_hibernates,
    },
    Promise {
        text: "a daemon that is killed while an instance wakes costs no disk",
        need: Save,
        attempt: killed::daemon_while_it_wakes,
    },
    Promise {
        text: "a daemon that is killed while it makes a snapshot leaves none or a whole one",
        need: Save,
        attempt: killed::daemon_while_it_copies,
    },
];
