//! Set-up, the VM lab and its tests.
