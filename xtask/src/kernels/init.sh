#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# All that runs in the emulated machine. Each step ends with a line `== NAME: ok` or `== NAME: FAILED`, the last one is `end`.
/bin/busybox mkdir -p /dev /proc /sys /tmp /run
/bin/busybox --install -s /bin
PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
ip link set lo up
# As the unit does: before Linux 5.11 maps are locked memory.
ulimit -l unlimited

log=/tmp/log

step() {
    name=$1
    shift
    if "$@" > /tmp/said 2>&1; then
        echo "== $name: ok ($(cut -d. -f1 /proc/uptime) s)"
    else
        echo "== $name: FAILED"
        cat /tmp/said
        cat $log
    fi
}

start() {
    /nodemesh-agent run --config /mesh.yaml --log nodemesh_agent=debug "$@" > $log 2>&1 &
    agent=$!
    until grep -q ' ready ' $log; do
        kill -0 $agent || return 1
        sleep 0.2
    done
}

# Whether this many streamed requests to the service succeed, where no route leads but the hook's.
asked() {
    /load-client --url http://10.99.0.1:8000 --requests "$1" --max-tokens 4 --connect-timeout 20s | tee /tmp/asked
    grep -q "\"ok\":$1," /tmp/asked
}

# The metrics, as the archive for support has them.
metrics() {
    rm -f /tmp/dump.tar.gz
    /nodemesh sysdump --file /tmp/dump.tar.gz > /tmp/dumped && tar xzOf /tmp/dump.tar.gz
}

# Requests that succeeded, as their packets tell, and connections.
counted() {
    for round in 1 2 3 4 5 6 7 8; do
        metrics > /tmp/metrics
        grep '^nodemesh_requests_total' /tmp/metrics | grep 'outcome="success"' | grep 'vantage="client"' | grep " $1\$" && break
        sleep 1
    done
    grep '^nodemesh_connections_opened_total' /tmp/metrics | grep " $1\$" && [ "$round" != 8 ]
}

killed() {
    kill -9 $agent
    wait $agent
    asked 2
}

# The programs of the former agent stay, and so does what they counted.
restarted() {
    start && counted 5
}

told() {
    /nodemesh status
}

# Where there is no tcx, the rest runs and the status says so.
with_interface() {
    kill $agent
    wait $agent
    insmod /dummy.ko && ip link add cable type dummy && ip link set cable up
    start --packet-interface cable
    asked 1 || return 1
    /nodemesh status | tee /tmp/status
    grep -q 'cable cannot be served: this kernel has no tcx hooks' /tmp/status || grep -q 'on cable;' /tmp/status
}

removed() {
    kill $agent
    wait $agent
    /nodemesh cleanup && ! asked 1
}

/model-server --listen 127.0.0.1:9000 > /tmp/server 2>&1 &
echo "== kernel: Linux $(uname -r)"
step 'check before the start' /nodemesh check
grep -E 'features' /tmp/said
step 'every program loads' start
grep -E ' loaded |meter sees' $log
step 'requests reach the backend' asked 3
step 'they are counted' counted 3
step 'others follow without an agent' killed
step 'the next agent counts on' restarted
step 'status' told
cat /tmp/said
step 'check in flight' /nodemesh check
step 'with an interface to serve' with_interface
cat /tmp/status
step 'cleanup' removed
echo "== end: ok"
poweroff -f
