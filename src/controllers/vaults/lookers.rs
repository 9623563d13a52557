//! The drivers that look at vaults now, and what each was made from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::look;
use crate::controllers::context::Context;
use crate::controllers::factory::{DriverFactory, DriverInput};
use crate::controllers::hub::Blind;
use crate::controllers::key::Key;

/// The drivers that look at vaults now, and what each was made from.
pub struct Lookers {
    factory: Arc<dyn DriverFactory>,
    running: Mutex<HashMap<Key, Looker>>,
    stop: CancellationToken,
}

struct Looker {
    uid: Option<String>,
    input: DriverInput,
    stop: CancellationToken,
}

impl Lookers {
    /// None yet; all end with `stop`.
    pub fn new(factory: Arc<dyn DriverFactory>, stop: CancellationToken) -> Self {
        Self {
            factory,
            running: Mutex::default(),
            stop,
        }
    }

    /// Ends the loop of a vault, if there is one.
    pub fn end(&self, vault: &Key) {
        if let Some(looker) = self.lock().remove(vault) {
            looker.stop.cancel();
        }
    }

    /// Begins a loop for a vault, unless one runs that was made from the same. The one before goes on until there is a new driver.
    ///
    /// # Errors
    /// Why no driver can be made from this.
    pub fn ensure(
        &self,
        context: &Arc<Context>,
        vault: &Key,
        uid: Option<&str>,
        input: DriverInput,
    ) -> Result<(), Blind> {
        {
            let running = self.lock();
            if running.get(vault).is_some_and(|looker| {
                looker.uid.as_deref() == uid
                    && looker.input.spec == input.spec
                    && looker.input.secrets == input.secrets
            }) {
                return Ok(());
            }
        }
        let driver = self.factory.build(&input).map_err(|error| Blind {
            class: error.class,
            message: error.message,
        })?;
        tracing::info!(%vault, "a driver was made");
        self.end(vault);
        context.hub.install(vault, driver.clone());
        let stop = self.stop.child_token();
        tokio::spawn(look::look_again_and_again(
            context.clone(),
            vault.clone(),
            driver,
            stop.clone(),
        ));
        let uid = uid.map(ToOwned::to_owned);
        self.lock()
            .insert(vault.clone(), Looker { uid, input, stop });
        Ok(())
    }

    /// No driver can be made from what there is now. The one that works goes on with what it was made from: a guest may be down in the middle of
    /// its move, and a namespace is deleted Secrets and all. Where there is none, nobody can look.
    pub fn go_on_without(&self, context: &Context, vault: &Key, uid: Option<&str>, why: &Blind) {
        let works = self
            .lock()
            .get(vault)
            .is_some_and(|looker| looker.uid.as_deref() == uid);
        if works {
            return;
        }
        self.end(vault);
        if context.hub.withdraw(vault, Some(why.clone())) {
            tracing::warn!(%vault, error = %why.message, "no driver could be made");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Looker>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
