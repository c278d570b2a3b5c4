//! Members of groups as gateways see them: woken by whoever connects, and kept awake by connections.

use std::path::PathBuf;

use aegis_lifecycle::idle_policy::User;
use aegis_machines::network::group_broker::{ActivityGuard, GroupMembers, MemberConnection};
use async_trait::async_trait;

use crate::connection::ConnectionGuard;
use crate::table::InstanceTable;
use crate::usage::UsageGuard;

impl ActivityGuard for UsageGuard {
    fn touch(&self) {
        self.carried(0, 0);
    }
}

#[async_trait]
impl MemberConnection for ConnectionGuard {
    async fn wake(&self) -> Result<(), String> {
        ConnectionGuard::wake(self).await.map_err(|error| error.to_string())
    }

    fn gateway_socket(&self) -> Option<PathBuf> {
        Some(self.gateway()?.socket().to_owned())
    }

    fn server_timeout_ms(&self) -> u64 {
        ConnectionGuard::server_timeout_ms(self)
    }
}

impl GroupMembers for InstanceTable {
    fn admitted(&self, id: &str) -> Option<Box<dyn ActivityGuard>> {
        let guard = self.find(id).ok()?.usage().enter(User::Connection)?;
        Some(Box::new(guard))
    }

    fn connect(&self, id: &str) -> Result<Box<dyn MemberConnection>, String> {
        let connection = self.find(id).and_then(|instance| instance.connect_guard());
        connection
            .map(|guard| Box::new(guard) as Box<dyn MemberConnection>)
            .map_err(|error| error.to_string())
    }
}
