#!/bin/busybox sh
# shellcheck shell=dash
# What runs first in the guest: mounts, the disks, the job, its results onto the disk `out`, power off.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmpfs /tmp
echo 1 > /proc/sys/kernel/printk
for module in /mods/*.ko; do
  insmod "$module" || echo "insmod $module: failed"
done
# Disks are found in any order: they are told by their serial.
mkdir -p /dev/load
tries=0
while [ $tries -lt 50 ]; do
  for disk in /sys/block/vd*; do
    [ -e "$disk/serial" ] && ln -sf "/dev/${disk##*/}" "/dev/load/$(cat "$disk/serial")"
  done
  [ -e /dev/load/out ] && [ -e /dev/load/b1 ] && break
  tries=$((tries + 1))
  sleep 0.1
done
cd /out || exit
sh /job
status=$?
dmesg > /out/dmesg
for file in /sys/kernel/debug/swiotlb/*; do
  [ -e "$file" ] && echo "${file##*/} $(cat "$file")"
done > /out/debugfs-swiotlb
echo $status > /out/.status
tar cf /tmp/.out.tar -C /out . && dd if=/tmp/.out.tar of=/dev/load/out bs=1M conv=sync 2>/dev/null
sync
echo 'swioscope: all is out'
poweroff -f
