#!/bin/sh
# The first process of a lab guest: makes a small system, runs the job, hands everything back, powers off.
# /job (a second cpio, see initramfs.rs) has `settings`, sourced here, and `command`, the job itself.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=dumb RUST_BACKTRACE=1

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/load
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs tracing /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
ulimit -l unlimited # before 5.11 eBPF maps count as locked memory
hostname lab
ip link set lo up

. /job/settings # sets MODULES, DISKS, XEN

for module in $MODULES; do
    # One without a file is built into this kernel.
    [ -e "/lib/modules/$(uname -r)/${module%%:*}.ko" ] || continue
    modprobe $(echo "$module" | tr ':' ' ') || echo "lab: module $module does not load"
done
[ -n "$XEN" ] && mount -t xenfs xenfs /proc/xen

# The name of the load behind a disk: by the PCI driver above it, since sda and sdb are given out in any order.
load_of() {
    case $1 in
        nvme*) echo nvme; return ;;
        vd*) [ "$(cat /sys/block/$1/serial)" = swioscope-result ] && echo result || echo virtio; return ;;
    esac
    dir=$(readlink -f /sys/block/$1)
    while [ "$dir" != /sys/devices ]; do
        dir=${dir%/*}
        case $(readlink "$dir/driver") in
            */ahci) echo ahci; return ;;
            */ata_piix) echo ide; return ;;
        esac
    done
}

link_disks() {
    for block in /sys/block/nvme* /sys/block/vd* /sys/block/sd*; do
        disk=${block##*/}
        [ -b "/dev/$disk" ] && ln -sf "../$disk" "/dev/load/$(load_of "$disk")"
    done
    for disk in $DISKS; do [ -e "/dev/load/$disk" ] || return 1; done
}

# Drivers look for their disks in the background.
tries=0
until link_disks || [ $tries = 200 ]; do tries=$((tries + 1)); usleep 100000; done
if [ $tries = 200 ]; then
    # A job without its load would report on nothing: no status is a failure of the lab.
    echo "lab: of the disks $DISKS only these came up: $(ls /dev/load | tr '\n' ' ')"
    poweroff -f
fi

for nic in /sys/class/net/*; do
    nic=${nic##*/}
    [ "$nic" = lo ] || { ip link set "$nic" up; ip addr add 10.0.2.15/24 dev "$nic"; }
done

# The job's output goes to a serial port of its own, through a pipe so that programs see no terminal there.
stty -F /dev/ttyS1 raw -echo
echo "lab: the job begins, up $(cut -d ' ' -f 1 /proc/uptime) s"
cd /root
{ sh /job/command; echo $? >/.lab/status; } </dev/null 2>&1 | cat >/dev/ttyS1
echo "lab: the job ended with status $(cat /.lab/status), up $(cut -d ' ' -f 1 /proc/uptime) s"

dmesg >/.lab/dmesg
tar -cf "$(readlink -f /dev/load/result)" -C / .lab out || echo "lab: the results cannot be written"
sync
poweroff -f
