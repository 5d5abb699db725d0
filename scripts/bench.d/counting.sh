# shellcheck shell=bash
# What a load costs the daemon of mirrorfs. To be sourced; writes the lines LOAD, KEY, VALUE (tabs
# between) to $results/counts and LOAD, SYSTEM CALL, HOW OFTEN to $results/syscalls.

# counters: a line KEY VALUE for each counter that the daemon tells; FUSE requests as requests.KIND.
counters() {
    "$MIRRORFS" status "$work/mnt/mirrorfs" --json | awk '
        /\{\}/ { next }
        /"counters": \{$/ { inside = 1; next }
        inside && /"requests": \{$/ { prefix = "requests."; next }
        inside && /\}/ { if (prefix == "") exit; prefix = ""; next }
        inside { gsub(/[",:]/, ""); print prefix $1, $2 }' | sort
}

# cpu_ticks PID: user and system time. The second field of stat may hold spaces, and ends with ")".
cpu_ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

begin_counting() {
    counters >"$work/counters.before"
    # The peak begins anew.
    echo 5 >"/proc/$daemon/clear_refs"
    ticks=$(cpu_ticks "$daemon")
}

# end_counting LOAD OPERATIONS
end_counting() {
    local load=$1 operations=$2
    {
        echo "operations $operations"
        echo "cpu_ms $((($(cpu_ticks "$daemon") - ticks) * 1000 / $(getconf CLK_TCK)))"
        awk '$1 == "VmHWM:" { print "peak_kib", $2 }' "/proc/$daemon/status"
        counters | join -a 1 "-" "$work/counters.before" | awk '{ print $1, $2 - $3 }'
    } | awk -v load="$load" -v OFS='\t' '{ print load, $1, $2 }' >>"$results/counts"
}

# begin_tracing: strace counts the daemon's system calls until end_tracing. Every thread has to be held
# by it before the load begins.
begin_tracing() {
    local tries tracer
    strace -f -c -p "$daemon" -o "$work/strace" 2>/dev/null &
    tracer=$!
    echo "$tracer" >"$work/tracer"
    for tries in $(seq 100); do
        grep -q "^TracerPid:[[:space:]]*0$" /proc/"$daemon"/task/*/status || return 0
        kill -0 "$tracer" 2>/dev/null || die "strace cannot hold on to the daemon $daemon"
        sleep 0.1
    done
    die "strace has not got hold of all threads of the daemon $daemon"
}

# end_tracing LOAD OPERATIONS: strace's table has a line per call: % seconds usecs calls [errors] name.
end_tracing() {
    stop_tracing
    printf '%s\t%s\t%s\n' "$1" operations "$2" "$1" traced 1 >>"$results/counts"
    awk -v load="$1" -v OFS='\t' '$1 ~ /^[0-9.]+$/ && $NF != "total" { print load, $NF, $4 }' "$work/strace" \
        >>"$results/syscalls"
}

stop_tracing() {
    [ -e "$work/tracer" ] || return 0
    kill -INT "$(cat "$work/tracer")" 2>/dev/null || true
    wait_until_gone "$(cat "$work/tracer")" || kill -KILL "$(cat "$work/tracer")" 2>/dev/null || true
    rm "$work/tracer"
}
