// SPDX-License-Identifier: GPL-3.0-only
//! Offsets of processes: tasks, credentials, memory, paths, namespaces, and the lists they are on.

use super::member::{Array, Scalar, offsets};

offsets! {
    /// The core of `struct task_struct`: without it no process is seen.
    TaskOffsets {
        pid: u64 = "task_struct.pid",
        tgid: u64 = "task_struct.tgid",
        comm: u64 = "task_struct.comm",
        flags: u64 = "task_struct.flags",
        tasks: u64 = "task_struct.tasks",
        real_parent: u64 = "task_struct.real_parent",
        group_leader: u64 = "task_struct.group_leader",
        mm: u64 = "task_struct.mm",
        real_cred: u64 = "task_struct.real_cred",
        /// Counts calls of exec.
        self_exec_id: Scalar = "task_struct.self_exec_id",
        /// Nanoseconds since boot, of the thread.
        start_time: u64 = "task_struct.start_boottime" | "task_struct.real_start_time",
    }
}

offsets! {
    /// The threads of a process.
    ThreadOffsets {
        signal: u64 = "task_struct.signal",
        thread_node: u64 = "task_struct.thread_node",
        thread_head: u64 = "signal_struct.thread_head",
    }
}

offsets! {
    /// What the entry code notes of a thread.
    ThreadInfoOffsets {
        status: u64 = "task_struct.thread_info.status",
    }
}

offsets! {
    /// A process that calls exec.
    ExecOffsets {
        in_execve: Scalar = "task_struct.in_execve",
    }
}

offsets! {
    /// What a process leaves behind.
    ExitOffsets {
        exit_code: u64 = "task_struct.exit_code",
        signal: u64 = "task_struct.signal",
        flags: u64 = "signal_struct.flags",
        group_exit_code: u64 = "signal_struct.group_exit_code",
    }
}

offsets! {
    /// Credentials.
    CredOffsets {
        uid: u64 = "cred.uid",
        euid: u64 = "cred.euid",
        suid: u64 = "cred.suid",
        fsuid: u64 = "cred.fsuid",
        gid: u64 = "cred.gid",
        egid: u64 = "cred.egid",
        sgid: u64 = "cred.sgid",
        fsgid: u64 = "cred.fsgid",
    }
}

offsets! {
    /// Sets of capabilities, 64 bits each.
    CapabilityOffsets {
        inheritable: u64 = "cred.cap_inheritable",
        permitted: u64 = "cred.cap_permitted",
        effective: u64 = "cred.cap_effective",
        bounding: u64 = "cred.cap_bset",
        ambient: u64 = "cred.cap_ambient",
    }
}

offsets! {
    /// Supplementary groups.
    GroupOffsets {
        group_info: u64 = "cred.group_info",
        count: u64 = "group_info.ngroups",
        ids: u64 = "group_info.gid",
    }
}

offsets! {
    /// The user namespace.
    UserNamespaceOffsets {
        user_ns: u64 = "cred.user_ns",
        inum: u64 = "user_namespace.ns.inum",
    }
}

offsets! {
    /// The audit session.
    AuditOffsets {
        loginuid: u64 = "task_struct.loginuid",
    }
}

offsets! {
    /// A process's memory: arguments and page tables.
    ArgsOffsets {
        arg_start: u64 = "mm_struct.arg_start",
        arg_end: u64 = "mm_struct.arg_end",
        env_start: u64 = "mm_struct.env_start",
        env_end: u64 = "mm_struct.env_end",
        pgd: u64 = "mm_struct.pgd",
    }
}

offsets! {
    /// From a process to its executable's path and its root directory.
    ExeOffsets {
        exe_file: u64 = "mm_struct.exe_file",
        f_path: u64 = "file.f_path" | "file.__f_path",
        fs: u64 = "task_struct.fs",
        root: u64 = "fs_struct.root",
    }
}

offsets! {
    /// What a process has mapped into its memory.
    MappingOffsets {
        vm_start: u64 = "vm_area_struct.vm_start",
        vm_end: u64 = "vm_area_struct.vm_end",
        vm_flags: u64 = "vm_area_struct.vm_flags",
        vm_pgoff: u64 = "vm_area_struct.vm_pgoff",
        vm_file: u64 = "vm_area_struct.vm_file",
    }
}

offsets! {
    /// Whether a page of memory is of a file.
    PageOffsets {
        /// Of a page that is not the first of several, with bit 0 set: the first; or, in kernels from 7.1 on, the mask that makes it
        /// of the page's own address.
        compound_head: u64 = "page.compound_head" | "page.compound_info",
        mapping: u64 = "page.mapping" | "folio.mapping",
    }
}

offsets! {
    /// Files of a file system that others are below (overlayfs): kernels from 6.6 on tell them by this.
    BackingFileOffsets {
        f_mode: Scalar = "file.f_mode",
        user_path: u64 = "backing_file.user_path",
    }
}

offsets! {
    /// The mappings of a process as a list: kernels before 6.1.
    MappingListOffsets {
        mmap: u64 = "mm_struct.mmap",
        vm_next: u64 = "vm_area_struct.vm_next",
    }
}

offsets! {
    /// The mappings of a process as a maple tree: kernels from 6.1 on.
    MapleOffsets {
        root: u64 = "mm_struct.mm_mt.ma_root",
        range_pivot: Array = "maple_range_64.pivot",
        range_slot: Array = "maple_range_64.slot",
        arange_pivot: Array = "maple_arange_64.pivot",
        arange_slot: Array = "maple_arange_64.slot",
    }
}

offsets! {
    /// Paths: directory entries and mounts.
    PathOffsets {
        path_mnt: u64 = "path.mnt",
        path_dentry: u64 = "path.dentry",
        d_parent: u64 = "dentry.d_parent",
        name: u64 = "dentry.d_name.name",
        name_len: u64 = "dentry.d_name.len",
        /// Null once the entry is unhashed, that is deleted.
        hash_pprev: u64 = "dentry.d_hash.pprev",
        /// `struct vfsmount` inside `struct mount`.
        mnt: u64 = "mount.mnt",
        mnt_parent: u64 = "mount.mnt_parent",
        mnt_mountpoint: u64 = "mount.mnt_mountpoint",
        mnt_root: u64 = "vfsmount.mnt_root",
    }
}

offsets! {
    /// Network and mount namespaces.
    NamespaceOffsets {
        nsproxy: u64 = "task_struct.nsproxy",
        net_ns: u64 = "nsproxy.net_ns",
        mnt_ns: u64 = "nsproxy.mnt_ns",
        net_inum: u64 = "net.ns.inum",
        mnt_inum: u64 = "mnt_namespace.ns.inum",
    }
}

offsets! {
    /// The PID namespace.
    PidNamespaceOffsets {
        thread_pid: u64 = "task_struct.thread_pid",
        level: u64 = "pid.level",
        numbers: u64 = "pid.numbers",
        upid_nr: u64 = "upid.nr",
        upid_ns: u64 = "upid.ns",
        inum: u64 = "pid_namespace.ns.inum",
    }
}

offsets! {
    /// Control groups, for the name of a container.
    CgroupOffsets {
        cgroups: u64 = "task_struct.cgroups",
        dfl_cgrp: u64 = "css_set.dfl_cgrp",
        subsys: Array = "css_set.subsys",
        css_cgroup: u64 = "cgroup_subsys_state.cgroup",
        kn: u64 = "cgroup.kn",
        kn_name: u64 = "kernfs_node.name",
        kn_parent: u64 = "kernfs_node.parent" | "kernfs_node.__parent",
    }
}

offsets! {
    /// Other ways to a task than the list of all processes: what a rootkit that
    /// takes a task off that list must also think of.
    KinshipOffsets {
        children: u64 = "task_struct.children",
        sibling: u64 = "task_struct.sibling",
        exit_state: u64 = "task_struct.exit_state",
    }
}

offsets! {
    /// The table of PIDs: an XArray of `struct pid`, each with its tasks.
    PidTableOffsets {
        /// From a PID namespace.
        xa_head: u64 = "pid_namespace.idr.idr_rt.xa_head",
        /// Of a node: how many low bits of the index lie below it.
        node_shift: u64 = "xa_node.shift",
        node_slots: Array = "xa_node.slots",
        /// A list head for each kind of PID; the first kind is the thread's own.
        pid_tasks: u64 = "pid.tasks",
        pid_links: u64 = "task_struct.pid_links",
    }
}

offsets! {
    /// Run queues: what runs, and what waits for a CPU.
    RunQueueOffsets {
        curr: u64 = "rq.curr",
        idle: u64 = "rq.idle",
        cfs_tasks: u64 = "rq.cfs_tasks",
        group_node: u64 = "task_struct.se.group_node",
    }
}
