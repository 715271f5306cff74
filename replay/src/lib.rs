//! Bit-exact models of the Linux bounce-buffer allocators and of Xen's address translation.
