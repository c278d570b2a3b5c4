//! The keyring of a desktop session: the Secret Service of the session's bus (GNOME Keyring, KWallet, KeePassXC).

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use aegis_store::secrets::Keyring;
use secret_service::{EncryptionType, SecretService};
use zeroize::Zeroizing;

/// How long the keyring may take. One that asks its user something takes longer, and is not waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What names the session's bus; without it there is no session.
const BUS: &str = "DBUS_SESSION_BUS_ADDRESS";

/// The session's keyring.
#[derive(Debug)]
pub(crate) struct SessionKeyring;

impl SessionKeyring {
    /// The keyring, if this process belongs to a session.
    pub(crate) fn of_session() -> Option<SessionKeyring> {
        std::env::var_os(BUS).filter(|address| !address.is_empty()).map(|_| SessionKeyring)
    }
}

fn attributes(entry: &str) -> HashMap<&str, &str> {
    HashMap::from([("application", "aegis"), ("entry", entry)])
}

/// Asks on a thread of its own: whoever needs a secret may be a task of another runtime.
fn ask<T: Send, F: Future<Output = Result<T, secret_service::Error>>>(
    question: impl FnOnce() -> F + Send,
) -> Result<T, String> {
    let asking = move || -> Result<T, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = runtime.map_err(|error| error.to_string())?.block_on(async {
            // The timer wants to be made where it runs.
            tokio::time::timeout(TIMEOUT, question()).await
        });
        answer.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())
    };
    std::thread::scope(|scope| scope.spawn(asking).join()).map_err(|_| "asking it failed".to_owned())?
}

impl Keyring for SessionKeyring {
    fn store(&self, entry: &str, key: &[u8]) -> Result<(), String> {
        ask(|| async {
            let service = SecretService::connect(EncryptionType::Dh).await?;
            let collection = service.get_default_collection().await?;
            if collection.is_locked().await? {
                return Err(secret_service::Error::Locked);
            }
            let label = "Aegis: opens the master key of the secrets";
            let binary = "application/octet-stream";
            collection.create_item(label, attributes(entry), key, true, binary).await.map(drop)
        })
    }

    fn load(&self, entry: &str) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
        ask(|| async {
            let service = SecretService::connect(EncryptionType::Dh).await?;
            let found = service.search_items(attributes(entry)).await?;
            match (found.unlocked.first(), found.locked.is_empty()) {
                (Some(item), _) => item.get_secret().await.map(|key| Some(Zeroizing::new(key))),
                (None, true) => Ok(None),
                (None, false) => Err(secret_service::Error::Locked),
            }
        })
    }

    fn forget(&self, entry: &str) -> Result<(), String> {
        ask(|| async {
            let service = SecretService::connect(EncryptionType::Dh).await?;
            for item in service.search_items(attributes(entry)).await?.unlocked {
                item.delete().await?;
            }
            Ok(())
        })
    }
}
