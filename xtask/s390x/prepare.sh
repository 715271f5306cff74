#!/usr/bin/env bash
# Puts what build.sh and run.sh need into ${XDG_CACHE_HOME:-~/.cache}/swioscope/s390x. What is there already is kept: to
# have something anew (a newer kernel, say), delete its folder. Only a cross compiler and programs are installed.
#   SWIOSCOPE_DEBIAN_MIRROR=ADDRESS   the archive to fetch from, unless it is to be that of this machine's apt sources
#   SWIOSCOPE_S390X_SUITE=SUITE       the suite to take the kernel from (experimental)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/swioscope/s390x
target=s390x-unknown-linux-gnu
kernel_suite=${SWIOSCOPE_S390X_SUITE:-experimental}
mkdir -p "$cache"

say() { echo "prepare: $*" >&2; }
die() { say "$@"; exit 1; }

# Packages that are installed, if need be: nothing else is taken away.
install() {
    [ $# -gt 0 ] || return 0
    local command=(apt-get install --yes --no-install-recommends --no-remove "$@")
    [ "$EUID" = 0 ] || die "packages are missing; as root: ${command[*]}"
    say "installing $*"
    DEBIAN_FRONTEND=noninteractive "${command[@]}" >"$cache/apt-install.log" 2>&1 ||
        die "${command[*]} failed: see $cache/apt-install.log (without apt-get update, perhaps?)"
}

# --- apt with a configuration of its own: this machine's archive, the suites and the architecture named

# The address of the Debian archive and the name of the suite that this machine uses, of its own apt configuration.
archive() {
    local address='' suite=''
    # shellcheck disable=SC2016 # apt-get fills these in
    read -r address suite < <(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' \
        'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main') || true
    address=${SWIOSCOPE_DEBIAN_MIRROR:-$address}
    [ -n "$address" ] ||
        die "no Debian archive in this machine's apt configuration: apt-get update, or set SWIOSCOPE_DEBIAN_MIRROR"
    suite=${suite:-stable}
    echo "$address ${suite%%-*}"
}

# The key of that archive, as an option of a source, where apt's own trusted keys are not to be what counts.
signed_by() {
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ -e "$key" ]; then echo "[signed-by=$key]"; fi
}

apt_of() { # ARCHITECTURE PROGRAM ARGUMENTS…
    local dir=$cache/apt/$1 architecture=$1 program=$2
    shift 2
    "$program" -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts="$dir/none" \
        -o Dir::Etc::Preferences="$dir/none/none" -o Dir::Etc::PreferencesParts="$dir/none" \
        -o Dir::State::Lists="$dir/lists" -o Dir::State::Status=/dev/null -o Dir::Cache="$dir/cache" \
        -o APT::Sandbox::User= -o APT::Architecture="$architecture" -o APT::Architectures::="$architecture" \
        -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

apt_update() { # ARCHITECTURE SUITE…
    local dir=$cache/apt/$1 architecture=$1 suite
    shift
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/none"
    for suite; do echo "deb $(signed_by) $address $suite main"; done >"$dir/sources.list"
    say "reading what $* has for $architecture"
    apt_of "$architecture" apt-get --quiet update >"$dir/log" 2>&1 || die "apt-get update failed: see $dir/log"
}

# Unpacks packages into a folder, which is there whole or not at all.
unpack() { # ARCHITECTURE FOLDER PACKAGE…
    local architecture=$1 folder=$2 new=$cache/new deb
    shift 2
    say "fetching $*"
    rm -rf "$new"
    mkdir -p "$new/debs" "$new/tree"
    (cd "$new/debs" && apt_of "$architecture" apt-get --quiet download "$@" >"$cache/apt/$architecture/log" 2>&1) ||
        die "cannot be had: $*; see $cache/apt/$architecture/log"
    for deb in "$new"/debs/*.deb; do dpkg --extract "$deb" "$new/tree"; done
    (cd "$new/debs" && printf '%s\n' *.deb) >"$new/tree/packages"
    rm -rf "$folder"
    mv "$new/tree" "$folder"
    rm -rf "$new"
}

# --- what this machine must have

packages=()
lacks() { ! command -v "$1" >/dev/null; }
if lacks s390x-linux-gnu-gcc; then packages+=(gcc-s390x-linux-gnu); fi
if ! [ -e "$(s390x-linux-gnu-gcc -print-file-name=libc.a 2>/dev/null)" ]; then packages+=(libc6-dev-s390x-cross); fi
for program in cpio patch python3 xz:xz-utils; do
    if lacks "${program%:*}"; then packages+=("${program#*:}"); fi
done
install "${packages[@]}"

cd "$root"
if ! [ -d "$(rustc --print target-libdir --target $target)" ]; then
    say "adding rustc's target $target"
    rustup target add $target || die "Rust's standard library for $target is missing, and rustup cannot add it"
fi

# --- kernel, QEMU, busybox

read -r address suite < <(archive) || exit 1
host=$(dpkg --print-architecture)

if ! [ -e "$cache/kernel/packages" ] || ! [ -e "$cache/busybox/packages" ]; then
    apt_update s390x "$suite" "$kernel_suite"
fi
if ! [ -e "$cache/kernel/packages" ]; then
    binary=$(apt_of s390x apt-cache pkgnames linux-binary- | grep -E '^linux-binary-[0-9].*-s390x$' |
        sort --version-sort | tail -1) ||
        die "no linux-binary-…-s390x in $kernel_suite: set SWIOSCOPE_S390X_SUITE to a suite that has one"
    version=${binary#linux-binary-}
    unpack s390x "$cache/kernel" "$binary" "linux-base-$version" "linux-modules-$version"
fi
modules=$(echo "$cache"/kernel/usr/lib/modules/*)
for option in CONFIG_SWIOTLB_DYNAMIC CONFIG_DEBUG_INFO_BTF; do
    grep -q "^$option=y" "$modules/config" ||
        die "${modules##*/} has no $option: delete $cache/kernel, set SWIOSCOPE_S390X_SUITE to a suite whose kernel has"
done
[ -e "$cache/busybox/packages" ] || unpack s390x "$cache/busybox" busybox-static

# A QEMU of this machine's own goes first. Debian 12 has it in a package with others, its backports in one of its own,
# as Debian 13 has.
if lacks qemu-system-s390x && ! [ -e "$cache/qemu/packages" ]; then
    own=qemu-system-s390x shared=qemu-system-misc from=$suite
    is_there() { apt_of "$host" apt-cache policy "$1" | grep 'Candidate: [^(]' >/dev/null; }
    apt_update "$host" "$suite"
    if ! is_there $own; then
        apt_update "$host" "$suite" "$suite-backports"
        if is_there $own; then from=$suite-backports; else own=$shared; fi
    fi
    unpack "$host" "$cache/qemu" "$own/$from" "qemu-system-data/$from"
    mapfile -t libraries < <(apt_of "$host" apt-cache depends --important $own | sed -n 's/.*Depends: \(lib.*\)/\1/p')
    if ldd "$cache/qemu/usr/bin/qemu-system-s390x" | grep 'not found' >/dev/null; then install "${libraries[@]}"; fi
fi

# --- the two crates, patched

for patch in "$here"/*-big-endian.patch; do
    crate=$(basename "$patch" -big-endian.patch)
    folder=$cache/crates/$crate
    if cmp --silent "$patch" "$folder/big-endian.patch"; then continue; fi
    grep -A1 "^name = \"${crate%-*}\"" "$root/Cargo.lock" | grep -x "version = \"${crate##*-}\"" >/dev/null ||
        die "Cargo.lock has another ${crate%-*} than ${crate##*-}: $patch is to be made anew"
    sources=("${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$crate.crate")
    if ! [ -e "${sources[0]}" ]; then
        cargo fetch --locked
        sources=("${CARGO_HOME:-$HOME/.cargo}"/registry/cache/*/"$crate.crate")
    fi
    say "patching $crate"
    rm -rf "$folder"
    mkdir -p "$cache/crates"
    tar --extract --gzip --file "${sources[0]}" --directory "$cache/crates"
    patch --quiet --strip=1 --directory="$folder" <"$patch"
    cp "$patch" "$folder/big-endian.patch"
done

# --- the guest's first file system, and the addresses of its kernel's functions

initramfs=$cache/initramfs
rm -rf "$initramfs"
mkdir -p "$initramfs"/{bin,dev,etc,mods,out,proc,root,sbin,sys,tmp}
cp "$here/init.sh" "$initramfs/init"
chmod 755 "$initramfs/init"
busybox=("$cache"/busybox/{usr/bin,bin}/busybox)
if [ -e "${busybox[0]}" ]; then cp "${busybox[0]}" "$initramfs/bin/"; else cp "${busybox[1]}" "$initramfs/bin/"; fi
module=$(find "$modules" -name 'virtio_blk.ko*')
cp "$module" "$initramfs/mods/"
case $module in
*.xz) xz --decompress "$initramfs"/mods/*.xz ;;
*.ko) ;;
*) die "$module is packed in a way that is not known here" ;;
esac
(cd "$initramfs" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$cache/initramfs.cpio"

if ! [ -s "$cache/kernel/kallsyms" ]; then
    say "asking a guest for the addresses of its functions"
    rm -rf "$cache/first"
    "$here/run.sh" -P -q -o "$cache/first" -- 'cat /proc/kallsyms > kallsyms'
    grep -q ' swiotlb_init$' "$cache/first/kallsyms" || die "no swiotlb_init in $cache/first/kallsyms"
    mv "$cache/first/kallsyms" "$cache/kernel/kallsyms"
    rm -rf "$cache/first"
fi
say "ready: kernel ${modules##*/} in $cache"
