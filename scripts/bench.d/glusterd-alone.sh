#!/bin/sh
# Runs glusterd in the namespaces that `unshare --net --mount --pid` has made for it; see peers.sh.
#
#   glusterd-alone.sh WORK ADDRESS      WORK is the directory of the run, its bricks are at WORK/f and WORK/g
set -eu
work=$1 address=$2 place=$1/glusterfs

# A mount that is copied to this namespace lives on here after it has been unmounted where everybody is: its
# daemon would not end, and its disk would stay in use, whoever's it is. Only what is needed is kept.
awk '{ print $5 }' /proc/self/mountinfo | sort -r | while read -r mounted; do
    case $mounted in
    / | /proc | /proc/* | /sys | /sys/* | /dev | /dev/pts | "$work/f" | "$work/g") continue ;;
    esac
    case $work in
    "$mounted"/*) continue ;;
    esac
    umount -l "$mounted"
done

# It writes in these whatever it is told.
mount -t tmpfs none /run
mount --bind "$place/lib" /var/lib/glusterd
mount --bind "$place/log" /var/log/glusterfs

ip link set lo up
ip address add "$address/32" dev lo
exec glusterd -N -f "$place/glusterd.vol" -p /run/glusterd.pid -l /var/log/glusterfs/glusterd.log
