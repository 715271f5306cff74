//! Requests of devices that have a pool of their own (SPEC 2.7).

use super::{Machine, Mapped, Refused, Terms};
use crate::param::Force;
use crate::plan::{Limits, Request};
use crate::refusal::Refusal;
use crate::restricted::POOL;

impl Machine {
    /// Whether a device of that name has a pool of its own.
    #[must_use]
    pub fn restricts(&self, device: &str) -> bool {
        self.restricted.as_ref().is_some_and(|restricted| restricted.is_of(device))
    }

    /// Whether there is such a pool.
    pub(crate) fn has_restricted(&self) -> bool {
        self.restricted.is_some()
    }

    /// Has all requests from now on treated as such devices' are: forced to bounce, and from the restricted pool.
    pub(crate) fn restrict_all(&mut self) {
        self.force = Force::Always;
        self.allocator.send_to(Some(POOL));
    }

    /// [`Machine::map_on`] for a device with a restricted pool: everything bounces, and from that pool.
    ///
    /// # Errors
    /// As [`Machine::map_on`].
    pub fn map_restricted(&mut self, request: &Request, limits: &Limits, terms: &Terms) -> Result<Mapped, Refused> {
        self.in_restricted(|machine| machine.map_on(request, limits, terms))
    }

    /// [`Machine::explain`] for such a device.
    pub fn explain_restricted(&mut self, request: &Request, limits: &Limits, refused: &Refused) -> Refusal {
        self.in_restricted(|machine| machine.explain(request, limits, refused))
    }

    /// Asks something of the restricted pool, whose own flag to force bounces stands before the kernel's (SPEC 6.1).
    fn in_restricted<T>(&mut self, ask: impl FnOnce(&mut Self) -> T) -> T {
        let force = std::mem::replace(&mut self.force, Force::Always);
        self.allocator.send_to(Some(POOL));
        let answer = ask(self);
        self.allocator.send_to(None);
        self.force = force;
        answer
    }
}
