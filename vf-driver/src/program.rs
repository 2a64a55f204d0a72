//! The VF driver as a program runs it: its part of the control socket.

use igb::frame::MacAddress;
use igb_driver::netdev::NetDevice as _;
use igb_netdev::run::Managed;
use mediator_protocol::Status;
use mediator_protocol::block::{ConfigFlags, MulticastList, VfRequest};
use serde_json::{Value, json};

use crate::channel::{Access, ChannelKind};
use crate::driver::VfDriver;

impl Managed for VfDriver {
    fn name(&self) -> String {
        "vf".to_owned()
    }

    fn describe(&self) -> Value {
        let granted = self.granted();
        json!({
            "channel": match self.channel_kind() {
                ChannelKind::Mediated => "mediated",
                ChannelKind::Mailbox => "mailbox",
            },
            "state": if self.is_waiting() { "waiting" } else { "up" },
            "vlan": granted.vlan,
            "max_mtu": granted.max_mtu,
            "max_tx_rate": granted.max_tx_rate,
            "mac_by_admin": granted.flags.contains(ConfigFlags::MAC_BY_ADMIN),
            "trust": granted.flags.contains(ConfigFlags::TRUSTED),
            "spoofchk": granted.flags.contains(ConfigFlags::SPOOFCHK),
            "promisc": granted.flags.contains(ConfigFlags::PROMISC_UNICAST),
        })
    }

    fn control(&mut self, op: &str, request: &Value) -> Option<Result<Value, String>> {
        match op {
            "request" => Some(self.asked(request)),
            "reset" => Some(
                self.reset()
                    .map(|()| json!({}))
                    .map_err(|error| error.to_string()),
            ),
            "pf_stats" => Some(self.pf_stats()),
            "misbehave" => Some(self.misbehave(request)),
            _ => None,
        }
    }

    fn remove(self) {
        VfDriver::remove(self);
    }
}

impl VfDriver {
    fn asked(&mut self, request: &Value) -> Result<Value, String> {
        let request = parse_request(request)?;
        // A new MTU also needs new buffers.
        if let VfRequest::SetMtu(mtu) = request {
            let before = self.granted().mtu;
            let status = self.request(&request).map_err(|error| error.to_string())?;
            if status == Status::Ok && before != mtu {
                self.stop();
                self.open().map_err(|error| error.to_string())?;
            }
            return Ok(verdict(status));
        }
        self.request(&request)
            .map(verdict)
            .map_err(|error| error.to_string())
    }

    fn pf_stats(&mut self) -> Result<Value, String> {
        let mut access = Access {
            regs: &self.regs,
            interrupts: &mut self.interrupts,
        };
        match self.channel.read_stats(&mut access) {
            Ok(Some(stats)) => Ok(json!({
                "rx_packets": stats.rx_packets,
                "rx_bytes": stats.rx_bytes,
                "rx_multicast": stats.rx_multicast,
                "rx_dropped": stats.rx_dropped,
                "tx_packets": stats.tx_packets,
                "tx_bytes": stats.tx_bytes,
                "tx_dropped": stats.tx_dropped,
                "tx_spoofed": stats.tx_spoofed,
            })),
            Ok(None) => Err("the mailbox does not carry counters".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn misbehave(&mut self, request: &Value) -> Result<Value, String> {
        match request["what"].as_str() {
            Some("descriptor-outside") => self
                .post_descriptor_outside()
                .map(|iova| json!({"iova": format!("{iova:#x}")}))
                .map_err(|error| error.to_string()),
            Some("unmap-in-flight") => self
                .unmap_in_flight()
                .map(|seen| {
                    json!({"before": seen.before, "after": seen.after, "changed": seen.changed})
                })
                .map_err(|error| error.to_string()),
            _ => Err(
                "what to misbehave in: \"descriptor-outside\", \"unmap-in-flight\"".to_owned(),
            ),
        }
    }
}

/// A status as the control socket spells it.
fn verdict(status: Status) -> Value {
    let (name, reason) = match status {
        Status::Ok => ("ok", ""),
        Status::Denied => ("denied", "policy forbids it"),
        Status::Invalid => ("invalid", "the request makes no sense"),
        Status::Unsupported => ("unsupported", "the PF does not know this request"),
        Status::Exhausted => ("exhausted", "a table or quota is full"),
        Status::RateLimited => ("rate-limited", "the VF asks too often"),
        Status::Busy => ("busy", "another request is outstanding"),
        Status::Reset => ("reset", "the VF was reset meanwhile"),
        Status::PfGone => ("pf-gone", "no PF driver is there to answer"),
        Status::TimedOut => ("timed-out", "the PF did not answer in time"),
        Status::TornDown => ("torn-down", "the VF is being taken away"),
    };
    json!({"status": name, "reason": reason})
}

/// `{"what": "mac", "value": …}` as a request.
fn parse_request(request: &Value) -> Result<VfRequest, String> {
    let value = &request["value"];
    let mac = || -> Result<[u8; 6], String> {
        let text = value.as_str().ok_or("the value must be a MAC address")?;
        let mac: MacAddress = text
            .parse()
            .map_err(|_| format!("{text:?} is no MAC address"))?;
        Ok(mac.0)
    };
    let number = |what: &str| -> Result<u64, String> {
        let text = value.as_str().and_then(|text| text.parse().ok());
        value
            .as_u64()
            .or(text)
            .ok_or_else(|| format!("the value must be {what}"))
    };
    let vlan = || -> Result<u16, String> {
        let id = number("a VLAN id")?;
        u16::try_from(id).map_err(|_| format!("{id} is no VLAN id"))
    };
    match request["what"].as_str().unwrap_or_default() {
        "mac" => Ok(VfRequest::SetMac(mac()?)),
        "add-mac" => Ok(VfRequest::AddMac(mac()?)),
        "del-mac" => Ok(VfRequest::DelMac(mac()?)),
        "vlan" => Ok(VfRequest::AddVlan(vlan()?)),
        "del-vlan" => Ok(VfRequest::DelVlan(vlan()?)),
        "mtu" => {
            let mtu = number("an MTU")?;
            u32::try_from(mtu)
                .map(VfRequest::SetMtu)
                .map_err(|_| format!("{mtu} is no MTU"))
        }
        "multicast" => {
            let texts: Vec<&str> = match value {
                Value::String(text) => text.split(',').filter(|text| !text.is_empty()).collect(),
                Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
                _ => return Err("the value must be a list of MAC addresses".to_owned()),
            };
            let macs: Vec<[u8; 6]> = texts
                .iter()
                .map(|text| {
                    let mac = text.parse::<MacAddress>();
                    mac.map(|mac| mac.0)
                        .map_err(|_| format!("{text:?} is no MAC address"))
                })
                .collect::<Result<_, _>>()?;
            let list = MulticastList::new(&macs).map_err(|error| error.to_string())?;
            Ok(VfRequest::SetMulticast {
                append: false,
                list,
            })
        }
        "promisc" => {
            let mode = value.as_str().unwrap_or_default();
            let (unicast, multicast) = match mode {
                "off" => (false, false),
                "unicast" => (true, false),
                "multicast" => (false, true),
                "all" => (true, true),
                _ => return Err("the value must be off, unicast, multicast or all".to_owned()),
            };
            Ok(VfRequest::SetPromisc { unicast, multicast })
        }
        other => Err(format!(
            "{other:?} cannot be requested; mac, add-mac, del-mac, vlan, del-vlan, mtu, multicast \
             and promisc can"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(what: &str, value: Value) -> Result<VfRequest, String> {
        parse_request(&json!({"what": what, "value": value}))
    }

    #[test]
    fn requests_are_read_from_words_and_json_alike() {
        assert_eq!(parsed("vlan", json!(100)), parsed("vlan", json!("100")));
        assert_eq!(parsed("mtu", json!(1400)), Ok(VfRequest::SetMtu(1400)));
        assert_eq!(
            parsed("mac", json!("02:00:00:00:00:01")),
            Ok(VfRequest::SetMac([2, 0, 0, 0, 0, 1]))
        );
        let words = parsed("multicast", json!("01:00:5e:00:00:01,01:00:5e:00:00:02"));
        assert_eq!(
            words,
            parsed(
                "multicast",
                json!(["01:00:5e:00:00:01", "01:00:5e:00:00:02"])
            )
        );
    }

    #[test]
    fn nonsense_is_refused_with_what_would_do() {
        for (what, value, mend) in [
            ("mac", json!("02:00"), "no MAC address"),
            ("vlan", json!(70000), "no VLAN id"),
            ("promisc", json!("on"), "off, unicast, multicast or all"),
            ("link", json!(1), "can"),
            ("multicast", json!(vec!["01:00:5e:00:00:01"; 60]), "limit"),
        ] {
            let error = parsed(what, value).unwrap_err();
            assert!(error.contains(mend), "{what}: {error}");
        }
    }
}
