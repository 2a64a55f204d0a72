//! A VM inside the VM: stock QEMU and stock igbvf on a VF of QEMU's igb that the outer guest's mediator
//! took from its kernel's VFIO. Hardware passed through to a guest that knows nothing of it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use guest_agent::MODULE_DIR;

use super::guest::{Guest, LONG, PF_ADDRESS, PF_DRIVER, VF_ADDRESS};
use super::mediated::{self, MAC, MEDIATOR};
use crate::report::Report;
use crate::vm::NotHere;
use crate::vm::scenario::Stage;

/// Where the outer guest finds QEMU and the kernel: this machine's folder of them, to be read only.
const SHARE: &str = "/mnt";
const INITRD: &str = "/run/inner.img";
/// An emulated machine inside an emulated machine takes its time.
const PATIENCE: Duration = Duration::from_secs(25 * 60);
/// What the inner guest says last.
const DONE: &str = "inner: done";

/// What the inner guest is: its kernel's igbvf, busybox, and this.
fn init() -> String {
    format!(
        r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for d in /sys/bus/pci/devices/*; do
  [ "$($b cat $d/device)" = 0x10ca ] && echo "inner: VF $($b cat $d/vendor):$($b cat $d/device)"
done
$b insmod /igbvf.ko; echo "inner: insmod $?"
i=$($b ls /sys/class/net | $b grep -v lo | $b head -n1)
echo "inner: mac $($b cat /sys/class/net/$i/address)"
$b ip addr add {VF_ADDRESS}/24 dev $i; $b ip link set $i up
n=0; until $b ping -c 1 -W 2 {PF_ADDRESS} >/dev/null; do
  n=$((n+1)); [ $n = 60 ] && break; done
echo "inner: carrier $($b cat /sys/class/net/$i/carrier)"
$b ping -c 3 -W 5 {PF_ADDRESS} | $b sed 's/^/inner: /'
$b head -c 65536 /dev/urandom > /sent
($b cat /sent; $b sleep 60) | $b nc {PF_ADDRESS} 7 | $b head -c 65536 > /got
echo "inner: sent $($b sha256sum < /sent) got $($b sha256sum < /got)"
$b dmesg | $b grep -iE 'igbvf|warn|bug:|call trace' | $b sed 's/^/inner: kernel /'
$b ip link set $i down; $b rmmod igbvf; echo "inner: rmmod $?"
echo "{DONE}"
$b poweroff -f
"#
    )
}

pub(in super::super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<()> {
    let emulator = emulator(stage)?;
    let share = stage.dir.join("");
    let more = |config| {
        let share = share.to_str().context("a path that is not UTF-8")?;
        let config = mediated::with_mediator(config)?.memory(1536);
        let folder = format!("local,id=programs,path={share},security_model=none,readonly=on");
        let config = config.module("9pnet_virtio").module("9p");
        let device = "virtio-9p-pci,fsdev=programs,mount_tag=programs";
        Ok(config.qemu_args(&["-fsdev", &folder, "-device", device]))
    };
    super::in_a_guest(stage, "mediated-vm", more, report, |guest, report| {
        guest.load_vfio()?;
        guest.allow_vfs()?;
        for module in ["9pnet_virtio", "9p"] {
            guest.agent().load_module(module, "")?;
        }
        guest.shell(&format!(
            "mkdir -p {SHARE} && busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose \
             programs {SHARE}"
        ))?;
        guest.inner_initrd()?;
        mediated::write_policy(guest)?;
        let pf = guest.start_mediated_pf()?;
        let vfs = guest.vfs()?;
        let mediator = guest.start_mediator(&vfs)?;
        guest.inner(stage, &emulator, report)?;
        guest.stop(mediator)?;
        guest.stop(pf).map(drop)
    })
}

/// The command that runs QEMU in the outer guest.
fn emulator(stage: &Stage<'_>) -> Result<String> {
    let command = stage.installation.qemu.source.command(stage.dir);
    let root = stage.dir.join("");
    let root = root.to_str().context("a path that is not UTF-8")?;
    let inside = |word: &std::ffi::OsStr| -> Result<String> {
        let word = word.to_str().context("a path that is not UTF-8")?;
        if word.starts_with('/') && !word.starts_with(root) {
            bail!(NotHere(
                "an installed QEMU cannot be taken into a guest, one that was fetched can".into()
            ));
        }
        Ok(word.replace(root, &format!("{SHARE}/")))
    };
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        let value = inside(value.unwrap_or_default())?;
        words.push(format!("{}={value}", name.to_string_lossy()));
    }
    words.push("exec".into());
    words.push(inside(command.get_program())?);
    for word in command.get_args() {
        words.push(inside(word)?);
    }
    Ok(words.join(" "))
}

impl Guest {
    /// The inner guest's only file system.
    fn inner_initrd(&self) -> Result<()> {
        let agent = self.agent();
        self.shell(&format!(
            "mkdir -p /inner/bin /inner/dev /inner/proc /inner/sys && cp {} /inner/bin/busybox && \
             cp {MODULE_DIR}/igbvf.ko /inner/igbvf.ko",
            guest_agent::BUSYBOX
        ))?;
        agent.write_file("/inner/init", init().as_bytes(), 0o755)?;
        self.shell(&format!(
            "cd /inner && busybox find . | busybox cpio -o -H newc > {INITRD} 2>/dev/null"
        ))?;
        Ok(())
    }

    fn inner(&self, stage: &Stage<'_>, emulator: &str, report: &mut Report) -> Result<()> {
        let kernel = stage.dir.join(&stage.installation.kernel.image);
        let kernel = kernel
            .strip_prefix(stage.dir.join(""))
            .context("a kernel of another place")?;
        let device = format!(
            r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}},"bus":"rp1"}}"#,
            mediated::socket(0)
        );
        let command = format!(
            "{emulator} -nodefaults -display none -no-reboot -machine q35,memory-backend=ram -accel tcg \
             -cpu max -m 256M -object memory-backend-memfd,id=ram,size=256M,share=on -device \
             pcie-root-port,id=rp1,chassis=1,slot=1 -device '{device}' -kernel {SHARE}/{} -initrd \
             {INITRD} -append 'console=ttyS0 loglevel=4 panic=-1 no_timer_check nowatchdog init_on_alloc=0' -serial \
             stdio 2>&1",
            kernel.display()
        );
        let job = self.agent().spawn(&["sh", "-c", &command])?;
        let said = self.agent().expect(job, DONE, 0, PATIENCE);
        let slots = self.ctl(MEDIATOR, &["list"])?["slots"].clone();
        let said = match said {
            Ok(said) => said,
            Err(error) => {
                self.agent().kill(job)?;
                return Err(error.context(format!("the inner guest; the slots: {slots}")));
            }
        };
        let ended = self.agent().wait(job, LONG)?;
        let lines: Vec<&str> = said
            .lines()
            .filter_map(|line| line.trim_end().split_once("inner: ").map(|(_, line)| line))
            .collect();
        let line = |begin: &str| lines.iter().find(|line| line.starts_with(begin)).copied();
        let has = |begin: &str, whole: &str| line(begin) == Some(whole);
        let said = |begin: &str| line(begin).unwrap_or("it said nothing of it").to_owned();
        for (name, pass, detail) in [
            (
                "igbvf probes the VF",
                has("insmod", "insmod 0"),
                said("VF "),
            ),
            (
                "its address is the PF driver's choice",
                line("mac ") == Some(&format!("mac {MAC}")),
                said("mac "),
            ),
            ("link", has("carrier", "carrier 1"), said("carrier")),
            (
                "pings to the PF driver",
                line("3 packets").is_some_and(|line| line.contains("3 packets received")),
                said("3 packets"),
            ),
            ("TCP both ways", same_hash(line("sent ")), said("sent ")),
            (
                "no complaint of its kernel",
                !lines.iter().any(|line| {
                    let line = line.to_ascii_lowercase();
                    ["warning:", "bug:", "call trace"]
                        .iter()
                        .any(|word| line.contains(word))
                }),
                said("kernel"),
            ),
            (
                "unload, and power off",
                has("rmmod", "rmmod 0") && ended.code == 0,
                said("rmmod"),
            ),
        ] {
            self.check(
                report,
                &format!("stock igbvf in a VM: {name}"),
                pass,
                detail,
            );
        }
        let stats = self.ctl(PF_DRIVER, &["stats"])?;
        let heard = mediated::find(&stats, "mailbox_unanswered");
        let asked = mediated::find(&stats, "channel_requests");
        self.check(
            report,
            "what igbvf asked came through the mediator alone",
            heard == Some(0) && asked > Some(0),
            format!("{asked:?} requests, {heard:?} through the card's own mailbox; {slots}"),
        );
        Ok(())
    }
}

/// Whether what came back has the hash of what was sent.
fn same_hash(line: Option<&str>) -> bool {
    let words: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    match words.as_slice() {
        ["sent", sent, "-", "got", got, "-"] => sent == got,
        _ => false,
    }
}
