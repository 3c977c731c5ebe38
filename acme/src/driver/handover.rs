//! A certificate that lies in the target already and is handed over by its owner: taken instead of an
//! order.
//!
//! Invariants:
//! - It is taken as an import is, and only if it is good for every name that is wanted and its renewal
//!   is not due. Otherwise one is ordered, and why is stored with the plan.
//! - No authority is asked for it, so none that is away stands in its way.
//! - What has to be replaced, because a person wants that or it is revoked, is ordered.

use super::valid::within;
use super::{Driver, Flow, Trouble, Turn};
use crate::events::What;
use crate::failure::{Class, Failure};
use crate::import;
use crate::leaf;
use crate::plan::Wanted;
use crate::record::{Need, Phase};

impl Driver {
    /// Takes what is handed over; `None` if there is nothing, or nothing good.
    pub(super) async fn take_from_target(
        &self,
        flow: &mut Flow,
        wanted: &Wanted,
        need: Need,
    ) -> Result<Option<Turn>, Trouble> {
        let told = flow.record.state.refused.take();
        if need == Need::Asked {
            return Ok(None);
        }
        let offered = within(self.projector.handed_over(&wanted.target)).await;
        let offered = offered.map_err(|why| {
            let detail = format!("Secret {} cannot be looked at: {why}", wanted.target);
            Failure::local(Class::Storage, detail)
        })?;
        let Some(offered) = offered else {
            return Ok(None);
        };
        let taken = import::handed_over(wanted, &offered, (self.clock.now(), flow.epoch));
        let mut fresh = match taken {
            Ok(fresh) => fresh,
            Err(why) => {
                if told.as_ref() != Some(&why) {
                    let text = format!("what was handed over is not taken: {why}");
                    self.tell(flow, What::Warning(text));
                }
                flow.record.state.refused = Some(why);
                return Ok(None);
            }
        };
        fresh.take_place_of(&flow.record);
        let serial = leaf::serial_of(&offered.chain).unwrap_or_default();
        let current = fresh.state.current.as_ref();
        let not_after = current.map(|current| current.life.not_after);
        let before = std::mem::replace(&mut flow.record, fresh);
        // Written into the target once more, with what says whose it is from now on.
        let turn = match self.enter(flow, Phase::Delivering).await {
            Ok(turn) => turn,
            Err(trouble) => {
                flow.record = before;
                return Err(trouble);
            }
        };
        if let Some(not_after) = not_after {
            self.tell(flow, What::TakenOver { serial, not_after });
        }
        Ok(Some(turn))
    }
}
