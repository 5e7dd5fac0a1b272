#!/usr/bin/env bash
# Sees to a Swift toolchain and prints the directory of its swift and swiftc. One on PATH that is new enough is
# used; else, as root on Debian, the swiftlang of Debian 13 is installed into a system tree of its own, once,
# under LITE_MAMBA_TOOLCHAINS or target/toolchains, and swift and swiftc are programs that enter it.
set -euo pipefail

minimum=6.0
suite=trixie

missing() {
    echo "swift: $1" >&2
    exit 1
}

# usable DIRECTORY: whether swift and swiftc are there and run, and are new enough
usable() {
    [ -x "$1/swift" ] && [ -x "$1/swiftc" ] || return 1
    local found
    found=$("$1/swiftc" --version 2> /dev/null | sed -n 's/.*Swift version \([0-9.]*\).*/\1/p') || return 1
    [ -n "$found" ] && [ "$(printf '%s\n' "$minimum" "$found" | sort -V | head -n 1)" = "$minimum" ]
}

if on_path=$(command -v swift) && usable "$(dirname "$on_path")"; then
    dirname "$on_path"
    exit
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
directory=${LITE_MAMBA_TOOLCHAINS:-$root/target/toolchains}/swift
none="no Swift $minimum or newer on PATH, and installing one needs"

# What apt is set up with: an address of Debian's own archive.
mirror() {
    # shellcheck disable=SC2016 # the names are apt's
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2> /dev/null |
        sed -n '/^Debian|Debian|/{s///p;q}'
}

# Mounts are made in a namespace of their own, so that none outlives the command, whichever way it ends.
in_namespace() {
    unshare --mount --propagation private -- "$@"
}

# install TREE MIRROR
install() {
    # shellcheck disable=SC2016 # expanded inside
    in_namespace bash -euo pipefail -c '
        tree=$1 mirror=$2 suite=$3
        debootstrap --variant=minbase "$suite" "$tree" "$mirror"
        cp /etc/resolv.conf "$tree/etc/resolv.conf"
        {
            apt-config dump | grep -E "^Acquire::(Check|Retries|https?)" || true
            echo "APT::Install-Recommends \"false\";"
        } > "$tree/etc/apt/apt.conf.d/host"
        mount --rbind /proc "$tree/proc"
        export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
        chroot "$tree" apt-get update -q
        chroot "$tree" apt-get install -q -y -o Dpkg::Options::=--force-unsafe-io swiftlang libc6-dev
        chroot "$tree" apt-get clean
    ' install "$1" "$2" "$suite"
}

# A program that runs the one of its own name inside, with the same working directory, environment and files:
# whatever does not belong to the operating system (homes, checkouts, /tmp) is at the same place there.
program() {
    cat << 'END'
#!/usr/bin/env bash
set -euo pipefail
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/tree
exec unshare --mount --propagation private -- bash -euc '
    tree=$1 directory=$2
    for outside in /* /usr/local; do
        case $outside in
            /bin | /boot | /etc | /lib* | /lost+found | /run | /sbin | /sys | /usr | /var) continue ;;
        esac
        if [ -d "$outside" ] && [ ! -L "$outside" ]; then
            mkdir -p "$tree$outside"
            mount --rbind "$outside" "$tree$outside"
        fi
    done
    shift 2
    exec chroot "$tree" /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        sh -c '\''cd "$0" && exec "$@"'\'' "$directory" "$@"
' enter "$tree" "$PWD" "$(basename "${BASH_SOURCE[0]}")" "$@"
END
}

if ! usable "$directory/bin"; then
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null && [ -e /etc/debian_version ] || missing "$none root on Debian"
    in_namespace true 2> /dev/null || missing "$none leave to mount"
    mkdir -p "$(dirname "$directory")"

    # One installs, the others wait for it. What lies about is then of a run that was cut short.
    exec 9> "$directory.lock"
    flock 9
    rm -rf "$directory".??????
    if ! usable "$directory/bin"; then
        echo "installing Swift into $directory, which takes a minute or two" >&2
        scratch=$(mktemp -d "$directory.XXXXXX")
        trap 'rm -rf "$scratch"' EXIT
        chmod 755 "$scratch"
        log=$directory.log

        mirror=$(mirror)
        if [ -z "$mirror" ] || ! command -v debootstrap > /dev/null; then
            export DEBIAN_FRONTEND=noninteractive
            {
                apt-get update -q && apt-get install -q -y --no-install-recommends debootstrap
            } > "$log" 2>&1 || missing "$none debootstrap, which apt-get cannot install: $(tail -n 1 "$log")"
            mirror=$(mirror)
        fi
        [ -n "$mirror" ] || missing "$none a Debian mirror, and apt is set up with none"
        install "$scratch/tree" "$mirror" > "$log" 2>&1 ||
            missing "Debian's swiftlang cannot be installed, see $log: $(tail -n 1 "$log")"

        mkdir "$scratch/bin"
        program > "$scratch/bin/swift"
        cp "$scratch/bin/swift" "$scratch/bin/swiftc"
        chmod +x "$scratch/bin"/*
        usable "$scratch/bin" || missing "Debian's swiftlang does not run here: $("$scratch/bin/swiftc" --version 2>&1 | tail -n 1)"
        rm -rf "$directory"
        mv "$scratch" "$directory"
    fi
fi
echo "$directory/bin"
