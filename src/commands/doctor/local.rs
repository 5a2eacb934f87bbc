//! What the service needs of this machine.

use bytesize::ByteSize;

use super::report::{Finding, Outcome};
use crate::config::Upload;
use crate::upload::spill::{Spill, Unusable};

/// The folder for what finds no memory.
pub fn spill(config: &Upload) -> Outcome {
    let (folder, budget) = (config.spill_dir.display(), ByteSize(config.spill_budget));
    let spill = Spill::configured(config.spill_budget, &config.spill_dir).map_err(|unusable| {
        let seen = format!("SPILL_DIR: {}", unusable.why);
        // The service starts without where nobody asked for it.
        if config.spill_chosen { Finding::fail(seen, Unusable::FIX) } else { Finding::warn(seen, Unusable::FIX) }
    })?;
    let Some(spill) = spill else { return Ok("not used: SPILL_BUDGET=0".to_owned()) };
    match spill.free() {
        Some(free) if free < config.spill_budget => Err(Finding::warn(
            format!("{folder} can be written, and has {} free of SPILL_BUDGET's {budget}", ByteSize(free)),
            "make room, name another SPILL_DIR, or lower SPILL_BUDGET: uploads that find no room are told 503",
        )),
        _ => Ok(format!("{folder} can be written and is on a disk with room for SPILL_BUDGET ({budget})")),
    }
}
