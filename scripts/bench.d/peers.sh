# shellcheck shell=bash
# Whom scripts/bench measures: for each peer a function start_PEER, which mounts it at $mnt, and one
# version_PEER. To be sourced; `work` is the run's own directory, `fs` the type of the legs,
# `options` the mount options of mirrorfs.
#
# All that a peer starts ends when what it mounted below $work is unmounted, but for GlusterFS, which
# has stop_glusterfs.

all_peers=(mirrorfs bare twice btrfs bindfs mergerfs glusterfs)

# start_peer PEER: false when it cannot start; what it said is in $work/log/PEER then.
start_peer() {
    local status
    mkdir -p "$work/mnt/$1"
    set +e
    (
        set -e
        mnt=$work/mnt/$1
        "start_$1"
        mounted_at "$mnt" || die "nothing is mounted at $mnt after the start of $1"
    ) >"$work/log/$1" 2>&1
    status=$?
    set -e
    return $status
}

# leg NAME: a new filesystem of the chosen type at $work/NAME. Large enough for what the loads leave.
leg() {
    [ -d "$work/$1" ] || make_filesystem "$fs" "$(image "$1")" "$work/$1" "$image_mib"
}
# image NAME: its file; those of second copies are on the second disk.
image() {
    case $1 in
    b | e | g | i) echo "$disk2/$1.img" ;;
    *) echo "$work/$1.img" ;;
    esac
}

start_mirrorfs() {
    leg a
    leg b
    "$MIRRORFS" create "$work/a" "$work/b"
    mount_mirrorfs "$options" "$mnt"
}
mount_mirrorfs() { "$MIRRORFS" mount "$work/a" "$work/b" "$2" ${1:+-o "$1"}; }
version_mirrorfs() {
    "$MIRRORFS" --version
    git rev-parse --short HEAD 2>/dev/null || true
}

# The bare filesystem, bindfs and mergerfs share one: each has a directory on it.
start_bare() {
    leg c
    mkdir "$work/c/bare"
    mount --bind "$work/c/bare" "$mnt"
}
version_bare() { echo "$fs"; }

# What a mirror has to do at the least: one program that writes to two filesystems, without FUSE.
start_twice() {
    leg h
    leg i
    mkdir "$work/h/twice" "$work/i/twice"
    mount --bind "$work/h/twice" "$mnt"
}
version_twice() { echo "$fs, written twice"; }

start_bindfs() {
    need_packages bindfs=bindfs
    leg c
    mkdir "$work/c/bindfs"
    bindfs "$work/c/bindfs" "$mnt"
}
version_bindfs() { bindfs --version | head -n 1; }

start_mergerfs() {
    need_packages mergerfs=mergerfs
    leg c
    mkdir "$work/c/mergerfs"
    mergerfs -o allow_other,minfreespace=0 "$work/c/mergerfs" "$mnt"
}
version_mergerfs() { mergerfs --version 2>&1 | head -n 1; }

start_btrfs() {
    local name device devices=()
    need_packages mkfs.btrfs=btrfs-progs
    for name in d e; do
        truncate -s "${image_mib}M" "$(image "$name")"
        device=$(losetup --find --show "$(image "$name")")
        devices+=("$device")
    done
    mkfs.btrfs -q -f -d raid1 -m raid1 "${devices[@]}"
    mount -t btrfs -o "device=${devices[1]}" "${devices[0]}" "$mnt"
}
version_btrfs() { mkfs.btrfs --version; }

# GlusterFS wants a server, an address that is not the loopback's, a port, and directories in /var and
# /run. It gets all of that in namespaces of its own: nobody else sees the address or the port, what
# it writes lies in $work, and all its servers end with the first process there. Only the client's
# mount is where everybody is.
gluster_address=192.0.2.1

start_glusterfs() {
    local place=$work/glusterfs tries
    need_packages glusterd=glusterfs-server ip=iproute2 unshare=util-linux nsenter=util-linux
    leg f
    leg g
    mkdir -p "$place/lib" "$place/log/bricks" "$work/f/brick" "$work/g/brick"
    cat >"$place/glusterd.vol" <<END
volume management
    type mgmt/glusterd
    option working-directory /var/lib/glusterd
    option glusterd-sockfile $place/socket
    option transport-type socket
    option transport.address-family inet
    option transport.socket.bind-address $gluster_address
    option ping-timeout 0
end-volume
END
    unshare --net --mount --pid --fork --kill-child --mount-proc scripts/bench.d/glusterd-alone.sh \
        "$work" "$gluster_address" </dev/null >"$place/said" 2>&1 &
    echo $! >"$place/pid"
    for tries in $(seq 100); do
        gluster_cli volume list >/dev/null 2>&1 && break
        kill -0 "$(cat "$place/pid")" 2>/dev/null || die "glusterd has ended: $(tail -n 1 "$place/said")"
        sleep 0.1
    done
    gluster_cli volume create bench replica 2 "$gluster_address:$work/f/brick" "$gluster_address:$work/g/brick" force
    gluster_cli volume start bench
    in_gluster_net mount -t glusterfs -o "log-file=$place/log/client.log" "$gluster_address:/bench" "$mnt"
}
version_glusterfs() { glusterd --version | head -n 1; }

gluster_cli() {
    in_gluster_net timeout 60 gluster --mode=script "--glusterd-sock=$work/glusterfs/socket" \
        "--log-file=$work/glusterfs/log/cli.log" "$@"
}

# The process beside `unshare`, which itself stays outside the namespaces.
in_gluster_net() {
    local inside
    inside=$(cat "/proc/$(cat "$work/glusterfs/pid")/task/$(cat "$work/glusterfs/pid")/children")
    nsenter --net --target "${inside%% *}" "$@"
}

stop_glusterfs() {
    local pid
    [ -e "$work/glusterfs/pid" ] || return 0
    pid=$(cat "$work/glusterfs/pid")
    umount "$work/mnt/glusterfs" 2>/dev/null || umount -l "$work/mnt/glusterfs" 2>/dev/null || true
    # Its child is told by the kernel, and takes all others in its namespace with it.
    kill -KILL "$pid" 2>/dev/null || true
    wait_until_gone "$pid" || say "the servers of GlusterFS (process $pid) have not ended"
}
