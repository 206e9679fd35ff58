//! The metadata usage of btrfs, which statvfs(3) does not show.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Bytes that metadata can have, and what of them is taken; `None` where the filesystem keeps data and metadata
/// together (`mkfs.btrfs --mixed`): then its blocks count.
pub fn metadata(folder: &File) -> io::Result<Option<(u64, u64)>> {
    let mut info = request::FsInfo { head: [0; 2], fsid: [0; 16], rest: [0; 124] };
    // SAFETY: the descriptor is open, and the kernel fills the structure, which has its size.
    unsafe { request::btrfs_fs_info(folder.as_raw_fd(), &raw mut info) }?;
    let hex = info.fsid.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    read(&Path::new("/sys/fs/btrfs").join(uuid))
}

/// BTRFS_IOC_FS_INFO with `struct btrfs_ioctl_fs_info_args` (linux/btrfs.h), of which the UUID is wanted.
mod request {
    #[repr(C)]
    pub(super) struct FsInfo {
        pub head: [u64; 2],
        pub fsid: [u8; 16],
        pub rest: [u64; 124],
    }
    nix::ioctl_read!(btrfs_fs_info, 0x94, 31, FsInfo);
}

/// From a filesystem's folder in sysfs (kernel: `fs/btrfs/sysfs.c`). Data and metadata have chunks of their own.
/// What no chunk has taken of the devices can become either, so that metadata is short only where that is used up
/// as well (btrfs(5), "Typical use cases" and btrfs-filesystem(8), `usage`). On several copies (DUP, RAID1) a byte
/// of metadata takes that many of the devices: `disk_total` against `total_bytes`. The global reserve is a part of
/// the metadata's chunks that the kernel gives to nobody else.
fn read(filesystem: &Path) -> io::Result<Option<(u64, u64)>> {
    let allocation = filesystem.join("allocation");
    let number = |path: &Path| -> io::Result<u64> {
        fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
    };
    let of = |kind: &str, file: &str| number(&allocation.join(kind).join(file));
    if !allocation.join("metadata").exists() {
        return Ok(None);
    }
    // The first of each device is never allocated (kernel: `BTRFS_DEVICE_RANGE_RESERVED`).
    let allocatable = |size: u64| size.saturating_mul(512).saturating_sub(1 << 20);
    let mut unallocated = 0_u64;
    for device in fs::read_dir(filesystem.join("devices"))? {
        // In sectors of 512 bytes, whatever the device's own are (kernel: Documentation/block/stat.rst).
        unallocated = unallocated.saturating_add(allocatable(number(&device?.path().join("size"))?));
    }
    for kind in ["data", "metadata", "system"] {
        unallocated = unallocated.saturating_sub(of(kind, "disk_total")?);
    }
    let (total, on_disk) = (of("metadata", "total_bytes")?, of("metadata", "disk_total")?);
    let more = u128::from(unallocated) * u128::from(total) / u128::from(on_disk.max(1));
    let reserve = number(&allocation.join("global_rsv_size"))?;
    let used = of("metadata", "bytes_used")?.saturating_add(reserve).min(total);
    Ok(Some((total.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)), used)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_short_where_nothing_is_left_to_allocate() {
        const MIB: u64 = 1 << 20;
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, value: u64| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        };
        let chunks = |kind: &str, total, copies, used| {
            write(&format!("allocation/{kind}/total_bytes"), total * MIB);
            write(&format!("allocation/{kind}/disk_total"), copies * total * MIB);
            write(&format!("allocation/{kind}/bytes_used"), used * MIB);
        };
        write("devices/loop0/size", 1025 * MIB / 512);
        fs::create_dir(root.path().join("allocation")).unwrap();
        assert_eq!(read(root.path()).unwrap(), None, "mixed");
        chunks("data", 800, 1, 300);
        chunks("metadata", 108, 2, 100);
        chunks("system", 4, 2, 1);
        write("allocation/global_rsv_size", 6 * MIB);
        assert_eq!(read(root.path()).unwrap(), Some((108 * MIB, 106 * MIB)), "all is allocated");
        chunks("data", 400, 1, 300);
        assert_eq!(read(root.path()).unwrap(), Some((308 * MIB, 106 * MIB)), "200 MiB more, twice each");
    }
}
