# Times pairs of map and unmap that bounce, bare and recorded. pairs.rs sets COMMAND before this, which is the module's, and
# SIZES, and calls `twin` behind it, once for each recording and round.
LAB=/sys/kernel/debug/swio_lab
TRACING=/sys/kernel/tracing

insmod /lab/swio_lab.ko || exit 1
{
    echo "release $(uname -r)"
    echo "processor $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
    echo "clock $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    echo "jit $(cat /proc/sys/net/core/bpf_jit_enable)"
} >/out/guest

# time-pairs NAME: leaves the module's account of each size's pairs in NAME-SIZE.
cat >time-pairs <<END
for size in $SIZES; do
    echo "$COMMAND size=\$size" >$LAB/run && cat $LAB/stats >"\$1-\$size" || exit 1
done
END
# The first pairs of a guest wait for its code to be translated.
sh time-pairs first || exit 1

# lacks OPTIONS…: why this kernel has none of the back-ends asked for, nothing if it has.
lacks() {
    case "$*" in
        *"--backend tp_btf"*) [ -d $TRACING/events/dma ] || echo "no tracepoints dma:*, so neither map nor unmap would be recorded" ;;
        *"--backend fentry"*) [ -e /sys/kernel/btf/vmlinux ] || echo "no BTF" ;;
        *"--backend kprobe"*) [ -e $TRACING/kprobe_events ] || echo "no kprobes" ;;
    esac
}

least() {
    sed -n 's/^least_ns_per_pair //p' "$1"
}

# twin NAME ROUND OPTIONS…: the same pairs without a recorder and with one that has these options.
twin() {
    name=$1 at=/out/$1-$2
    shift 2
    why=$(lacks "$@")
    if [ -n "$why" ]; then
        echo "$why" >"/out/$name.skipped"
        return
    fi
    sh time-pairs "$at.bare" || exit 1
    if swioscope record -q --ring 64 -o "$at.swio" "$@" -- sh time-pairs "$at.recorded" 2>"$at.said"; then
        # Of the trace its account is wanted; the guest's memory is small.
        mv "$at.swio/meta.json" "$at.json"
        rm -r "$at.swio"
        for size in $SIZES; do
            echo "  ${at#/out/}, $size: $(least "$at.bare-$size") and $(least "$at.recorded-$size") ns"
        done
    else
        echo "  ${at#/out/}: $(tail -n 1 "$at.said")"
    fi
}
