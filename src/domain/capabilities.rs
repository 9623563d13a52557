//! What a driver can do. `decide` knows capabilities, never drivers.

use super::observation::BySite;

/// What a driver can do, by the site that a move goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether the sides keep registers of the right to run. A service that keeps none takes whatever request comes; what was asked of it is kept
    /// in the resource instead (safety rules S18, S19).
    pub registers: bool,
    /// By target site.
    pub towards: BySite<DirectionCapabilities>,
}

/// What a driver can do in moves towards one site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionCapabilities {
    /// An uncommitted move can be taken back.
    pub rollback: bool,
    /// A move can still be turned back after its source was stopped, before its target was started.
    pub cancel_after_stop: bool,
    /// With the delta, the driver can pause between synchronising and stopping the VM.
    pub pause_before_cutover: bool,
    /// Stop, last delta and start are actions of their own.
    pub separate_stop: bool,
    /// It can bring the VM to another place on this site than it came from; when not, the words say why.
    pub alternate_location: Result<(), String>,
    /// It protects the VM in the other direction after commit; when not, the words say why.
    pub protects_after_commit: Result<(), String>,
}
