# shellcheck shell=bash
# What the scripts beside this file share. To be sourced by bash with `set -euo pipefail`.

say() { printf '%s\n' "$*" >&2; }
quoted() { printf '%q' "$1"; }
die() { say "$*"; exit 1; }

# need_packages PROGRAM=PACKAGE ...: installs the Debian package of each program that is missing.
# Says what is missing where it cannot install.
need_packages() {
    local pair packages=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    [ ${#packages[@]} -eq 0 ] && return 0
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        say "These Debian packages are missing, and only root can install them: ${packages[*]}"
        return 1
    fi
    say "installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${packages[@]}" >/dev/null; }
}

# in_mountinfo_below DIR: the mount points at or below DIR, the newest first.
mounts_below() {
    awk -v below="$1" '$5 == below || index($5, below "/") == 1 { print $5 }' /proc/self/mountinfo | tac
}

# mounted_at DIR: true when something is mounted on DIR, dead or alive. Does not look at DIR itself.
mounted_at() {
    local escaped
    escaped=$(printf '%s' "$1" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g; s/#/\\043/g')
    wanted=$escaped awk '$5 == ENVIRON["wanted"] { found = 1 } END { exit !found }' /proc/self/mountinfo
}

# daemons_below DIR: ids of the processes that have DIR in their command line and serve a mirror or a leg.
daemons_below() {
    local process
    for process in /proc/[0-9]*; do
        case "$(readlink "$process/exe" 2>/dev/null)" in
        */mirrorfs | */mirrorfs' (deleted)' | */bad-leg | */bad-leg' (deleted)' | */sshfs) ;;
        *) continue ;;
        esac
        if tr '\0' ' ' 2>/dev/null <"$process/cmdline" | grep -qF "$1"; then
            printf '%s\n' "${process#/proc/}"
        fi
    done
}

# loops_below DIR: the loop devices whose image lies below DIR.
loops_below() {
    command -v losetup >/dev/null || return 0
    losetup --list --noheadings --raw --output NAME,BACK-FILE | awk -v below="$1/" 'index($2, below) == 1 { print $1 }'
}

# take_away DIR: ends what was started and mounted below DIR, and removes it.
take_away() {
    local dir=$1 one
    for one in $(mounts_below "$dir"); do umount "$one" 2>/dev/null || umount -l "$one" 2>/dev/null || true; done
    for one in $(daemons_below "$dir"); do wait_until_gone "$one" || kill -KILL "$one" 2>/dev/null || true; done
    for one in $(loops_below "$dir"); do losetup -d "$one" 2>/dev/null || true; done
    [ -n "$(mounts_below "$dir")" ] || rm -rf "$dir"
}

# wait_until_gone PID [SECONDS]: true once the process has ended, false after ten seconds or as many as
# are given.
wait_until_gone() {
    local tries
    for tries in $(seq $((${2:-10} * 10))); do
        case "$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null)" in
        '' | Z | X) return 0 ;;
        esac
        sleep 0.1
    done
    return 1
}

# make_filesystem TYPE IMAGE DIR MIB: a new filesystem in a sparse image, mounted at DIR.
make_filesystem() {
    local type=$1 image=$2 dir=$3 mib=$4
    mkdir -p "$dir"
    truncate -s "${mib}M" "$image"
    case $type in
    ext4) mkfs.ext4 -q -F "$image" ;;
    xfs) mkfs.xfs -q -f "$image" ;;
    btrfs) mkfs.btrfs -q -f "$image" ;;
    *) die "no such filesystem here: $type" ;;
    esac
    mount -o loop "$image" "$dir"
    rmdir "$dir/lost+found" 2>/dev/null || true
}

# mirror_pid MOUNTPOINT: the daemon's process id.
mirror_pid() {
    "$MIRRORFS" status "$1" --json | tr -d ' \n' | sed -n 's/.*"pid":\([0-9]*\).*/\1/p'
}

# umount_mirror MOUNTPOINT [SECONDS]: unmounts and waits until the daemon has put everything on the legs.
umount_mirror() {
    local pid
    pid=$(mirror_pid "$1")
    umount "$1"
    wait_until_gone "$pid" "${2:-10}" || die "the daemon $pid has not ended after umount $1"
}

# built PROFILE PROGRAM: where cargo puts a program of that profile (debug or release).
built() { printf '%s/%s/%s' "${CARGO_TARGET_DIR:-target}" "$1" "$2"; }
