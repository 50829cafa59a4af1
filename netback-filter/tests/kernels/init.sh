#!/bin/busybox sh
# SPDX-License-Identifier: GPL-3.0-only
# PID 1 of a machine that tries the datapath on its kernel: a guest in a network namespace, its vif in dom0's.
# Tells on the console what came of it, in lines that begin with @.
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin LD_LIBRARY_PATH=/lib
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t bpf bpf /sys/fs/bpf
exec >/dev/ttyS0 2>&1 </dev/null
echo "@kernel $(uname -r)"
for module in /modules/*.ko; do insmod "$module" || echo "@module $module"; done

ip link set lo up
# Its other end is veth0: this ip cannot name it.
ip link add vif1.0 type veth
unshare -n sleep 10000 &
guest=$!
while [ "$(readlink /proc/$guest/ns/net)" = "$(readlink /proc/1/ns/net)" ]; do sleep 1; done
in_guest() { nsenter -t $guest -n "$@"; }
ip link set veth0 netns $guest
ip addr add 10.77.0.2/24 dev vif1.0
ip link set vif1.0 up
in_guest ip addr add 10.77.0.1/24 dev veth0
in_guest ip link set veth0 up
mkdir /www
echo served >/www/page
for port in 7000 7001; do httpd -p $port -h /www; done
serves() { [ "$("$@" timeout 5 wget -q -O - "http://10.77.0.2:$port/page")" = served ] && echo yes || echo no; }

# The guest may connect to 7000.
pins=/sys/fs/bpf/xmesh
try() {
    : >/tmp/said
    /attach $pins vif1.0 7 closed 7000 >/tmp/said 2>&1 &
    attach=$!
    until grep -q '^attached' /tmp/said; do
        kill -0 $attach || { echo "@error $(tail -n 1 /tmp/said)"; return; }
        sleep 1
    done
    echo "@$1 $(grep '^opened' /tmp/said)"
    for port in 7000 7001; do echo "@$1 $port serves: $(serves in_guest)"; done
    port=7001
    echo "@$1 dom0 itself is served: $(serves)"
    sleep 1
    for kind in Start Refused; do echo "@$1 $kind told: $(grep -q "^$kind" /tmp/said && echo yes || echo no)"; done
    kill -9 $attach
    wait $attach
}
# The second one is the daemon that starts anew.
try first
try second
echo "@down: $(/attach $pins down 2>&1 | grep -v ' INFO ')"
echo "@left: $(ls /sys/fs/bpf)"
port=7001
echo "@without us: $(serves in_guest)"
echo "@end"
sleep 1
reboot -f
