//! Between fork and exec: the child gives up our capabilities, lets go of our files, and dies with us.
#![allow(unsafe_code)] // `pre_exec` and these system calls have no safe form; nothing else lives here.

use std::io;

use tokio::process::Command;

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct` (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct` (linux/capability.h).
#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Prepares a command so that its process has its own group, no capability (not even as root), none of our files, and is killed when the
/// thread that spawns it ends. Hence that thread must live as long as the node.
pub(super) fn confine(command: &mut Command) {
    let parent = std::process::id();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `give_up` makes plain system calls on values on its own
    // stack: it takes no lock, allocates nothing and cannot panic (`io::Error` from an OS code holds just that number).
    unsafe {
        command.pre_exec(move || give_up(parent));
    }
}

fn give_up(parent: u32) -> io::Result<()> {
    // SAFETY: every call gets integers, or pointers to live values of the layout that the kernel documents, and no memory is shared with
    // anyone: after fork this process has a single thread.
    unsafe {
        // Files that somebody opened without CLOEXEC. ENOSYS before Linux 5.11: ours are all CLOEXEC anyway.
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);

        // Ambient first: those are what exec would hand on. EINVAL before Linux 4.3, which has none.
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        // Root would get everything back at exec, up to the bounding set. Without CAP_SETPCAP this fails, and then we are not root.
        let mut capability: libc::c_ulong = 0;
        while libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) >= 0 {
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            capability += 1;
        }
        let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
        let none = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
        if libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }

        // Last, since a change of credentials would clear it. It is tied to the thread that forked.
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        // The node may have died before that: then nobody would ever tell this child.
        if u32::try_from(libc::getppid()) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
    }
    Ok(())
}
