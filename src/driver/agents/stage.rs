//! Where the right to run a VM stands, from the register of each site. Never from power (S8).

use crate::agent::api::{Power, Register, Role, Roots};
use crate::api::Site;
use crate::domain::Stage;

/// What one site says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said<'a> {
    pub host: &'a str,
    pub register: Option<&'a Register>,
    pub defined: bool,
    pub power: Power,
    /// Why the power is not known.
    pub power_reason: Option<&'a str>,
    /// The whole content of the disks, if that is what they hold.
    pub content: Option<&'a Roots>,
}

/// The stage, once both sites have been heard (S7). None: no site knows the VM.
pub(super) fn stage(on_premises: Option<Said<'_>>, azure: Option<Said<'_>>) -> Option<Stage> {
    let said = |site| match site {
        Site::OnPremises => on_premises,
        Site::Azure => azure,
    };
    let register = |site| said(site).and_then(|said| said.register);
    for site in Site::BOTH {
        let Some(own) = register(site) else { continue };
        let peer = register(site.other());
        let stage = match (own.role, peer.map(|peer| peer.role)) {
            (Role::Owner, None | Some(Role::Replica)) => owner(site, own, peer),
            (Role::Owner, Some(Role::Fenced)) => moved(site, own, peer, said(site)),
            (Role::Fenced, None | Some(Role::Replica)) => {
                Some(fenced(site, own, peer, said(site.other())))
            }
            (Role::Replica, Some(Role::Owner | Role::Fenced))
            | (Role::Fenced, Some(Role::Owner)) => {
                continue;
            }
            (Role::Owner, Some(Role::Owner))
            | (Role::Fenced, Some(Role::Fenced))
            | (Role::Replica, None | Some(Role::Replica)) => None,
        };
        return Some(stage.unwrap_or_else(|| contradiction(on_premises, azure)));
    }
    let defined = |site| said(site).is_some_and(|said| said.defined);
    match (defined(Site::OnPremises), defined(Site::Azure)) {
        (true, false) => Some(Stage::Unclaimed {
            site: Site::OnPremises,
        }),
        (false, true) => Some(Stage::Unclaimed { site: Site::Azure }),
        (true, true) => Some(contradiction(on_premises, azure)),
        (false, false) => None,
    }
}

fn uncommitted(register: &Register) -> bool {
    register.start.is_some() && register.commit.is_none()
}

/// S4: a register that is older than its peer's means fenced, whatever role it tells of.
fn owner(site: Site, own: &Register, peer: Option<&Register>) -> Option<Stage> {
    let older = peer.is_some_and(|peer| peer.epoch > own.epoch);
    (!older && !uncommitted(own)).then_some(Stage::Settled { site })
}

/// The right has moved to `to`; the source is still fenced.
fn moved(
    to: Site,
    own: &Register,
    source: Option<&Register>,
    said: Option<Said<'_>>,
) -> Option<Stage> {
    let (said, source) = (said?, source?);
    let of_this_move = source.epoch == own.epoch && source.moving_to.as_deref() == Some(said.host);
    let start = own.start.as_ref()?;
    if !of_this_move {
        return None;
    }
    if own.commit.is_some() {
        return Some(Stage::Committed { to });
    }
    let left_off = start.left_off && matches!(said.power, Power::Off);
    Some(Stage::TargetStarted {
        to,
        // Silent is not off (S7): what is committed is looked at by the host itself (S5).
        as_left: left_off || matches!(said.power, Power::Running | Power::Unknown),
    })
}

fn fenced(from: Site, own: &Register, peer: Option<&Register>, target: Option<Said<'_>>) -> Stage {
    let meant = target.is_some_and(|said| own.moving_to.as_deref() == Some(said.host));
    let barred = peer
        .and_then(|peer| peer.fence.as_ref())
        .is_some_and(|fence| fence.epoch > own.epoch);
    if meant && barred {
        return Stage::TargetFenced { from };
    }
    let Some(stop) = &own.stop else {
        return Stage::SourceFenced { from };
    };
    // S3: a verified copy of the very manifest of the stop.
    if meant && target.and_then(|said| said.content) == Some(&stop.roots) {
        return Stage::TargetWhole { from };
    }
    Stage::SourceStopped {
        from,
        was_running: stop.was_running,
    }
}

impl Said<'_> {
    /// A host that has neither a register nor a definition and yet may run the guest: all that said so was lost under it.
    pub fn is_stray(&self) -> bool {
        self.register.is_none() && !self.defined && self.power != Power::Off
    }

    fn power_in_words(&self) -> String {
        let power = self.power;
        self.power_reason
            .map_or_else(|| format!("{power:?}"), |why| format!("{power:?} ({why})"))
    }
}

/// S8: nothing is guessed; what each side said is told.
pub(super) fn contradiction(on_premises: Option<Said<'_>>, azure: Option<Said<'_>>) -> Stage {
    let seen = seen(on_premises, azure);
    Stage::Contradiction { seen }
}

/// What each side said.
pub(super) fn seen(on_premises: Option<Said<'_>>, azure: Option<Said<'_>>) -> String {
    let side = |site: Site, said: Option<Said<'_>>| {
        said.map_or_else(
            || format!("{site} does not know the VM"),
            |said| tell(site, said),
        )
    };
    let (on_premises, azure) = (
        side(Site::OnPremises, on_premises),
        side(Site::Azure, azure),
    );
    format!("{on_premises}; {azure}")
}

/// What one host said.
pub(super) fn tell(site: Site, said: Said<'_>) -> String {
    let (host, power) = (said.host, said.power_in_words());
    match said.register {
        None if said.is_stray() => {
            format!("{site} ({host}) knows nothing of the VM but its process, power {power}")
        }
        None if !said.defined => format!("{site} ({host}) does not know the VM"),
        None => format!("{site} ({host}) has a definition and no register, power {power}"),
        Some(own) => format!(
            "{site} ({host}) is {} at epoch {} step {}{}, power {power}",
            own.role,
            own.epoch,
            own.step,
            if uncommitted(own) {
                ", started and not committed"
            } else {
                ""
            },
        ),
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
