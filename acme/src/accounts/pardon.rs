//! A person wants an account to be tried again, whatever its authority said.
//!
//! Invariants: it is tried once, and refused again it waits as before; the account and its key stay what
//! they are.

use super::{Accounts, Named, hash_of};
use crate::vault::VaultError;

impl Accounts {
    /// Ends the wait of an account; what was refused, if it did wait.
    pub(crate) async fn pardon(&self, issuer: Named<'_>) -> Result<Option<String>, VaultError> {
        let directory = issuer.directory();
        // Nobody makes an account for this.
        if !self.has_trouble(issuer.name, directory) {
            return Ok(None);
        }
        let mut known = self.turn(issuer).await;
        let mut entry = self.stored(&mut known, issuer).await?;
        let external = self.external(issuer).await.ok().flatten();
        let hash = hash_of(issuer.spec, external.as_ref());
        let waits = entry
            .untroubled(directory, &hash, self.clock.now())
            .is_err();
        let refused = entry.sheet.troubles.remove(directory);
        let reset = entry.sheet.reset.remove(directory);
        if refused.is_none() && reset.is_none() {
            return Ok(None);
        }
        self.store(&mut known, issuer, entry).await?;
        Ok(refused.filter(|_| waits).map(|trouble| trouble.detail))
    }
}
