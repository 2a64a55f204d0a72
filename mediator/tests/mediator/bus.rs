//! The virtual bus: VFs come and go, tenants change, the PF driver dies and comes back, garbage
//! arrives. Real sockets where the socket is the point.

mod any_order;
mod coming;
mod ejecting;
mod pf_drivers;
mod sockets;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crate::fixture::{FakeCard, FakePf, Guest, SOON, Seen, mediator};
use igb::Register as _;
use iommu::backend::VfioUser;
use iommu::function::Function;
use iommu::interrupt::{EventFd, InterruptSet};
use mediator::audit::Audit;
use mediator::clock::Clock;
use mediator::control::{self, ControlAnswer, ControlRequest};
use mediator::nic::Nic;
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::bar::{Command, Register as BarRegister};
use mediator_protocol::*;
use nix::errno::Errno;
use std::os::fd::AsFd;
use vfio_user::client::{ClientOptions, DmaHandler, DmaReply};
use vfio_user::device::{DmaAccess, irq};

const NEVER: Duration = Duration::from_secs(3600);

fn ejected(message: &ToPf) -> bool {
    matches!(message, ToPf::Ejected { .. })
}

fn generation_of_reset(pf: &mut FakePf) -> u32 {
    match pf.until(|message| {
        matches!(
            message,
            ToPf::Reset {
                cause: ResetCause::Tenant,
                ..
            }
        )
    }) {
        ToPf::Reset { generation, .. } => generation,
        _ => unreachable!(),
    }
}
