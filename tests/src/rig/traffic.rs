//! Frames between the stations of a rig.

use std::collections::VecDeque;

use igb::MacAddress;
use igb_driver::netdev::{NetDevice as _, XmitError};

use super::{Rig, Station};
use crate::frames;

impl Rig {
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
}
