// SPDX-License-Identifier: GPL-3.0-only
//! Domains for the rig, and their configuration for xl.

use crate::error::{Result, RigError};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Kernel of a domU where a test names no other: Debian's cloud kernel, as Debian ships it.
const KERNEL: &str = "/rig/domu/boot/kernel";
const INITRAMFS: &str = "/rig/domu-initramfs";
const BRIDGE: &str = "xenbr0";

/// A domU to create.
#[derive(Debug, Clone)]
pub struct DomainSpec {
    /// Its name, which is its host name too.
    pub name: String,
    /// A series of Debian's cloud kernels, such as `6.12.`, of which the newest boots it, in place of the kernel of its
    /// own disk.
    pub kernel: Option<String>,
    /// Whether GRUB boots it, with the kernel of the domU's own disk in place of `kernel`. Xen's toolstack
    /// enters a kernel behind its decompressor, which is the part that moves it to a random place: only
    /// a kernel booted by GRUB has its text randomised.
    pub grub: bool,
    /// Whether it is an HVM domU, whose disk for booting has the kernel of a domU's own disk; else PVH.
    pub hvm: bool,
    /// MiB.
    pub memory: u32,
    /// Virtual processors; the rig lowers it to what its back end can carry.
    pub vcpus: u32,
    /// Whether it is created with `altp2m="external"`; the rig leaves it out where Xen has none.
    pub altp2m: bool,
    /// Its address in 10.0.0.0/24; without one it has no vif.
    pub ip: Option<Ipv4Addr>,
    /// What it starts: `redis` (on 6379), `http` (on 80).
    pub services: Vec<String>,
    /// More words for its kernel's command line.
    pub cmdline: String,
    /// More lines for its xl.cfg.
    pub config: String,
}

/// Where in dom0 a kernel and its initramfs are; of no series, those of the rig's own guests.
pub(crate) fn boot_paths(series: Option<&str>) -> (String, String) {
    match series {
        Some(series) => (
            format!("/run/rig/kernel-{series}"),
            format!("/run/rig/initramfs-{series}"),
        ),
        None => (KERNEL.to_owned(), INITRAMFS.to_owned()),
    }
}

impl DomainSpec {
    /// A domain with altp2m, 2 vCPUs, 224 MiB, an address and no service.
    pub fn new(name: &str, ip: Ipv4Addr) -> DomainSpec {
        DomainSpec {
            name: name.to_owned(),
            kernel: None,
            grub: false,
            hvm: false,
            memory: 224,
            vcpus: 2,
            altp2m: true,
            ip: Some(ip),
            services: Vec::new(),
            cmdline: String::new(),
            config: String::new(),
        }
    }

    /// The web server that every rig has: 10.0.0.11.
    pub fn web1() -> DomainSpec {
        let services = vec!["http".to_owned()];
        DomainSpec {
            services,
            ..DomainSpec::new("web1", Ipv4Addr::new(10, 0, 0, 11))
        }
    }

    /// The database that every rig has: 10.0.0.12, booted by GRUB.
    pub fn db1() -> DomainSpec {
        let services = vec!["redis".to_owned(), "http".to_owned()];
        DomainSpec {
            services,
            grub: true,
            ..DomainSpec::new("db1", Ipv4Addr::new(10, 0, 0, 12))
        }
    }

    /// The hardware address of its vif: Xen's prefix and the end of its IP address.
    pub fn mac(&self) -> Option<String> {
        let [_, b, c, d] = self.ip?.octets();
        Some(format!("00:16:3e:{b:02x}:{c:02x}:{d:02x}"))
    }

    /// Where in dom0 its own GRUB is put, with its command line inside.
    pub(crate) fn grub_path(&self) -> String {
        format!("/run/rig/{}.grub", self.name)
    }

    /// Where in dom0 its disk for booting is put, if it is HVM.
    pub(crate) fn boot_disk_path(&self) -> String {
        format!("/run/rig/{}.disk", self.name)
    }

    /// Its kernel's command line.
    pub(crate) fn kernel_cmdline(&self) -> String {
        let DomainSpec { name, cmdline, .. } = self;
        let root = self.root();
        // The kernel's tests of its own ciphers take seconds on an emulated processor.
        let mut line = format!("console=hvc0 cryptomgr.notests rig.root=/dev/{root} rig.name={name}");
        // Writing to a String cannot fail.
        if let Some(ip) = self.ip {
            let _ = write!(line, " rig.ip={ip}/24");
        }
        if !self.services.is_empty() {
            let _ = write!(line, " rig.services={}", self.services.join(","));
        }
        if !cmdline.is_empty() {
            let _ = write!(line, " {cmdline}");
        }
        line
    }

    /// Its root disk. QEMU refuses to emulate a disk that cannot be written, and emulates none that comes so late.
    fn root(&self) -> &'static str {
        if self.hvm { "xvdh" } else { "xvda" }
    }

    /// Its xl.cfg.
    pub(crate) fn xl_config(&self) -> String {
        let DomainSpec {
            name,
            memory,
            vcpus,
            config,
            ..
        } = self;
        let root = self.root();
        let mut disks = format!("\"format=raw,vdev={root},access=r,script=block-rig,target=/dev/sdb\"");
        let boot = if self.hvm {
            let _ = write!(
                disks,
                ", \"format=raw,vdev=hda,access=w,backendtype=qdisk,target={}\"",
                self.boot_disk_path()
            );
            // No screen and no mouse.
            "boot = \"c\"\nhdtype = \"ahci\"\nvga = \"none\"\nvnc = 0\nsdl = 0\nnographic = 1\nusb = 0"
                .to_owned()
        } else if self.grub {
            format!("kernel = \"{}\"", self.grub_path())
        } else {
            let (kernel, initramfs) = boot_paths(self.kernel.as_deref());
            let cmdline = self.kernel_cmdline();
            format!("kernel = \"{kernel}\"\nramdisk = \"{initramfs}\"\ncmdline = \"{cmdline}\"")
        };
        let kind = if self.hvm { "hvm" } else { "pvh" };
        let mut text = format!(
            r#"name = "{name}"
type = "{kind}"
{boot}
memory = {memory}
vcpus = {vcpus}
disk = [{disks}]
on_crash = "preserve"
"#
        );
        if self.altp2m {
            // Every view has page tables of its own, out of this pool.
            let _ = writeln!(text, "altp2m = \"external\"\nshadow_memory = 24");
        }
        let only = if self.hvm { ",type=vif" } else { "" };
        if let (Some(ip), Some(mac)) = (self.ip, self.mac()) {
            let _ = writeln!(
                text,
                "vif = [\"mac={mac},bridge={BRIDGE},ip={ip},script=vif-rig{only}\"]"
            );
        }
        text.push_str(config);
        text
    }
}

/// Whether a name can stand in paths and configurations as it is.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(good) {
        return Err(RigError::Name(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web1_has_altp2m_and_its_address_in_xenstore() {
        let config = DomainSpec::web1().xl_config();
        assert!(config.contains("altp2m = \"external\"\n"));
        assert!(config.contains("mac=00:16:3e:00:00:0b,bridge=xenbr0,ip=10.0.0.11,"));
        assert!(config.contains(" rig.ip=10.0.0.11/24 rig.services=http"));
        assert!(!config.contains("nokaslr"));
    }

    #[test]
    fn a_domain_can_do_without_altp2m_and_network() {
        let spec = DomainSpec {
            altp2m: false,
            ip: None,
            ..DomainSpec::new("plain", Ipv4Addr::LOCALHOST)
        };
        let config = spec.xl_config();
        assert!(!config.contains("altp2m"));
        assert!(!config.contains("vif ="));
        assert!(!config.contains("rig.ip"));
    }

    #[test]
    fn what_grub_boots_has_its_command_line_inside() {
        let spec = DomainSpec::db1();
        assert!(
            spec.kernel_cmdline()
                .ends_with(" rig.ip=10.0.0.12/24 rig.services=redis,http")
        );
        let config = spec.xl_config();
        assert!(config.contains("kernel = \"/run/rig/db1.grub\"\n"));
        assert!(!config.contains("ramdisk") && !config.contains("cmdline"));
    }

    #[test]
    fn names_that_could_leave_their_place_are_refused() {
        assert!(check_name("web-1_a").is_ok());
        for name in ["", "../x", "a b", "a\"b", "a/b"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }
}
