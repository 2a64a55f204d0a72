//! A card, a mediator, a PF driver and VF drivers in one process, wired in one of two ways.

mod hardware;
mod pf;
mod progress;
mod testimony;
mod traffic;
mod vfs;

use std::collections::VecDeque;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use igb::FunctionId;
use igb_driver::netdev::{Changes, NetDevice as _};
use igb_model::{DropReason, MailboxMode, PortReport};
use iommu::backend::kernel::{KernelPlace, PciAddress};
use iommu::backend::{InProcess, Place};
use iommu::function::Function;
use mediator::kernel_nic::KernelNic;
use mediator::limits::Limits;
use mediator::nic::{Nic, SocketNic};
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::Token;
use pf_driver::Policy;
use tempfile::TempDir;
use vf_driver::VfDriver;
use vfio_user::client::ClientOptions;
use vfio_user::device::Device;
use vfio_user_device::sockets::{SocketDir, Sockets};
use vfio_user_device::{Card, CardOptions};

use self::hardware::HardwareNic;
use crate::pf_thread::PfThread;

/// How long anything may take before the test fails. Long, because machines are slow; what a test
/// waits for ends the wait.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// VFs of an 82576.
const MAX_VFS: u8 = 8;
/// What PF driver and mediator show each other.
const TOKEN: Token = Token([0x5A; 32]);

/// How the parts reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Calls.
    InProcess,
    /// Unix sockets.
    Sockets,
    /// Calls; but the card is to the mediator as hardware is: none of its registers is shared memory,
    /// it knows no DMA by message, and its own mailbox is open.
    Hardware,
    /// Calls; but the card is the kernel's, and no work of ours: PF and VFs are reached over VFIO.
    Kernel(KernelPlace),
}

/// What a rig is built with.
#[derive(Clone, Default)]
pub struct Setup {
    /// What VFs may.
    pub policy: Policy,
    /// The PF's MTU; 0 for the default.
    pub mtu: u32,
    /// What the mediator lets VFs ask.
    pub limits: Limits,
}

/// The slot of a VF and what is plugged into it.
type Plugged = Option<(Arc<dyn Device>, Arc<InProcess>)>;

/// A VF with its driver.
pub struct Vf {
    /// Which.
    pub number: u16,
    /// Its driver.
    pub driver: VfDriver,
    /// What the driver drives, for accesses beside it.
    pub function: Arc<dyn Function>,
    /// In process there is no connection whose end tells the driver: the slot, and the function to
    /// pull out when the slot is another's.
    plugged: Plugged,
    /// Frames that it received and nobody has taken.
    pub received: VecDeque<Vec<u8>>,
    /// What [`NetDevice::service`](igb_driver::netdev::NetDevice::service) found changed, all together.
    pub changes: Changes,
}

/// The parts.
pub struct Rig {
    wiring: Wiring,
    setup: Setup,
    vfs: Vec<Vf>,
    pf: Option<PfThread>,
    /// Frames that the PF received and nobody has taken.
    pub pf_received: VecDeque<Vec<u8>>,
    mediator: Option<Mediator>,
    sockets: Option<Sockets>,
    /// Ours, or else one of the kernel's.
    card: Option<Arc<Card>>,
    next_number: u32,
    dir: TempDir,
}

/// A station: the PF or a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Station {
    /// The PF.
    Pf,
    /// VF n.
    Vf(u16),
}

struct CardNic(Arc<Card>);

impl Nic for CardNic {
    fn connect(&self, vf: u16) -> Result<Arc<dyn Function>, Box<dyn Error + Send + Sync>> {
        let id = u8::try_from(vf)
            .ok()
            .and_then(FunctionId::try_vf)
            .ok_or("no such VF")?;
        if vf >= u16::from(self.0.num_vfs()) || self.0.is_connected(id) {
            return Err("the VF is not there".into());
        }
        Ok(Arc::new(InProcess::new(self.0.function(id))?))
    }
}

/// The VFs of a PF of the kernel's, wherever they will be.
fn kernel_nic(pf: KernelPlace, limits: Limits) -> KernelNic {
    let vfs = (0..MAX_VFS).filter_map(|number| {
        let address = pf.address.of_vf(number.into())?;
        let vf_token = pf.vf_token;
        Some(Place::Vfio(KernelPlace { address, vf_token }))
    });
    KernelNic::new(vfs.collect(), limits).expect("VFs")
}

impl Rig {
    /// A card and a mediator; no driver yet.
    ///
    /// # Panics
    ///
    /// If they cannot be made, as everything here does that a scenario takes for granted.
    #[must_use]
    pub fn new(wiring: Wiring) -> Self {
        crate::journal::start();
        let dir = tempfile::tempdir().expect("a directory for sockets");
        let mailbox = match wiring {
            Wiring::Hardware => MailboxMode::Open,
            _ => MailboxMode::Closed,
        };
        let card = (!matches!(wiring, Wiring::Kernel(_))).then(|| {
            Card::new(CardOptions {
                mailbox,
                ..CardOptions::default()
            })
            .expect("a card")
        });
        let sockets = card.as_ref().filter(|_| wiring == Wiring::Sockets);
        let sockets = sockets.map(|card| {
            let claimed = SocketDir::claim(&dir.path().join("card")).expect("the card's directory");
            Sockets::serve(card, claimed).expect("the card's sockets")
        });
        Self {
            wiring,
            setup: Setup::default(),
            vfs: Vec::new(),
            pf: None,
            pf_received: VecDeque::new(),
            mediator: None,
            sockets,
            card,
            next_number: 0,
            dir,
        }
    }

    /// Start mediator and PF driver, and enable `vfs` VFs.
    pub fn start(&mut self, setup: Setup, vfs: u16) {
        self.setup = setup;
        self.start_mediator();
        self.start_pf(|_| ());
        self.sriov_configure(vfs);
        // A card that is not ours negotiates its link.
        self.wait("the link", |rig| rig.pf(|pf| pf.carrier()));
    }

    /// [`Self::start`] with the default setup, and a driver on each VF.
    pub fn start_with_drivers(&mut self, vfs: u16) {
        self.start(Setup::default(), vfs);
        for vf in 0..vfs {
            self.probe(vf);
        }
    }

    /// How it is wired.
    #[must_use]
    pub fn wiring(&self) -> Wiring {
        self.wiring
    }

    /// A path in the rig's directory: the sockets of the card are in `card`, those of the VFs in
    /// `guests`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start_mediator(&mut self) {
        let nic: Arc<dyn Nic> = match self.wiring {
            Wiring::InProcess => Arc::new(CardNic(Arc::clone(self.card()))),
            Wiring::Kernel(pf) => Arc::new(kernel_nic(pf, self.setup.limits)),
            Wiring::Hardware => {
                let nic = CardNic(Arc::clone(self.card()));
                Arc::new(HardwareNic::new(nic, self.setup.limits))
            }
            Wiring::Sockets => Arc::new(SocketNic::new(&self.path("card"))),
        };
        let mut options = MediatorOptions::new(nic);
        if self.wiring == Wiring::Sockets {
            options.socket_dir = Some(self.path("guests"));
            options.pf_socket = Some(self.path("mediator.sock"));
        }
        options.token = Some(TOKEN);
        options.limits = self.setup.limits;
        self.mediator = Some(Mediator::start(options).expect("a mediator"));
    }

    /// The mediator.
    #[must_use]
    pub fn mediator(&self) -> &Mediator {
        self.mediator.as_ref().expect("a mediator")
    }

    /// The card.
    ///
    /// # Panics
    ///
    /// If it is none of ours: see [`OUR_CARD_ONLY`](crate::scenarios::OUR_CARD_ONLY).
    #[must_use]
    pub fn card(&self) -> &Arc<Card> {
        self.card.as_ref().expect("a card of ours")
    }

    /// VFs that the card has.
    #[must_use]
    pub fn num_vfs(&self) -> u8 {
        match (&self.card, self.wiring) {
            (None, Wiring::Kernel(pf)) => {
                let there = |number: &u8| {
                    let vf = pf.address.of_vf((*number).into());
                    vf.and_then(PciAddress::vf).is_some()
                };
                (0..MAX_VFS).filter(there).count() as u8
            }
            _ => self.card().num_vfs(),
        }
    }

    /// What the card counted for a station.
    #[must_use]
    pub fn report(&self, station: Station) -> PortReport {
        self.card().snapshot().function(station.function()).clone()
    }

    /// Frames of a station that the card dropped for this reason.
    #[must_use]
    pub fn drops(&self, station: Station, reason: DropReason) -> u64 {
        self.report(station).drops.get(reason)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Guests first, then the PF driver, which takes the VFs along.
        self.vfs.clear();
        self.pf = None;
        self.mediator = None;
        self.sockets = None;
    }
}

impl Station {
    fn function(self) -> FunctionId {
        match self {
            Station::Pf => FunctionId::PF,
            Station::Vf(vf) => FunctionId::vf(vf as u8),
        }
    }
}

fn client_options() -> ClientOptions {
    ClientOptions { timeout: PATIENCE }
}
