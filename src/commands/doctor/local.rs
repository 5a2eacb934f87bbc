//! Checks of this machine.

use bytesize::ByteSize;

use super::report::{Finding, Outcome};
use crate::config::Upload;
use crate::upload::spill::{Spill, Unusable};

/// Checks that the spill folder can be used and has enough free space.
pub fn spill(config: &Upload) -> Outcome {
    let (folder, budget) = (config.spill_dir.display(), ByteSize(config.spill_budget));
    let spill = Spill::configured(config.spill_budget, &config.spill_dir).map_err(|unusable| {
        let seen = format!("SPILL_DIR: {}", unusable.why);
        // The service starts without spilling unless it was configured explicitly.
        if config.spill_chosen { Finding::fail(seen, Unusable::FIX) } else { Finding::warn(seen, Unusable::FIX) }
    })?;
    let Some(spill) = spill else { return Ok("not used: SPILL_BUDGET=0".to_owned()) };
    match spill.free() {
        Some(free) if free < config.spill_budget => Err(Finding::warn(
            format!("{folder} is writable, but has only {} free of the {budget} of SPILL_BUDGET", ByteSize(free)),
            "free disk space, set another SPILL_DIR, or lower SPILL_BUDGET: a full disk causes 503 answers",
        )),
        _ => Ok(format!("{folder} is writable and on a disk with enough free space for SPILL_BUDGET ({budget})")),
    }
}
