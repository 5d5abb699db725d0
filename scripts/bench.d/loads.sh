# shellcheck shell=bash
# What scripts/bench does on each peer: for each load of loads.table a function run_LOAD, which prints
# how many operations were done and how many seconds they took, and where something has to be there or
# in a cache before, prepare_LOAD, which is not counted. Where mirrorfs is to be mounted with options of the load's own,
# options_LOAD prints them. To be sourced.
#
# They work in $dir, with files of $size MiB, $seconds for what is timed, $files files in trees, and
# an archive and a repository of $archived files. What a load needs from another one it makes when it
# is missing, so that each load can be run alone.

# limited COMMAND...: what has not ended after a quarter of an hour never will.
limited() { timeout 900 "$@"; }

# fio_load READ-OR-WRITE ARGUMENTS...: fio on one file of $size MiB, or on others that are named. Its terse output, version 3, tells
# KiB and milliseconds of reads from field 6 on, of writes from field 47 on.
fio_load() {
    local direction=$1 block files=(--filename=data)
    shift
    [[ " $* " != *" --filename_format="* ]] || files=()
    case " $* " in
    *" --bs=1M "*) block=1024 ;;
    *) block=4 ;;
    esac
    limited fio --name=bench --directory="$dir" "${files[@]}" --size="${size}M" --ioengine=psync --fallocate=none \
        --randseed=1 --group_reporting --output-format=terse --terse-version=3 "$@" |
        awk -F';' -v first="$([ "$direction" = read ] && echo 6 || echo 47)" -v block="$block" \
            'NF > 100 { print $first / block, $(first + 3) / 1000 }'
}
timed() { fio_load "$@" --time_based --runtime="$seconds"; }

have_data() { [ -s "$dir/data" ] || run_seqwrite >/dev/null; }
warm_data() {
    have_data
    cat "$dir/data" >/dev/null
}
# settle: everything is on the disks. Of the peers' own filesystems only, not of all the machine.
settle() {
    local place places=()
    for place in "$work"/{a,b,c,f,g,h,i,mnt/btrfs}; do
        ! mounted_at "$place" || places+=("$place")
    done
    sync --file-system "${places[@]}"
}
# cold: what is read next comes from the disks. What is not written back cannot be dropped.
cold() {
    settle
    echo 3 >/proc/sys/vm/drop_caches
}
cold_data() {
    have_data
    cold
}

prepare_seqwrite() { rm -f "$dir/data"; }
run_seqwrite() { fio_load write --rw=write --bs=1M --end_fsync=1; }
prepare_coldread() { cold_data; }
run_coldread() { fio_load read --rw=read --bs=1M; }
prepare_warmread() { warm_data; }
run_warmread() { timed read --rw=read --bs=1M --invalidate=0; }
prepare_coldrandread() { cold_data; }
# Not time_based: that would begin anew when every block has been read, and they are warm then.
run_coldrandread() { fio_load read --rw=randread --bs=4k --runtime="$seconds"; }
prepare_randread() { warm_data; }
run_randread() { timed read --rw=randread --bs=4k --invalidate=0; }
prepare_randwrite() { have_data; }
run_randwrite() { timed write --rw=randwrite --bs=4k; }
prepare_randwrite4() { have_data; }
run_randwrite4() { timed write --rw=randwrite --bs=4k --numjobs=4; }
options_randwriteback() { echo writeback; }
prepare_randwriteback() { have_data; }
run_randwriteback() { run_randwrite; }
prepare_direct() { have_data; }
run_direct() { timed write --rw=randwrite --bs=4k --direct=1; }
prepare_direct4() { have_data; }
run_direct4() { timed write --rw=randwrite --bs=4k --direct=1 --numjobs=4; }
prepare_fsync() { have_data; }
run_fsync() { timed write --rw=randwrite --bs=4k --fsync=1; }
# A file for each of four jobs, of a quarter of the size: what is given last counts.
in_four_files() { "$@" --filename_format='data4.$jobnum' --size=$((size / 4))M --numjobs=4; }
prepare_fsync4() { in_four_files fio_load write --rw=write --bs=1M >/dev/null; }
run_fsync4() { in_four_files timed write --rw=randwrite --bs=4k --fsync=1; }
prepare_fsync4one() { have_data; }
run_fsync4one() { timed write --rw=randwrite --bs=4k --fsync=1 --numjobs=4; }

meta() { limited "$metaload" "$1" "$dir" "$files"; }
have_empty() { [ -e "$dir/empty/dir0/file0" ] || run_create >/dev/null; }
have_small() { [ -e "$dir/small/dir0/file0" ] || run_small >/dev/null; }
# warm LOAD: a round that is not counted.
warm() { meta "$1" >/dev/null; }

prepare_create() { rm -rf "$dir/empty"; }
run_create() { meta create; }
prepare_small() { rm -rf "$dir/small"; }
run_small() { meta small; }
prepare_coldstat() { have_empty; cold; }
run_coldstat() { meta stat; }
prepare_stat() { have_empty; warm stat; }
run_stat() { meta stat; }
prepare_readdir() { have_empty; warm readdir; }
run_readdir() { meta readdir; }
prepare_liststat() { have_empty; warm liststat; }
run_liststat() { meta liststat; }
prepare_readsmall() { have_small; warm readsmall; }
run_readsmall() { meta readsmall; }
prepare_rename() { have_empty; }
run_rename() { meta rename; }
prepare_unlink() { have_empty; }
run_unlink() { meta unlink; }

run_roundtrip() { meta roundtrip; }

# What the peer `twice` does. It writes to two directories, of which $dir is the first.
both_legs() { limited "$twice" "$1" "$dir" "$work/i/twice" "$size" "$seconds"; }
twice_seqwrite() { both_legs seqwrite; }
twice_fsync() { both_legs fsync; }
twice_fsync4() { both_legs fsync4; }

# timed_command OPERATIONS COMMAND...: for what does not tell by itself how long it took.
timed_command() {
    local operations=$1 begin end
    shift
    begin=$(date +%s%N)
    "$@" >/dev/null
    end=$(date +%s%N)
    awk -v operations="$operations" -v took=$((end - begin)) 'BEGIN { print operations, took / 1e9 }'
}

# make_sources FILES: the archive and the repository that are unpacked and cloned: a hundred files a
# directory, 4,000 bytes each.
make_sources() {
    local count=$1 tree=$work/sources/$1
    mkdir -p "$tree"
    awk -v tree="$tree" -v count="$count" 'BEGIN {
        for (at = 0; at < count; at++) {
            dir = tree "/d" int(at / 100)
            if (at % 100 == 0) system("mkdir " dir)
            file = dir "/f" at
            printf "%4000d", at >file
            close(file)
        }
    }'
    tar -C "$tree" -cf "$tree.tar" .
    git -C "$tree" init -q
    git -C "$tree" add .
    git -C "$tree" -c user.name=bench -c user.email=bench@localhost -c gc.auto=0 commit -q -m bench
}

have_clone() { [ -e "$dir/clone/.git/index" ] || run_gitclone >/dev/null; }
git_status() { limited git -C "$dir/clone" status --porcelain; }

prepare_untar() { rm -rf "$dir/untar"; mkdir "$dir/untar"; }
run_untar() { timed_command "$archived" limited tar -C "$dir/untar" -xf "$work/sources/$archived.tar"; }
prepare_gitclone() { rm -rf "$dir/clone"; }
run_gitclone() { timed_command "$archived" limited git clone -q "file://$work/sources/$archived" "$dir/clone"; }
prepare_gitstatus() { have_clone; git_status >/dev/null; }
run_gitstatus() { timed_command "$archived" git_status; }

prepare_sqlite() {
    rm -f "$dir/db" "$dir/db-journal"
    sqlite3 "$dir/db" 'create table t (id integer primary key, content text);'
}
insert_rows() {
    local row
    for ((row = 0; row < transactions; row++)); do
        echo "insert into t (content) values ('$row');"
    done | limited sqlite3 "$dir/db"
}
run_sqlite() { timed_command "$transactions" insert_rows; }
