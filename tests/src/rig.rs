//! A card, a mediator, a PF driver and VF drivers in one process, wired in one of two ways.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use igb::{FunctionId, MacAddress};
use igb_driver::netdev::{Changes, NetDevice, XmitError};
use igb_model::{DropReason, PortReport};
use iommu::backend::{InProcess, VfioUser};
use iommu::function::Function;
use mediator::limits::Limits;
use mediator::nic::{Nic, SocketNic};
use mediator::{Mediator, MediatorOptions};
use mediator_protocol::Token;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pf_driver::{PfChannel, PfDriver, PfError, PfOptions, Policy, VfConfig};
use tempfile::TempDir;
use vf_driver::{Status, VfDriver, VfError, VfOptions, VfRequest};
use vfio_user::client::ClientOptions;
use vfio_user::device::Device;
use vfio_user_device::sockets::{SocketDir, Sockets};
use vfio_user_device::{Card, CardOptions};

use crate::frames;
use crate::pf_thread::PfThread;

/// How long anything may take before the test fails. Long, because machines are slow; what a test
/// waits for ends the wait.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at that no event announces (counters of the card).
const LOOK: Duration = Duration::from_millis(5);
/// What PF driver and mediator show each other.
const TOKEN: Token = Token([0x5A; 32]);

/// How the parts reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Calls.
    InProcess,
    /// Unix sockets.
    Sockets,
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
    /// What [`NetDevice::service`] found changed, all together.
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
    card: Arc<Card>,
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
        let card = Card::new(CardOptions::default()).expect("a card");
        let sockets = (wiring == Wiring::Sockets).then(|| {
            let claimed = SocketDir::claim(&dir.path().join("card")).expect("the card's directory");
            Sockets::serve(&card, claimed).expect("the card's sockets")
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
            Wiring::InProcess => Arc::new(CardNic(Arc::clone(&self.card))),
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

    /// The PF as a function.
    #[must_use]
    pub fn pf_function(&self) -> Arc<dyn Function> {
        match self.wiring {
            Wiring::InProcess => {
                Arc::new(InProcess::new(self.card.function(FunctionId::PF)).expect("the PF"))
            }
            Wiring::Sockets => {
                let path = self.sockets.as_ref().expect("sockets").pf_socket();
                Arc::new(VfioUser::connect(&path, client_options()).expect("the PF's socket"))
            }
        }
    }

    /// The channel of a PF driver that shows this token.
    #[must_use]
    pub fn pf_channel(&self, token: Token) -> PfChannel {
        match self.wiring {
            Wiring::InProcess => {
                let stream = self.mediator().connect_pf().expect("a socket pair");
                PfChannel::over(stream, token).expect("a channel")
            }
            Wiring::Sockets => PfChannel::connect(&self.path("mediator.sock"), token),
        }
    }

    /// Start a PF driver whose options `change` may alter. It keeps its state in a file.
    pub fn start_pf(&mut self, change: impl FnOnce(&mut PfOptions)) {
        self.try_start_pf(change).expect("the PF driver starts");
        self.pf(|pf| pf.open()).expect("the PF opens");
        self.wait("the mediator to accept the PF driver", |rig| {
            rig.pf(|pf| pf.channel_ready())
        });
    }

    fn try_start_pf(&mut self, change: impl FnOnce(&mut PfOptions)) -> Result<(), PfError> {
        let mut options = PfOptions {
            policy: self.setup.policy.clone(),
            state: Some(self.path("state.json")),
            ..PfOptions::default()
        };
        if self.setup.mtu != 0 {
            options.mtu = self.setup.mtu;
        }
        change(&mut options);
        let (function, channel) = (self.pf_function(), self.pf_channel(TOKEN));
        self.pf = Some(PfThread::start(move || {
            let mut driver = PfDriver::probe(function, options)?;
            driver.attach_channel(channel)?;
            Ok(driver)
        })?);
        Ok(())
    }

    /// The PF driver dies without a word.
    pub fn crash_pf(&mut self) {
        self.pf.take().expect("a PF driver").crash();
    }

    /// The PF driver is removed, in good order.
    pub fn remove_pf(&mut self) {
        self.pf.take().expect("a PF driver").remove();
    }

    /// Have the PF driver do something.
    pub fn pf<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut PfDriver) -> R + Send + 'static,
    ) -> R {
        self.pf.as_ref().expect("a PF driver").call(job)
    }

    /// Have the PF driver do something, without waiting for it.
    pub fn pf_begin(&self, job: impl FnOnce(&mut PfDriver) + Send + 'static) {
        self.pf.as_ref().expect("a PF driver").begin(job);
    }

    /// `sriov_configure`, while the VF drivers do what they must. The VFs are on the bus afterwards.
    pub fn sriov_configure(&mut self, vfs: u16) {
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        let pf = self.pf.as_ref().expect("a PF driver");
        pf.begin(move |pf| drop(done.send(pf.sriov_configure(vfs))));
        let mut result = None;
        self.wait("sriov_configure", |_| {
            result = outcome.try_recv().ok();
            result.is_some()
        });
        result.expect("it came").expect("sriov_configure");
        for vf in 0..vfs {
            assert!(
                self.mediator().wait_for_device(vf, PATIENCE).is_some(),
                "VF {vf} is not on the bus"
            );
        }
    }

    /// A VF's function, as its guest gets it; waits for the VF to be on the bus.
    #[must_use]
    pub fn vf_function(&self, vf: u16) -> Arc<dyn Function> {
        self.plug(vf).0
    }

    fn plug(&self, vf: u16) -> (Arc<dyn Function>, Plugged) {
        let device = self.mediator().wait_for_device(vf, PATIENCE);
        let device = device.unwrap_or_else(|| panic!("VF {vf} does not come onto the bus"));
        match self.wiring {
            Wiring::InProcess => {
                let function = Arc::new(InProcess::new(Arc::clone(&device)).expect("the VF"));
                (Arc::clone(&function) as _, Some((device, function)))
            }
            Wiring::Sockets => {
                let path = mediator::nic::vf_socket(&self.path("guests"), vf);
                let function = VfioUser::connect(&path, client_options());
                (Arc::new(function.expect("the VF's socket")), None)
            }
        }
    }

    /// Probe a VF and open it.
    pub fn probe(&mut self, vf: u16) {
        self.try_probe(vf)
            .unwrap_or_else(|error| panic!("VF {vf} cannot be probed: {error}"));
    }

    /// [`Self::probe`], which may fail.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub fn try_probe(&mut self, vf: u16) -> Result<(), VfError> {
        assert!(
            self.vfs.iter().all(|other| other.number != vf),
            "VF {vf} has a driver"
        );
        let (function, plugged) = self.plug(vf);
        let mut driver = VfDriver::probe(Arc::clone(&function), &VfOptions::default())?;
        driver.open()?;
        let (received, changes) = Default::default();
        self.vfs.push(Vf {
            number: vf,
            driver,
            function,
            plugged,
            received,
            changes,
        });
        Ok(())
    }

    /// Remove a VF's driver; the tenant is gone.
    pub fn remove(&mut self, vf: u16) {
        let at = self
            .vfs
            .iter()
            .position(|other| other.number == vf)
            .expect("a VF with a driver");
        let vf = self.vfs.remove(at);
        vf.driver.remove();
    }

    /// The VF's driver and its connection go without a word.
    pub fn crash(&mut self, vf: u16) {
        self.vfs.retain(|other| other.number != vf);
    }

    /// A VF with a driver.
    pub fn vf(&mut self, vf: u16) -> &mut Vf {
        self.vfs
            .iter_mut()
            .find(|other| other.number == vf)
            .expect("a VF with a driver")
    }

    /// VFs with a driver.
    #[must_use]
    pub fn driven(&self) -> Vec<u16> {
        self.vfs.iter().map(|vf| vf.number).collect()
    }

    /// Ask the PF in the name of a VF.
    pub fn request(&mut self, vf: u16, request: VfRequest) -> Status {
        self.vf(vf)
            .driver
            .request(&request)
            .expect("the request can be made")
    }

    /// A VF as the PF driver has it.
    #[must_use]
    pub fn config(&self, vf: u16) -> VfConfig {
        self.pf(move |pf| pf.get_vf_config(vf))
            .expect("the VF is enabled")
    }

    /// The mediator.
    #[must_use]
    pub fn mediator(&self) -> &Mediator {
        self.mediator.as_ref().expect("a mediator")
    }

    /// The card.
    #[must_use]
    pub fn card(&self) -> &Arc<Card> {
        &self.card
    }

    /// What the card counted for a station.
    #[must_use]
    pub fn report(&self, station: Station) -> PortReport {
        self.card.snapshot().function(station.function()).clone()
    }

    /// Frames of a station that the card dropped for this reason.
    #[must_use]
    pub fn drops(&self, station: Station, reason: DropReason) -> u64 {
        self.report(station).drops.get(reason)
    }

    /// The address of a station.
    pub fn mac(&mut self, station: Station) -> MacAddress {
        match station {
            Station::Pf => self.pf(|pf| pf.mac()),
            Station::Vf(vf) => self.vf(vf).driver.mac(),
        }
    }

    /// Frames that a station has received and nobody has taken.
    pub fn received(&mut self, station: Station) -> &mut VecDeque<Vec<u8>> {
        match station {
            Station::Pf => &mut self.pf_received,
            Station::Vf(vf) => &mut self.vf(vf).received,
        }
    }

    // ---- time ----

    /// Let every driver do what it has to.
    pub fn pump(&mut self) {
        for vf in &self.vfs {
            if let Some((slot, function)) = &vf.plugged {
                let now = self
                    .mediator
                    .as_ref()
                    .and_then(|mediator| mediator.device(vf.number));
                if now.is_none_or(|now| !Arc::ptr_eq(&now, slot)) {
                    function.remove();
                }
            }
        }
        for vf in &mut self.vfs {
            vf.changes = vf.changes.and(vf.driver.service());
            while vf
                .driver
                .poll(64, &mut |frame| vf.received.push_back(frame.to_vec()))
                == 64
            {}
        }
        if let Some(pf) = &self.pf {
            self.pf_received.extend(pf.take_received());
        }
    }

    /// Wait until `done`, while the drivers go on.
    ///
    /// # Panics
    ///
    /// If it does not come about.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.pump();
            if done(self) {
                return;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            let timeouts = self.vfs.iter().filter_map(|vf| vf.driver.next_timeout());
            let timeout = timeouts.min().unwrap_or(LOOK).min(LOOK);
            let vfs = self.vfs.iter().flat_map(|vf| vf.driver.event_fds());
            let pf = self.pf.iter().map(|pf| pf.news().as_fd());
            let mut fds: Vec<_> = vfs
                .chain(pf)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            let _ = poll(
                &mut fds,
                PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
            );
        }
    }

    // ---- frames ----

    /// Send a frame as it is.
    ///
    /// # Errors
    ///
    /// What the driver says; a full ring is waited for.
    pub fn send_raw(&mut self, from: Station, frame: &[u8]) -> Result<(), XmitError> {
        let mut outcome = Err(XmitError::Full);
        let bytes = frame.to_vec();
        self.wait("room in the transmit ring", |rig| {
            outcome = match from {
                Station::Pf => {
                    let bytes = bytes.clone();
                    rig.pf(move |pf| {
                        let sent = pf.xmit(&bytes);
                        pf.flush();
                        sent
                    })
                }
                Station::Vf(vf) => {
                    let driver = &mut rig.vf(vf).driver;
                    let sent = driver.xmit(&bytes);
                    driver.flush();
                    sent
                }
            };
            outcome != Err(XmitError::Full)
        });
        outcome
    }

    /// Send a numbered frame, and return its number.
    pub fn send(&mut self, from: Station, to: MacAddress, length: usize) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        let source = self.mac(from);
        let frame = frames::frame(to, source, number, length);
        self.send_raw(from, &frame)
            .unwrap_or_else(|error| panic!("{from:?} cannot send: {error}"));
        number
    }

    /// Wait until a station has received the frame of this number, and take it and what came
    /// before.
    pub fn receive(&mut self, station: Station, number: u32) -> Vec<u32> {
        let mut taken = Vec::new();
        self.wait(&format!("frame {number} at {station:?}"), |rig| {
            while let Some(frame) = rig.received(station).pop_front() {
                if let Some((_, found)) = frames::parse(&frame) {
                    taken.push(found);
                    if found == number {
                        return true;
                    }
                }
            }
            false
        });
        taken
    }

    /// A frame from one station to another comes through.
    pub fn reaches(&mut self, from: Station, to: Station) {
        let address = self.mac(to);
        let number = self.send(from, address, frames::SHORTEST);
        let taken = self.receive(to, number);
        assert_eq!(taken.last(), Some(&number));
    }

    /// Every station reaches every other, both ways.
    pub fn all_reach_each_other(&mut self) {
        let vfs = self.driven().into_iter().map(Station::Vf);
        let stations: Vec<Station> = vfs.chain([Station::Pf]).collect();
        for from in &stations {
            for to in stations.iter().filter(|to| *to != from) {
                self.reaches(*from, *to);
            }
        }
    }

    /// What the parts have to say, for a test that failed.
    #[must_use]
    pub fn testimony(&self) -> String {
        let mut text = format!("wiring: {:?}\n", self.wiring);
        let snapshot = self.card.snapshot();
        let _ = writeln!(
            text,
            "card: {} VFs, link {}",
            snapshot.vfs, snapshot.link_up
        );
        for function in FunctionId::all() {
            let report = snapshot.function(function);
            if *report == PortReport::default() {
                continue;
            }
            let drops: Vec<_> = report.drops.iter().collect();
            let _ = writeln!(
                text,
                "  {function}: rx {} tx {} resets {} faults {} ({:?}) drops {drops:?}",
                report.rx_packets,
                report.tx_packets,
                report.resets,
                report.faults,
                report.last_fault
            );
        }
        for slot in self.mediator.iter().flat_map(Mediator::list) {
            let _ = writeln!(text, "mediator: {slot:?}");
        }
        for vf in &self.vfs {
            let (number, driver) = (vf.number, &vf.driver);
            let _ = writeln!(
                text,
                "VF {number} driver: mac {} waiting {} gone {} granted {:?}, {} frames not taken\n{}",
                driver.mac(),
                driver.is_waiting(),
                driver.gone(),
                driver.granted(),
                vf.received.len(),
                driver.stats()
            );
        }
        let _ = writeln!(
            text,
            "log (tests of the process mingle):\n{}",
            crate::journal::last(120)
        );
        text
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
