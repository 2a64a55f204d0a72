//! The PF driver as a program runs it: its part of the control socket.

use std::time::Duration;

use igb::frame::MacAddress;
use igb_netdev::run::Managed;
use serde_json::{Value, json};

use crate::driver::PfDriver;
use crate::policy::LinkState;

/// How long a guest has to let go of a VF if the request does not say.
const EJECT: Duration = Duration::from_secs(5);

impl Managed for PfDriver {
    fn name(&self) -> String {
        "pf".to_owned()
    }

    fn describe(&self) -> Value {
        json!({
            "vfs": self.num_vfs(),
            "adopted": self.adopted(),
            "mediator": self.channel_ready(),
        })
    }

    fn control(&mut self, op: &str, request: &Value) -> Option<Result<Value, String>> {
        let vf = || -> Result<u16, String> {
            let number = request["vf"].as_u64().ok_or("the request needs a \"vf\"")?;
            u16::try_from(number).map_err(|_| format!("there is no VF {number}"))
        };
        match op {
            "show" => Some(self.show()),
            "vfs" => Some(self.set_vfs(request)),
            "vf" => Some(vf().and_then(|vf| self.set_vf(vf, request))),
            "vf_stats" => Some(vf().and_then(|vf| {
                let stats = self.get_vf_stats(vf).map_err(|error| error.to_string())?;
                serde_json::to_value(stats).map_err(|error| error.to_string())
            })),
            "offer" => Some(vf().and_then(|vf| {
                self.offer_vf(vf)
                    .map(|()| json!({}))
                    .map_err(|error| error.to_string())
            })),
            "eject" => Some(vf().and_then(|vf| {
                let timeout = request["timeout_ms"]
                    .as_u64()
                    .map_or(EJECT, Duration::from_millis);
                self.eject_vf(vf, timeout)
                    .map(|()| json!({}))
                    .map_err(|error| error.to_string())
            })),
            _ => None,
        }
    }

    fn remove(self) {
        PfDriver::remove(self);
    }
}

impl PfDriver {
    fn show(&self) -> Result<Value, String> {
        let capabilities =
            serde_json::to_value(self.capabilities()).map_err(|error| error.to_string())?;
        let vfs: Vec<_> = (0..self.num_vfs())
            .filter_map(|vf| self.get_vf_config(vf).ok())
            .collect();
        Ok(json!({"capabilities": capabilities, "vfs": vfs}))
    }

    fn set_vfs(&mut self, request: &Value) -> Result<Value, String> {
        let count = request["count"]
            .as_u64()
            .and_then(|count| u16::try_from(count).ok())
            .ok_or("the request needs a \"count\" of VFs")?;
        // As in the kernel: from one number to another goes through none.
        if count != 0 && self.num_vfs() != 0 && count != self.num_vfs() {
            return Err(format!("{} VFs are enabled; set 0 first", self.num_vfs()));
        }
        self.sriov_configure(count)
            .map_err(|error| error.to_string())?;
        Ok(json!({"vfs": self.num_vfs()}))
    }

    /// `{"vf": 0, "set": "vlan", "value": 100, "qos": 3}`, in the words of `ip link set PF vf N`.
    fn set_vf(&mut self, vf: u16, request: &Value) -> Result<Value, String> {
        let value = &request["value"];
        let number = || -> Result<u32, String> {
            let text = value.as_str().and_then(|text| text.parse().ok());
            value
                .as_u64()
                .or(text)
                .and_then(|number| u32::try_from(number).ok())
                .ok_or_else(|| format!("{value} is no number"))
        };
        let small = |what: &str, number: u64| -> Result<u16, String> {
            u16::try_from(number).map_err(|_| format!("{number} is no {what}"))
        };
        let switch = || match value {
            Value::Bool(on) => Ok(*on),
            Value::String(text) if text == "on" => Ok(true),
            Value::String(text) if text == "off" => Ok(false),
            _ => Err("the value must be on or off".to_owned()),
        };
        let what = request["set"].as_str().unwrap_or_default();
        let done = match what {
            "mac" => {
                let text = value.as_str().ok_or("the value must be a MAC address")?;
                let mac: MacAddress = text
                    .parse()
                    .map_err(|_| format!("{text:?} is no MAC address"))?;
                self.set_vf_mac(vf, mac)
            }
            "vlan" => {
                let qos = request["qos"].as_u64().unwrap_or(0);
                let qos = u8::try_from(qos).map_err(|_| format!("{qos} is no priority"))?;
                self.set_vf_vlan(vf, small("VLAN id", number()?.into())?, qos)
            }
            "rate" => self.set_vf_rate(vf, number()?),
            "min-rate" => self.set_vf_min_rate(vf, number()?),
            "spoofchk" => self.set_vf_spoofchk(vf, switch()?),
            "trust" => self.set_vf_trust(vf, switch()?),
            "state" => {
                let state = match value.as_str() {
                    Some("auto") => LinkState::Auto,
                    Some("enable") => LinkState::Enable,
                    Some("disable") => LinkState::Disable,
                    _ => return Err("the value must be auto, enable or disable".to_owned()),
                };
                self.set_vf_link_state(vf, state)
            }
            _ => {
                return Err(format!(
                    "{what:?} cannot be set; mac, vlan, rate, min-rate, spoofchk, trust and state can"
                ));
            }
        };
        done.map_err(|error| error.to_string())?;
        let config = self.get_vf_config(vf).map_err(|error| error.to_string())?;
        serde_json::to_value(config).map_err(|error| error.to_string())
    }
}
