//! Tests of the mediator against fakes of its three peers: the card, the PF driver, the guest.
#![forbid(unsafe_code)]

mod bus;
mod channel;
mod fixture;
mod passthrough;
mod program;
mod requests;
