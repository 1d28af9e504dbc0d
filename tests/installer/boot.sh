#!/bin/bash
# Boots the Debian in the folder $1 by its own systemd, in namespaces of its own: no network but loopback, no process of
# this machine in sight. What is mounted goes with the namespaces.
set -euo pipefail
cd "$1"
mount --make-rprivate /
mount --bind . .
cd "$1"
mount -t proc proc proc
# What is the kernel's own, and so of the machine around: read only.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
if [[ -d /sys/fs/cgroup/systemd ]]; then
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
else
    mount -t cgroup2 cgroup2 sys/fs/cgroup
fi
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
for device in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
    # shellcheck disable=SC2086 # name, major and minor
    set -- $device
    mknod -m 666 "dev/$1" c "$2" "$3"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ip link set lo up 2>/dev/null || python3 - <<'END'
import fcntl, socket, struct
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40)) # SIOCSIFFLAGS: up and running
END
exec env -i container=outhaul PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --show-status=no
