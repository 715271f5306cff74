#!/usr/bin/env bash
# Boots the kernel that prepare.sh fetched with a bounce pool that grows, runs a command in it, brings a folder out.
#   run.sh [OPTIONS] -- COMMAND…
# COMMAND goes to the guest's sh as one text. The exit status is its own, 125 if the lab failed.
#   -b FILE[:NAME]  put FILE (a static s390x program, or data) into the guest's /bin; may be repeated
#   -o FOLDER       gets what COMMAND left in its working folder /out, and console.log, dmesg, debugfs-swiotlb
#   -a ARGUMENTS    of the kernel's command line (swiotlb=512,force)
#   -D N            disks of 256 MiB whose every transfer bounces: /dev/load/b1…bN (1)
#   -m MIB, -c N    memory (1024), CPUs (2)
#   -t SECONDS      how long it may take (300)
#   -P              leave the guest without a pool, as it comes
#   -q              do not print what COMMAND printed
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/swioscope/s390x
memory=1024 cpus=2 arguments=swiotlb=512,force out='' seconds=300 disks=1 quiet='' pool=yes files=()

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 125
}
while getopts m:c:a:b:o:t:D:Pq option; do
    case $option in
    m) memory=$OPTARG ;;
    c) cpus=$OPTARG ;;
    a) arguments=$OPTARG ;;
    b) files+=("$OPTARG") ;;
    o) out=$OPTARG ;;
    t) seconds=$OPTARG ;;
    D) disks=$OPTARG ;;
    P) pool= ;;
    q) quiet=yes ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || usage

die() {
    echo "run: $*" >&2
    exit 125
}
kernel=$(echo "$cache"/kernel/usr/lib/modules/*/vmlinuz)
if ! [ -e "$kernel" ] || ! [ -e "$cache/initramfs.cpio" ]; then die "nothing to run: run $here/prepare.sh first"; fi
qemu=(qemu-system-s390x)
if [ -e "$cache/qemu/packages" ]; then
    qemu=("$cache/qemu/usr/bin/qemu-system-s390x" -L "$cache/qemu/usr/share/qemu")
fi

work=$(mktemp -d)
# shellcheck disable=SC2317 # called by the trap
finish() {
    if [ -e "$work/pid" ]; then kill -KILL "$(cat "$work/pid")" || true; fi
    rm -rf "$work"
} 2>/dev/null
trap finish EXIT
out=${out:-$work/out}
mkdir -p "$out"
rm -f "$out/.status" "$out/console.log"

# The job: a second archive, which the kernel unpacks over the first.
mkdir -p "$work/job/bin"
printf '%s\n' "$*" >"$work/job/job"
for file in "${files[@]}"; do
    path=${file%%:*}
    name=$(basename "${file#*:}")
    cp "$path" "$work/job/bin/$name" || die "cannot bring $path along"
    chmod +x "$work/job/bin/$name"
done
{ cat "$cache/initramfs.cpio" && cd "$work/job" && find . | cpio --quiet -o -H newc -R 0:0; } >"$work/initramfs.cpio"

# The disk for the results does not bounce: it must work whatever becomes of the pool.
truncate -s 64M "$work/out.img"
devices=(-drive "if=none,id=out,file=$work/out.img,format=raw" -device 'virtio-blk-ccw,drive=out,serial=out')
for ((i = 1; i <= disks; i++)); do
    truncate -s 256M "$work/b$i.img"
    devices+=(-drive "if=none,id=b$i,file=$work/b$i.img,format=raw,cache=unsafe")
    devices+=(-device "virtio-blk-ccw,drive=b$i,serial=b$i,iommu_platform=on")
done

caller=''
if [ -n "$pool" ]; then
    devices+=(-S -chardev "socket,path=$work/gdb,server=on,wait=off,id=gdb" -gdb chardev:gdb)
    {
        # A guest that was not let go on would stand still until the time is over.
        python3 "$here/gdbcall.py" "$work/gdb" "$cache/kernel/kallsyms" 2>"$work/gdb.log" ||
            { kill "$(cat "$work/pid")"; false; }
    } 2>/dev/null &
    caller=$!
fi
# QEMU hangs now and then when a guest with several CPUs powers off, deaf to SIGTERM: what came out by then is whole.
{
    until grep --quiet '^swioscope: all is out' "$out/console.log"; do
        [ -d "$work" ] || exit
        sleep 1
    done
    sleep 3
    kill -KILL "$(cat "$work/pid")"
} >/dev/null 2>&1 &
ender=$!
status=0
{ nice timeout --kill-after=5 "$seconds" "${qemu[@]}" -M s390-ccw-virtio -accel tcg,thread=multi -cpu max \
    -smp "$cpus" -m "$memory" -nographic -nodefaults -serial none -monitor none -pidfile "$work/pid" \
    -chardev stdio,id=console,signal=off -device sclpconsole,chardev=console \
    -kernel "$kernel" -initrd "$work/initramfs.cpio" -append "console=ttyS0 nokaslr $arguments" \
    "${devices[@]}" </dev/null 2>&1 | sed --unbuffered 's/\r//g' >"$out/console.log"; } 2>/dev/null || status=$?
kill "$ender" 2>/dev/null || true
if [ -n "$caller" ] && ! wait "$caller"; then
    tail -20 "$out/console.log" >&2
    cat "$work/gdb.log" >&2
    die "the guest got no pool"
fi
if [ -z "$quiet" ]; then sed -n '1,/Run \/init/d; /^swioscope: all is out/q; /^\[ /!p' "$out/console.log"; fi
tar --extract --file "$work/out.img" --directory "$out" 2>/dev/null || true
if ! [ -s "$out/.status" ]; then
    tail -20 "$out/console.log" >&2
    case $status in
    124 | 137) die "not at its end after $seconds s; see -t and -o" ;;
    *) die "nothing came out of the guest (QEMU's status: $status)" ;;
    esac
fi
exit "$(cat "$out/.status")"
