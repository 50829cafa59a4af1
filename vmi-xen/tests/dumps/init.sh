#!/bin/busybox sh
# SPDX-License-Identifier: GPL-3.0-only
# PID 1 of the guest whose memory is dumped. Starts processes of every kind that
# the engine must understand, then tells on the second serial port, from the
# guest's own /proc, what is true. Lines that start with @ begin a section.
export PATH=/bin
# Leave the initramfs first, as every real system does; pivot_root wants it.
if [ ! -e /switched ]; then
    /bin/busybox mkdir -p /new
    /bin/busybox mount -t tmpfs tmpfs /new
    /bin/busybox cp -a /bin /init /workload /modules /new
    /bin/busybox mkdir -p /new/dev
    /bin/busybox mknod /new/dev/console c 5 1
    /bin/busybox touch /new/switched
    exec /bin/busybox switch_root /new /init
fi
/bin/busybox mkdir -p /proc /sys /dev /tmp /bin /opt/worker /opt/deleted /jail/bin /mnt /etc
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Where systemd still mounts the controllers of version 1 beside version 2.
mkdir -p /tmp/cgroup-v1
mount -t cgroup -o pids pids /tmp/cgroup-v1
exec >/dev/console 2>&1 </dev/console
echo 'root:x:0:0::/:/bin/sh' >/etc/passwd
echo 'worker:x:1000:1000::/:/bin/sh' >>/etc/passwd
echo 'root:x:0:' >/etc/group
echo 'worker:x:1000:' >>/etc/group
echo 'extra:x:2000:worker' >>/etc/group
# Sockets that wait for an answer must outlive a slow dump.
echo 20 >/proc/sys/net/ipv4/tcp_syn_retries
echo 20 >/proc/sys/net/ipv4/tcp_synack_retries
echo 15 >/proc/sys/net/ipv4/tcp_orphan_retries
for module in /modules/*.ko; do insmod "$module"; done

ip link set lo up
ip link add dummy7 type dummy
ip link set dummy7 up
ip addr add 10.9.0.1/24 dev dummy7
ip addr add 10.9.0.2/24 dev dummy7
ip addr add 192.0.2.77/32 dev dummy7
ip -6 addr add fd00:9::1/64 dev dummy7

# Plain, under another user, with awkward arguments.
sleep 1001 &
cp /bin/busybox /opt/worker/busybox
/opt/worker/busybox sleep 1002 &
sh -c 'sleep 1003 & wait' marker 'two words' '' 'naïve' &
start-stop-daemon -S -c 1000:1000 -x /bin/sleep -- 1004 &
sh -c 'sleep 1010 & wait' $(seq 1 3000) &
# An executable that is deleted while it runs.
cp /bin/busybox /opt/deleted/busybox
/opt/deleted/busybox sleep 1005 &
# A chroot, a bind mount, an overlay.
cp /bin/busybox /jail/bin/busybox
chroot /jail /bin/busybox sleep 1006 &
mkdir -p /mnt/bind
mount --bind /opt /mnt/bind
/mnt/bind/worker/busybox sleep 1007 &
mkdir -p /tmp/lower/bin /tmp/upper /tmp/work /mnt/overlay
cp /bin/busybox /tmp/lower/bin/busybox
mount -t overlay overlay -o lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work /mnt/overlay
/mnt/overlay/bin/busybox sleep 1008 &
# A login session.
(echo 4321 >/proc/self/loginuid; exec sleep 1009) &
# Sets of capabilities and groups that all differ; a set-user-ID program; a user
# namespace; a process that is dead and not yet reaped.
/workload capabilities &
mkdir -p /opt/suid
cp /workload /opt/suid/workload
chmod 4755 /opt/suid/workload
su worker -c '/opt/suid/workload hold' &
unshare -U sleep 1012 &
sh -c 'true & exec sleep 1013' &
# A container by version 1 of control groups alone.
(
    id=fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210
    mkdir -p "/tmp/cgroup-v1/docker/$id"
    echo 0 >"/tmp/cgroup-v1/docker/$id/cgroup.procs"
    exec sleep 1014
) &
# A container: own namespaces, a pivoted root, a cgroup that names it.
container=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
mkdir -p "/sys/fs/cgroup/system.slice/docker-$container.scope"
cat >/bin/enter-container <<'END'
#!/bin/sh
dir=/tmp/container
mkdir -p $dir/lower/bin $dir/lower/dev $dir/lower/old $dir/upper $dir/work $dir/root
cp /bin/busybox /workload $dir/lower/bin
mount -t overlay overlay -o lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work $dir/root
ip link set lo up
ip link add eth0 type dummy
ip link set eth0 up
ip addr add 172.17.0.2/16 dev eth0
mknod $dir/root/dev/null c 1 3
cd $dir/root
pivot_root . old || exit 1
exec /bin/busybox sh -c '/bin/busybox umount -l /old
    /bin/workload serve 172.17.0.2:8080 & exec /bin/busybox sleep 1011'
END
chmod 755 /bin/enter-container
(
    echo 0 >"/sys/fs/cgroup/system.slice/docker-$container.scope/cgroup.procs"
    exec unshare -m -n -p -u -f /bin/enter-container
) &

# Sockets.
nc -l -p 7005 &
/workload serve '[::1]:7003' 127.0.0.1:7001 &
sleep 2
/workload connect '[::1]:7003' 127.0.0.1:7001 &
/workload all &
yes >/dev/null &
# Data flow: a pipe, a FIFO, local sockets.
sleep 1012 | sleep 1013 &
mkfifo /tmp/fifo
sleep 1014 >/tmp/fifo &
sleep 1015 </tmp/fifo &
/workload local-serve /tmp/local.sock &
sleep 1
/workload local-connect /tmp/local.sock &
sleep 4
rm /opt/deleted/busybox

exec 3>/dev/ttyS1
stty -F /dev/ttyS1 raw
echo "@release $(uname -r)" >&3
echo "@kallsyms" >&3
awk 'NR % 199 == 1 || $3 ~ /^(_text|_stext|_etext|tcp_connect|finalize_exec|do_exit|commit_creds|entry_SYSCALL_64|init_task|inet_csk_listen_start|linux_banner)$/ { print $1, $2, $3, $4 }' /proc/kallsyms >&3
spaces=
tell() {
    dir=/proc/$1
    echo "@process $1" >&3
    cat $dir/status >&3
    echo "stat $(cat $dir/stat)" >&3
    echo "loginuid $(cat $dir/loginuid)" >&3
    sed 's/^/cgroup /' $dir/cgroup >&3
    exe=$(readlink $dir/exe) || return
    echo "exe $exe" >&3
    echo "root $(readlink $dir/root)" >&3
    echo "cmdline $(base64 -w 0 $dir/cmdline)" >&3
    sed 's/^/maps /' $dir/maps >&3
    for ns in net pid mnt user; do echo "ns $(readlink $dir/ns/$ns)" >&3; done
    for fd in $dir/fd/*; do
        target=$(readlink $fd)
        case $target in
        socket:*) echo "fd ${fd##*/} $target" >&3 ;;
        pipe:* | /tmp/fifo) echo "pipe ${fd##*/} $target" >&3 ;;
        esac
    done
    space=$(readlink $dir/ns/net)
    case "$spaces " in *" $space="*) ;; *) spaces="$spaces $space=$1" ;; esac
}
for process in /proc/[0-9]*; do tell ${process#/proc/}; done
# What does not last is made last, and sockets are told last.
/workload states /tmp/states-ready &
states=$!
while [ ! -e /tmp/states-ready ]; do sleep 1; done
tell $states
for space in $spaces; do
    pid=${space#*=}
    echo "@netns ${space%=*}" >&3
    nsenter -t $pid -n ip -o addr | sed 's/^/addr /' >&3
    for table in tcp tcp6 udp udp6 unix; do sed "s/^/$table /" /proc/$pid/net/$table >&3; done
done
echo "@ready" >&3
while :; do read -r line </dev/console; sleep 100; done
