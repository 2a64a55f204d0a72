//! Scenarios that run in process, over sockets and in VMs.
