//! What the parts of a rig have to say when a test failed.

use std::fmt::Write as _;

use igb::FunctionId;
use igb_driver::netdev::NetDevice as _;
use igb_model::PortReport;
use mediator::Mediator;

use super::Rig;

impl Rig {
    /// What the parts have to say, for a test that failed.
    #[must_use]
    pub fn testimony(&self) -> String {
        let mut text = format!("wiring: {:?}\n", self.wiring);
        let snapshot = self.card.as_ref().map(|card| card.snapshot());
        if let Some(snapshot) = &snapshot {
            let _ = writeln!(
                text,
                "card: {} VFs, link {}",
                snapshot.vfs, snapshot.link_up
            );
        }
        let functions = snapshot.iter().flat_map(|snapshot| {
            FunctionId::all().map(|function| (function, snapshot.function(function)))
        });
        for (function, report) in functions {
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
