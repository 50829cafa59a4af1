// SPDX-License-Identifier: GPL-3.0-only
//! Control groups, and the container that one names.

use std::sync::Arc;

use super::{Linux, LinuxError, TaskAddr, group};
use crate::kernel::layout::CgroupOffsets;
use crate::memory::PhysicalMemory;

/// Control groups can be nested deeper, but nobody does.
const MAX_DEPTH: usize = 64;
/// NAME_MAX of kernfs, plus a NUL.
const MAX_NAME: usize = 256;
/// Controllers of cgroup v1 that are looked at.
const MAX_CONTROLLERS: u32 = 32;
/// Length of the IDs that Docker, containerd, CRI-O and Podman make.
const ID_LEN: usize = 64;

impl<M: PhysicalMemory> Linux<M> {
    /// Path of a task's control group and the container it names. Where cgroup
    /// v2 does not tell a container, the controllers of v1 are asked.
    pub(super) fn cgroup(&self, task: TaskAddr) -> (Option<Arc<str>>, Option<String>) {
        let Ok(offsets) = group(&self.kernel.layout.cgroup) else {
            return (None, None);
        };
        let Ok(set) = self.u64(task.0.wrapping_add(offsets.cgroups)) else {
            return (None, None);
        };
        let unified = self
            .u64(set.wrapping_add(offsets.dfl_cgrp))
            .map_err(LinuxError::from)
            .and_then(|cgroup| self.cgroup_path(&offsets, cgroup))
            .ok();
        let named = unified.as_deref().and_then(container_id);
        if named.is_some() || unified.as_deref().is_some_and(|path| path != "/") {
            return (unified.map(Into::into), named);
        }
        let mut longest = unified;
        for index in 0..u64::from(offsets.subsys.count.min(MAX_CONTROLLERS)) {
            let slot = set.wrapping_add(offsets.subsys.offset + index * 8);
            let Ok(path) = self
                .u64(slot)
                .and_then(|css| self.u64(css.wrapping_add(offsets.css_cgroup)))
                .map_err(LinuxError::from)
                .and_then(|cgroup| self.cgroup_path(&offsets, cgroup))
            else {
                continue;
            };
            if let Some(id) = container_id(&path) {
                return (Some(path.into()), Some(id));
            }
            if longest.as_ref().is_none_or(|l| l.len() < path.len()) {
                longest = Some(path);
            }
        }
        (longest.map(Into::into), None)
    }

    fn cgroup_path(&self, offsets: &CgroupOffsets, cgroup: u64) -> Result<String, LinuxError> {
        let mut names = Vec::new();
        let mut node = self.u64(cgroup.wrapping_add(offsets.kn))?;
        for _ in 0..MAX_DEPTH {
            let Some(parent) = self.pointer(node.wrapping_add(offsets.kn_parent))? else {
                break;
            };
            let name = self.u64(node.wrapping_add(offsets.kn_name))?;
            names.push(self.c_string(name)?);
            node = parent;
        }
        let mut path = String::new();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        if path.is_empty() {
            path.push('/');
        }
        Ok(path)
    }

    /// A NUL-terminated string, read as far as its pages are mapped.
    fn c_string(&self, va: u64) -> Result<String, LinuxError> {
        let mut raw = [0; MAX_NAME];
        let got = self.prefix(self.space(), va, &mut raw);
        if got == 0 {
            return Err(LinuxError::Implausible { what: "name", va });
        }
        let raw = &raw[..got];
        let len = raw.iter().position(|&byte| byte == 0).unwrap_or(got);
        Ok(String::from_utf8_lossy(&raw[..len]).into_owned())
    }
}

/// The container that a control group's path names: the 64-digit ID that
/// Docker, containerd, CRI-O, Podman and Kubernetes use, or the name that LXC
/// and systemd-nspawn use. The innermost one wins.
///
/// ```
/// use vmi_xen::linux::container_id;
/// assert_eq!(container_id("/lxc.payload.web/init.scope").as_deref(), Some("web"));
/// assert_eq!(container_id("/system.slice/nginx.service"), None);
/// ```
pub fn container_id(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    (0..parts.len()).rev().find_map(|index| {
        let outer = index.checked_sub(1).map_or("", |outer| parts[outer]);
        named_by(parts[index], outer).map(str::to_owned)
    })
}

fn named_by<'a>(part: &'a str, outer: &str) -> Option<&'a str> {
    let bare = part.strip_suffix(".scope").unwrap_or(part);
    let bare = bare.strip_suffix(".service").unwrap_or(bare);
    // docker-ID.scope, cri-containerd-ID.scope, crio-ID.scope, libpod-ID.scope;
    // or the ID alone below docker/, kubepods/…/podUID/ or k8s.io/. containerd
    // in systemd mode writes slice:prefix:ID where systemd does not listen.
    // crio-conmon and libpod-conmon are the runtime's monitor, outside.
    let id = bare.rsplit(['-', ':']).next().unwrap_or(bare);
    let is_monitor = bare.contains("-conmon-");
    if id.len() == ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit()) && !is_monitor {
        return Some(id);
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name).filter(|name| !name.is_empty());
    }
    if outer == "lxc" || outer == "lxc.payload" {
        return Some(part);
    }
    if let Some(name) = part
        .strip_prefix("systemd-nspawn@")
        .and_then(|name| name.strip_suffix(".service"))
    {
        return Some(name).filter(|name| !name.is_empty());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::container_id;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn runtimes_that_use_ids() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/system.slice/docker-{ID}.scope/init.scope"),
            format!("/kubepods/burstable/pod1234/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/kubelet.service/kubepods-pod1.slice:cri-containerd:{ID}"),
            format!("/k8s.io/{ID}"),
        ] {
            assert_eq!(container_id(&path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn runtimes_that_use_names() {
        for (path, name) in [
            ("/lxc/web", "web"),
            ("/lxc.payload.web/system.slice/cron.service", "web"),
            ("/lxc.payload/web", "web"),
            ("/machine.slice/systemd-nspawn@db.service/payload", "db"),
        ] {
            assert_eq!(container_id(path).as_deref(), Some(name), "{path}");
        }
    }

    #[test]
    fn what_is_no_container() {
        for path in [
            "/",
            "",
            "/init.scope",
            "/system.slice/ssh.service",
            "/user.slice/user-1000.slice/session-2.scope",
            "/lxc.monitor.web",
            &format!("/machine.slice/libpod-conmon-{ID}.scope"),
            &format!("/system.slice/docker-{}.scope", &ID[1..]),
        ] {
            assert_eq!(container_id(path), None, "{path}");
        }
    }
}
