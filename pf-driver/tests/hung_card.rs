//! Requests that come while the card does not answer.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use igb::FunctionId;
use igb_driver::netdev::NetDevice;
use iommu::backend::InProcess;
use iommu::function::{Function, FunctionError, Interposer, WriteKind};
use mediator_protocol::block::{self, Accept, Features, VfRequest};
use mediator_protocol::{
    Decoder, Frame, FromPf, PfFeatures, Reply, Request, RequestBody, Status, ToPf, Token, VERSION,
};
use pf_driver::{PfChannel, PfDriver, PfOptions};
use vfio_user_device::{Card, CardOptions};

/// A PF that answers so many accesses, and then none until it is told to.
struct Hanging {
    inner: InProcess,
    left: AtomicU32,
}

impl Hanging {
    fn access(&self) -> Result<(), FunctionError> {
        let more = |left: u32| match left {
            u32::MAX => Some(left),
            left => left.checked_sub(1),
        };
        let order = Ordering::Relaxed;
        match self.left.fetch_update(order, order, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(FunctionError::TimedOut {
                operation: "REGION_READ",
            }),
        }
    }
}

impl Interposer for Hanging {
    fn inner(&self) -> &dyn Function {
        &self.inner
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), FunctionError> {
        self.access()?;
        self.inner.read(region, offset, data)
    }

    fn write(
        &self,
        kind: WriteKind,
        region: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), FunctionError> {
        self.access()?;
        kind.pass(&self.inner, region, offset, data)
    }
}

struct Line {
    driver: PfDriver,
    socket: UnixStream,
    decoder: Decoder,
    id: u64,
}

impl Line {
    fn tell(&mut self, message: &ToPf) -> Vec<FromPf> {
        self.socket.write_all(&message.to_bytes()).unwrap();
        self.driver.service();
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = self.socket.read(&mut bytes) {
            self.decoder.push(&bytes[..n]);
        }
        std::iter::from_fn(|| self.decoder.next_frame().unwrap()).collect()
    }

    /// The answers to one request of VF 0.
    fn ask(&mut self, block: u32, data: mediator_protocol::BlockData) -> Vec<Reply> {
        self.id += 1;
        let request = Request {
            vf: 0,
            generation: 1,
            id: self.id,
            body: RequestBody::WriteBlock { block, data },
        };
        let heard = self.tell(&ToPf::Request(request));
        heard
            .into_iter()
            .filter_map(|message| match message {
                FromPf::Reply(reply) => Some(reply),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn every_request_is_answered_and_nothing_is_granted_behind_a_refusal() {
    let card = Card::new(CardOptions::default()).unwrap();
    let function = Arc::new(Hanging {
        inner: InProcess::new(card.function(FunctionId::PF)).unwrap(),
        left: AtomicU32::new(u32::MAX),
    });
    let mut driver = PfDriver::probe(function.clone(), PfOptions::default()).unwrap();
    driver.sriov_configure(1).unwrap();
    let (socket, theirs) = UnixStream::pair().unwrap();
    socket.set_nonblocking(true).unwrap();
    let channel = PfChannel::over(theirs, Token::ABSENT).unwrap();
    driver.attach_channel(channel).unwrap();
    let mut line = Line {
        driver,
        socket,
        decoder: Decoder::new(),
        id: 0,
    };
    line.tell(&ToPf::Welcome {
        version: VERSION,
        features: PfFeatures::all(),
    });
    line.tell(&ToPf::Attached {
        vf: 0,
        generation: 1,
    });
    let accept = Accept {
        version: block::VERSION,
        features: Features::all(),
    };
    assert_eq!(
        line.ask(block::CONTROL, accept.encode())[0].status,
        Status::Ok
    );
    let init = VfRequest::Init.encode();
    assert_eq!(line.ask(block::REQUEST, init)[0].status, Status::Ok);

    let vlan = VfRequest::AddVlan(7).encode();
    let granted = (0..100).find(|accesses| {
        function.left.store(*accesses, Ordering::Relaxed);
        let replies = line.ask(block::REQUEST, vlan);
        function.left.store(u32::MAX, Ordering::Relaxed);
        let [reply] = replies[..] else {
            panic!("one answer although the card hangs after {accesses}: {replies:?}");
        };
        let vlans = line.driver.get_vf_config(0).unwrap().vlans;
        if reply.status == Status::Ok {
            assert_eq!(vlans, [7]);
            return true;
        }
        assert_eq!(reply.status, Status::TimedOut);
        assert!(vlans.is_empty(), "refused and granted at {accesses}");
        false
    });
    assert!(granted.is_some_and(|accesses| accesses > 1), "{granted:?}");
}
