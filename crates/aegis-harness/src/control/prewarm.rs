//! Pre-warming: does once what a start does, so that the next time nothing of it is new to this machine.

use aegis_guest_protocol::messages::{Prewarm, Run, code};
use aegis_guest_protocol::rpc::RpcError;

use super::Shared;
use crate::{guest_api, hooks, processes};

impl Shared {
    pub(super) async fn prewarm(&self, call: &Prewarm) -> Result<(), RpcError> {
        if self.root_taken.replace(true) {
            return Err(RpcError::new(code::WRONG_STATE, "the root is mounted already"));
        }
        self.platform.prewarm()?;
        let played = self.play(call).await;
        self.platform.forget()?;
        self.root_taken.set(false);
        played
    }

    async fn play(&self, call: &Prewarm) -> Result<(), RpcError> {
        let Run { hostname, shares, network, process } = &call.run;
        self.platform.prepare_root(hostname)?;
        let identity = processes::user(&process.user)?.identity;
        self.platform.mount_shares(shares, (identity.uid, identity.gid))?;
        let _heard = self.platform.listens();
        let _asked = self.platform.own_api().and_then(|path| guest_api::listen(&path).ok());
        if let Some(network) = network {
            self.platform.connect(network)?;
        }
        // An image need not have this program; what could be done has been done then.
        let _end = hooks::to_its_end(&self.processes, process).await;
        let _kills = self.platform.oom_kills();
        self.platform.release_root();
        Ok(())
    }
}
