//! A specification that is in order, for tests.

use std::collections::BTreeMap;

use aegis_lifecycle::idle_policy::IdleSpec;
use aegis_lifecycle::restart_policy::RestartPolicy;

use crate::instance::InstanceSpec;
use crate::network::NetworkSpec;

/// The smallest there is.
#[must_use]
pub fn sample() -> InstanceSpec {
    InstanceSpec {
        command: vec!["true".into()],
        env: BTreeMap::new(),
        memory_mib: 512,
        vcpus: 1,
        disk_mib: 1024,
        workdir: "/".into(),
        user: "root".into(),
        timeout_ms: None,
        tty: None,
        stdin: false,
        ephemeral: false,
        rootfs: "r".into(),
        image: None,
        secrets: Vec::new(),
        mounts: Vec::new(),
        kit: None,
        rest: IdleSpec::default(),
        network: NetworkSpec::default(),
        restart: RestartPolicy::No,
        max_lifetime_ms: None,
        no_template: false,
    }
}
