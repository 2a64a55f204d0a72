//! The driver pair over config blocks, with the thinnest mediator there can be between them: a BAR
//! whose commands go straight to the PF driver's channel.

mod running;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use igb::{FunctionId, PVTCTRL, Register as _, vf};
use igb_driver::netdev::NetDevice;
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError, Interposer, Region, WriteKind};
use mediator_protocol::bar::{self, BUFFER, Command, MAGIC, Register, StatusRegister};
use mediator_protocol::{
    BlockData, Decoder, Frame, FromPf, PfFeatures, ReplyBody, Request, RequestBody, ResetCause,
    Status, ToPf, Token, VERSION,
};
use pf_driver::{PfChannel, PfDriver, PfOptions};
use running::{PATIENCE, Running};
use vf_driver::{ChannelKind, VfDriver, VfOptions, VfRequest};
use vfio_user_device::{Card, CardOptions};

/// The PF driver's end of the channel, as the mediator has it; `None` while no PF driver is there.
type Line = Mutex<Option<(UnixStream, Decoder)>>;

/// VF 0 of a card with the mediator's BAR.
struct Fenced {
    inner: InProcess,
    line: Line,
    bar: Mutex<Bar>,
}

struct Bar {
    block: u32,
    length: u32,
    status: StatusRegister,
    buffer: [u8; 128],
    generation: u32,
    invalidated: u32,
    next_id: u64,
}

impl Fenced {
    fn new(card: &Arc<Card>) -> Arc<Self> {
        let inner = InProcess::new(card.function(FunctionId::vf(0))).unwrap();
        Arc::new(Self {
            inner,
            line: Mutex::new(None),
            bar: Mutex::new(Bar {
                block: 0,
                length: 0,
                status: StatusRegister::default(),
                buffer: [0; 128],
                generation: 1,
                invalidated: 0,
                next_id: 1,
            }),
        })
    }

    /// Gives a PF driver its channel.
    fn connect(&self, pf: &Running) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        *self.line.lock().unwrap() = Some((ours, Decoder::new()));
        let channel = PfChannel::over(theirs, Token::ABSENT).unwrap();
        pf.run(move |pf| pf.attach_channel(channel)).unwrap();
        self.tell(&ToPf::Welcome {
            version: VERSION,
            features: PfFeatures::all(),
        });
        self.hear(|message| matches!(message, FromPf::Offer { vf: 0, .. }));
        let generation = self.bar.lock().unwrap().generation;
        self.tell(&ToPf::Attached { vf: 0, generation });
    }

    fn hang_up(&self) {
        *self.line.lock().unwrap() = None;
    }

    fn tell(&self, message: &ToPf) {
        if let Some((socket, _)) = &mut *self.line.lock().unwrap() {
            socket.write_all(&message.to_bytes()).unwrap();
        }
    }

    /// Reads until the message that is waited for; an invalidation before it is noted.
    fn hear(&self, wanted: impl Fn(&FromPf) -> bool) -> FromPf {
        let mut line = self.line.lock().unwrap();
        let (socket, decoder) = line.as_mut().expect("a PF driver is there");
        loop {
            while let Some(message) = decoder.next_frame::<FromPf>().unwrap() {
                if let FromPf::Invalidate { mask, .. } = message {
                    self.bar.lock().unwrap().invalidated |= mask as u32;
                    // The mailbox vector, by the VF's own register, so that its masks hold.
                    let vector = 1_u32 << igb_driver::interrupt::OTHER_VECTOR;
                    self.inner
                        .write(0, vf::VTEICS::OFFSET.into(), &vector.to_le_bytes())
                        .unwrap();
                }
                if wanted(&message) {
                    return message;
                }
            }
            let mut bytes = [0; 4096];
            let n = socket
                .read(&mut bytes)
                .expect("the PF driver says something");
            assert_ne!(n, 0, "the PF driver is there");
            decoder.push(&bytes[..n]);
        }
    }

    fn command(&self, command: Command) {
        let mut bar = self.bar.lock().unwrap();
        let body = match command {
            Command::Read => RequestBody::ReadBlock {
                block: bar.block,
                length: bar.length as u8,
            },
            Command::Write => RequestBody::WriteBlock {
                block: bar.block,
                data: BlockData::new(&bar.buffer[..bar.length as usize]).unwrap(),
            },
            Command::Abandon => return,
        };
        bar.next_id += 1;
        let request = Request {
            vf: 0,
            generation: bar.generation,
            id: bar.next_id,
            body,
        };
        drop(bar);
        let (status, body) = if self.line.lock().unwrap().is_none() {
            (Status::PfGone, ReplyBody::Empty)
        } else {
            self.tell(&ToPf::Request(request));
            let reply =
                self.hear(|message| matches!(message, FromPf::Reply(r) if r.id == request.id));
            let FromPf::Reply(reply) = reply else {
                unreachable!()
            };
            (reply.status, reply.body)
        };
        let mut bar = self.bar.lock().unwrap();
        if let ReplyBody::Block(data) = body {
            bar.buffer[..data.len()].copy_from_slice(&data);
            bar.length = data.len() as u32;
        }
        bar.status = StatusRegister::done(status);
    }

    fn was_reset(&self, cause: ResetCause) {
        let generation = {
            let mut bar = self.bar.lock().unwrap();
            bar.generation += 1;
            bar.generation
        };
        self.tell(&ToPf::Reset {
            vf: 0,
            generation,
            cause,
        });
    }
}

impl Interposer for Fenced {
    fn inner(&self) -> &dyn Function {
        &self.inner
    }

    fn region(&self, index: u32) -> Result<Region, FunctionError> {
        if index == bar::INDEX {
            return Ok(Region::trapped(bar::SIZE));
        }
        self.inner.region(index)
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        if region != bar::INDEX {
            return self.inner.read(region, offset, data);
        }
        let bar = self.bar.lock().unwrap();
        if let Some(at) = offset.checked_sub(BUFFER) {
            data.copy_from_slice(&bar.buffer[at as usize..][..data.len()]);
            return Ok(());
        }
        let value = match Register::at(offset).unwrap() {
            Register::Magic => MAGIC,
            Register::Version => bar::VERSION,
            Register::Generation => bar.generation,
            Register::Length => bar.length,
            Register::Status => bar.status.0,
            Register::InvalidatedLo => bar.invalidated,
            _ => 0,
        };
        data.copy_from_slice(&value.to_le_bytes());
        Ok(())
    }

    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        if region != bar::INDEX {
            kind.pass(&self.inner, region, offset, data)?;
            let reset = PVTCTRL::RST.mask().to_le_bytes();
            if region == 0 && offset == u64::from(vf::VTCTRL::OFFSET) && data == reset {
                self.was_reset(ResetCause::CtrlRst);
            }
            return Ok(());
        }
        if let Some(at) = offset.checked_sub(BUFFER) {
            let mut bar = self.bar.lock().unwrap();
            bar.buffer[at as usize..][..data.len()].copy_from_slice(data);
            return Ok(());
        }
        let value = u32::from_le_bytes(data.try_into().unwrap());
        let register = Register::at(offset).unwrap();
        if register == Register::Command {
            self.command(Command::from_register(value).unwrap());
            return Ok(());
        }
        let mut bar = self.bar.lock().unwrap();
        match register {
            Register::BlockId => bar.block = value,
            Register::Length => bar.length = value,
            Register::InvalidatedLo => bar.invalidated &= !value,
            _ => {}
        }
        Ok(())
    }

    fn reset(&self) -> Result<(), FunctionError> {
        self.inner.reset()?;
        self.was_reset(ResetCause::Flr);
        Ok(())
    }
}

fn pf(card: &Arc<Card>, options: PfOptions) -> PfDriver {
    let function = InProcess::new(card.function(FunctionId::PF)).unwrap();
    PfDriver::probe(Arc::new(function), options).unwrap()
}

fn options(dir: &tempfile::TempDir) -> PfOptions {
    PfOptions {
        state: Some(dir.path().join("state.json")),
        eject_timeout: Duration::ZERO,
        ..PfOptions::default()
    }
}

fn probe(fenced: &Arc<Fenced>) -> VfDriver {
    let options = VfOptions {
        channel: ChannelKind::Mediated,
        ..VfOptions::default()
    };
    VfDriver::probe(fenced.clone(), &options).unwrap()
}

#[test]
fn a_vf_asks_is_told_and_begins_anew_after_a_reset() {
    let dir = tempfile::tempdir().unwrap();
    let card = Card::new(CardOptions::default()).unwrap();
    let mut driver = pf(&card, options(&dir));
    driver.sriov_configure(1).unwrap();
    let pf = Running::start(driver);
    let fenced = Fenced::new(&card);
    fenced.connect(&pf);
    let mut vf = probe(&fenced);
    vf.open().unwrap();
    assert_eq!(vf.mac(), pf.run(|pf| pf.get_vf_config(0).unwrap().mac));
    assert!(vf.carrier());
    assert_eq!(vf.request(&VfRequest::AddVlan(9)).unwrap(), Status::Ok);
    vf.set_mtu(1400).unwrap();
    assert!(vf.set_mtu(1501).is_err());
    // The administrator sets an address: told, not asked for.
    let given = "02:00:00:00:ee:01".parse().unwrap();
    pf.run(move |pf| pf.set_vf_mac(0, given)).unwrap();
    fenced.hear(|message| matches!(message, FromPf::Invalidate { vf: 0, .. }));
    let changes = vf.service();
    assert!(changes.mac && !changes.reset, "{changes:?}");
    assert_eq!(vf.mac(), given);
    let refused = vf.request(&VfRequest::SetMac([2, 0, 0, 0, 0, 9])).unwrap();
    assert_eq!(refused, Status::Denied);
    vf.reset().unwrap();
    assert_eq!(vf.mac(), given);
    let config = pf.run(|pf| pf.get_vf_config(0).unwrap());
    assert_eq!(config.vlans, Vec::<u16>::new());
    vf.remove();
    fenced.hang_up();
    pf.finish().remove();
}

#[test]
fn a_pf_driver_that_goes_and_comes_back_leaves_the_data_path_alone() {
    let dir = tempfile::tempdir().unwrap();
    let card = Card::new(CardOptions::default()).unwrap();
    let mut driver = pf(&card, options(&dir));
    driver.sriov_configure(1).unwrap();
    let first = Running::start(driver);
    let fenced = Fenced::new(&card);
    fenced.connect(&first);
    let mut vf = probe(&fenced);
    vf.open().unwrap();
    // As when it is killed.
    drop(first.finish());
    fenced.hang_up();
    let asked = vf.request(&VfRequest::AddVlan(9)).unwrap();
    assert_eq!(asked, Status::PfGone);
    let frame = [0xFF; 60];
    vf.xmit(&frame).unwrap();
    vf.flush();
    assert!(!vf.service().reset && vf.carrier() && !vf.gone());
    // Another one adopts the VF, and the VF needs no new beginning.
    let driver = pf(&card, options(&dir));
    assert!(driver.adopted());
    let second = Running::start(driver);
    fenced.connect(&second);
    let asked = vf.request(&VfRequest::AddVlan(9)).unwrap();
    assert_eq!(asked, Status::Ok);
    assert_eq!(vf.resets(), 0);
    fenced.hang_up();
    drop(second.finish());
    // One that resets the card: the VF begins anew as soon as it can.
    let again = PfOptions {
        reset: true,
        ..options(&dir)
    };
    let third = Running::start(pf(&card, again));
    fenced.connect(&third);
    let end = std::time::Instant::now() + PATIENCE;
    while !vf.service().reset {
        assert!(std::time::Instant::now() < end, "the VF begins anew");
        running::step(&mut vf, Duration::from_millis(50));
        if vf.resets() != 0 && !vf.is_waiting() {
            break;
        }
    }
    let asked = vf.request(&VfRequest::AddVlan(9)).unwrap();
    assert_eq!(asked, Status::Ok);
    vf.remove();
    fenced.hang_up();
    third.finish().remove();
}
